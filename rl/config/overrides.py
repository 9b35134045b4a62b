"""What a user types after `conjoint train`: each KEY=VALUE is checked against the config's
dataclasses before Hydra sees it, so that a mistake is one plain sentence."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from conjoint.envs.types import ConjointError

_KEY = re.compile(r"[A-Za-z_][\w.-]*")

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text (quote it if it looks like something else)",
    "list": "a list, such as [a,b]",
    "tuple": "a list of two numbers, such as [0,10]",
    "dict": "keys and values",
    "dataclass": "keys and values",
}
"""First word of a pydantic error type -> what the key takes."""


def checked(override: str, config: type, groups: Mapping[str, list[str]]) -> str:
    """The override for Hydra, which adds keys of open dictionaries without being asked twice.

    `groups` maps a config group to its files. Raises ConjointError.
    """
    bare = override.lstrip("+~")
    key, equals, value = bare.partition("=")
    removes = override.startswith("~")
    if not _KEY.fullmatch(key) or not (equals or removes):
        raise ConjointError(
            f"{override!r} is not KEY=VALUE; write a key, an equals sign and a value, such as "
            "num_steps=10"
        )
    if key in groups and not removes:
        if value not in (*groups[key], "null"):
            kind = "experiment" if key == "experiment" else f"configuration of {key}"
            raise ConjointError(
                f"there is no {kind} named {value!r}; {suggest(value, groups[key])}"
            )
        return bare
    check_key(key, config)
    return f"~{bare}" if removes else f"++{bare}"


def check_key(key: str, config: type, above: str = "") -> None:
    """Walks a dotted key down the dataclasses. Raises ConjointError at the first unknown part."""
    part, _, rest = key.partition(".")
    hints = get_type_hints(config)
    if part not in hints:
        raise ConjointError(unknown_key(above, part, hints))
    here = f"{above}.{part}" if above else part
    inside = dataclass_in(hints[part])
    if is_dict(hints[part]):
        # The next part names an entry; what is inside one is known only for dataclasses.
        name, _, rest = rest.partition(".")
        here = f"{here}.{name}"
        if inside is None:
            return
    elif inside is None and rest:
        raise ConjointError(f"{here} takes a value and has no key {rest!r} inside")
    if inside is not None and rest:
        check_key(rest, inside, here)


def unknown_key(above: str, key: str, known: Iterable[str]) -> str:
    prefix = f"{above}." if above else ""
    names = [f"{prefix}{name}" for name in known]
    return f"unknown config key {prefix}{key}; {suggest(prefix + key, names)}"


def suggest(word: str, known: Iterable[str]) -> str:
    """The nearest known word, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def type_error(path: str, value: Any, kind: str, message: str) -> str:
    """One sentence for a value of the wrong type; `kind` and `message` are pydantic's."""
    expected = _EXPECTED.get(kind.partition("_")[0])
    return f"{path}={value!r}: {f'expected {expected}' if expected else message}"


def refuse_unknown(cls: type, data: Any, where: str = "") -> None:
    """Every key of a nested mapping must be a field; numbers must not be true or false."""
    if not isinstance(data, Mapping):
        raise ConjointError(f"{where or 'config'}={data!r}: expected keys and values")
    hints = get_type_hints(cls)
    for key, value in data.items():
        if key not in hints:
            raise ConjointError(unknown_key(where, str(key), hints))
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, bool) and hints[key] in (int, float):
            kind = hints[key].__name__
            raise ConjointError(type_error(path, value, kind, ""))
        nested = dataclass_in(hints[key])
        if nested is None or value is None:
            continue
        if not is_dict(hints[key]):
            refuse_unknown(nested, value, path)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                refuse_unknown(nested, item, f"{path}.{name}")


def is_dict(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is dict


def dataclass_in(hint: Any) -> type | None:
    """The dataclass that a field holds, by itself or as the values of a dictionary."""
    candidates = (hint, *getattr(hint, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and is_dataclass(c)), None)


def unreadable(override: str) -> str:
    """For what Hydra's grammar refuses."""
    key = override.lstrip("+~").partition("=")[0]
    return (
        f"the value of {override.lstrip('+~')} cannot be read; put text with special characters in "
        f"double quotes inside single ones: {key}='\"VALUE\"'"
    )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
