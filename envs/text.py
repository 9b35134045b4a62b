"""Any text and any value, as files, pages, wires and tokenizers can hold it.

What is stored says what was said: JSON with escapes (`to_json`). What is shown has escapes where a
character would steer the viewer (`escaped`). What is sent or encoded is Unicode alone (`sound`):
half of a surrogate pair is no character, so U+FFFD stands for it.

Rows, requests, tool calls and programs may hold any code point and nest to any depth, and one that
cannot be written must not end a run. The standard library only.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

MAX_LEVELS = 100
"""Values that are read may be nested this deep: code that walks them would run out of stack."""
_DEEPEST = 2 * MAX_LEVELS
"""Values that are written are cut here: they hold what was read, some levels further down."""
_CUT = "(nested too deeply to be written)"
_ESCAPED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters but tab and line feed, marks that change the direction of writing, separators
at which some readers end a line, and surrogates."""


def escaped(text: str) -> str:
    r"""`text` with JSON's escapes (`\u202e`) for surrogates and for what would steer a viewer.

    JSON text stays the same JSON. The result can be written as UTF-8.
    """
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def page_text(value: Any) -> Any:
    """`finalize` of a template of HTML: text is escaped, unless it is HTML already."""
    return escaped(value) if type(value) is str else value


def sound(value: Any) -> Any:
    """Text, or plain JSON with text in it, in which U+FFFD stands for each lone surrogate.

    The two halves of a pair become their character. Everything else stays as it is.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, Mapping):
        return {sound(key): sound(item) for key, item in value.items()}
    return [sound(item) for item in value] if isinstance(value, list | tuple) else value


def digest(text: str) -> str:
    """SHA-256 of any text, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON of any value: floats round-trip exactly, non-finite ones become null (JSON has
    none), a value nested more than 200 levels deep becomes a text that says so.

    Lone surrogates are escapes, which `json.loads` reads back.
    """
    return escaped(json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent))


def from_json(text: str | bytes) -> Any:
    """The JSON value that `text` is. Raises ValueError if it is none, or one nested more than 100
    levels deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    layer = [value]
    for _ in range(MAX_LEVELS + 1):
        layer = [inner for item in layer for inner in _items(item)]
        if not layer:
            return value
    raise ValueError(f"nested more than {MAX_LEVELS} levels deep")


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def plain(value: Any, level: int = 0) -> Any:
    """Only what JSON and YAML know: mappings, lists, strings, finite numbers, booleans, None."""
    if isinstance(value, Enum):
        return plain(value.value, level)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if level > _DEEPEST:
        return _CUT
    if isinstance(value, Mapping):
        return {str(key): plain(item, level + 1) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item, level + 1) for item in value]
    return plain(value.item(), level + 1) if hasattr(value, "item") else str(value)
