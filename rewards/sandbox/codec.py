"""The closed plain-data codec: the only form in which values cross the wall of the jail.

A value is written as JSON: None, bool, float, str and small int as themselves, all else as
`[tag, body]`. Types are exact (`type(x) is`): a subclass, whose `==` could lie, does not cross; of
the standard library a few plain types do, by value.
Used on both sides. The grader never rebuilds objects from what a program sent: `matches` compares
the wire form with the expected value, so hostile hashes and `__eq__` have nothing to act on. Only
the checker of assert tests, in a jail of its own, decodes what a solution sent.
"""

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

MAX_DEPTH = 60
MAX_NODES = 100_000
MAX_INT_BITS = 20_000
_SMALL = 1 << 53
_SEQUENCES: dict[str, type] = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}
_DICTS: dict[str, type] = {kind.__name__: kind for kind in (dict, Counter, OrderedDict)}
_FACTORIES: dict[str, type] = {
    kind.__name__: kind for kind in (int, float, str, bool, list, tuple, set, dict)
}
"""What a defaultdict may be made with on the other side; any other factory is left behind."""
_LIBRARY = {
    "Decimal": "decimal", "Fraction": "fractions",
    "date": "datetime", "datetime": "datetime", "timedelta": "datetime",
}  # fmt: skip
"""Types whose modules are loaded when one is met: a fresh Python starts without them."""
_MAX_DECIMAL = 1000


class CodecError(ValueError):
    """The value may not cross; the text says why."""


def encode(value: Any) -> Any:
    """The wire form of `value`. Raises CodecError for foreign types and for too large values."""
    return _encode(value, 0, [MAX_NODES])


def _encode(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise CodecError(f"a value of more than {MAX_NODES} parts")
    if depth > MAX_DEPTH:
        raise CodecError(f"a value nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if kind is int:
        if -_SMALL < value < _SMALL:
            return value
        if value.bit_length() > MAX_INT_BITS:
            raise CodecError(f"an int of more than {MAX_INT_BITS} bits")
        return ["int", hex(value)]
    if _SEQUENCES.get(kind.__name__) is kind:
        return [kind.__name__, [_encode(item, depth + 1, budget) for item in value]]
    if _DICTS.get(kind.__name__) is kind:
        return [kind.__name__, _pairs(value, depth, budget)]
    return _encode_rare(value, kind, depth, budget)


def _encode_rare(value: Any, kind: type, depth: int, budget: list[int]) -> Any:
    if kind is bytes or kind is bytearray:
        return [kind.__name__, value.hex()]
    if kind is complex:
        return ["complex", [value.real, value.imag]]
    if kind is defaultdict:
        name = getattr(value.default_factory, "__name__", None)
        known = name in _FACTORIES and _FACTORIES[name] is value.default_factory
        return ["defaultdict", [name if known else None, _pairs(value, depth, budget)]]
    if kind is deque:
        return ["deque", [value.maxlen, [_encode(item, depth + 1, budget) for item in value]]]
    if kind.__name__ in _LIBRARY and kind is _library(kind.__name__):
        return [kind.__name__, _plain_parts(value, kind.__name__, depth, budget)]
    if kind is range:
        parts = (value.start, value.stop, value.step)
        return ["range", [_encode(part, depth + 1, budget) for part in parts]]
    raise CodecError(f"a value of type {str(kind.__name__)[:80]}")


def _library(name: str) -> type:
    return getattr(__import__(_LIBRARY[name]), name)


def _plain_parts(value: Any, name: str, depth: int, budget: list[int]) -> Any:
    if name == "Fraction":
        return [_encode(n, depth + 1, budget) for n in (value.numerator, value.denominator)]
    if name == "timedelta":
        return [value.days, value.seconds, value.microseconds]
    if getattr(value, "tzinfo", None) is not None:
        raise CodecError("a time with a zone")
    text = str(value) if name == "Decimal" else value.isoformat()
    if len(text) > _MAX_DECIMAL:
        raise CodecError(f"a {name} of more than {_MAX_DECIMAL} characters")
    return text


def _pairs(value: Any, depth: int, budget: list[int]) -> list[list[Any]]:
    return [
        [_encode(k, depth + 1, budget), _encode(v, depth + 1, budget)] for k, v in value.items()
    ]


def decode(wire: Any) -> Any:
    """The value of a wire form. Raises CodecError for what `encode` would not have written.

    What a program sent is decoded in a jail only: its keys may be chosen so that a dict is slow.
    """
    try:
        return _decode(wire)
    except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise CodecError(f"a message that is not plain data ({type(error).__name__})") from None


def _decode(wire: Any) -> Any:
    if type(wire) is not list:
        if type(wire) is dict:
            raise TypeError("a bare object")
        return wire
    tag, body = _tagged(wire)
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([_decode(item) for item in _list(body)])
    if tag in _DICTS:
        return _DICTS[tag](_items(body))
    if tag == "int":
        return _number(wire)
    return _decode_rare(tag, body)


def _decode_rare(tag: str, body: Any) -> Any:
    if tag in ("bytes", "bytearray"):
        return (bytes if tag == "bytes" else bytearray).fromhex(body)
    if tag == "Decimal":
        return _number([tag, body])
    if tag in ("date", "datetime"):
        return _library(tag).fromisoformat(_text(body))  # type: ignore[attr-defined]
    parts = _list(body)
    if tag == "complex":
        return complex(*parts)
    if tag == "defaultdict":
        return defaultdict(None if parts[0] is None else _FACTORIES[parts[0]], _items(parts[1]))
    if tag == "deque":
        return deque([_decode(item) for item in _list(parts[1])], parts[0])
    if tag == "timedelta":
        return _library(tag)(*parts)
    return (range if tag == "range" else _library(tag))(*map(_number, parts))


def _items(body: Any) -> dict[Any, Any]:
    return {_decode(key): _decode(value) for key, value in _list(body)}


def _list(body: Any) -> list[Any]:
    if type(body) is not list:
        raise TypeError("not a list")
    return body


def _text(body: Any) -> str:
    if type(body) is not str or len(body) > _MAX_DECIMAL:
        raise TypeError("not a short text")
    return body


def dumps(value: Any) -> bytes:
    """One JSON line; any str survives, lone surrogates included."""
    return json.dumps(value, separators=(",", ":")).encode()


def loads(data: bytes) -> Any:
    """JSON from a hostile sender. Raises CodecError, whatever the bytes are."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError, MemoryError) as error:
        raise CodecError(f"an answer that is not plain data ({type(error).__name__})") from None


def matches(expected: Any, wire: Any) -> bool:
    """Whether a hostile wire form equals `expected` (trusted, plain data); never raises.

    As Python's `==`, but a bool equals only a bool; floats agree to 1e-9 relative (1e-12 near 0)
    and nan with nan; list and tuple are alike, as are set and frozenset, because a reference that
    was read from JSON cannot say which was meant.
    """
    try:
        return _matches(expected, wire)
    except (TypeError, ValueError, LookupError, RecursionError, ArithmeticError):
        return False


def _matches(expected: Any, wire: Any) -> bool:
    if expected is None or type(expected) in (bool, str):
        return type(wire) is type(expected) and wire == expected
    if type(expected) in (int, float) or type(expected).__name__ in ("Decimal", "Fraction"):
        return _same_number(expected, _number(wire))
    tag, body = _tagged(wire)
    if type(expected) in (list, tuple):
        return tag in ("list", "tuple") and _same_items(expected, body)
    if type(expected) is deque:
        return tag == "deque" and _same_items(expected, _list(body)[1])
    if type(expected) in (set, frozenset):
        # Look-ups go into the trusted set, and only its members are kept: a set built of what a
        # program sent could be made quadratic by keys of equal hash.
        if len(_list(body)) != len(expected):
            return False
        hits = {key for key in map(_key, body) if key in expected}
        return tag in ("set", "frozenset") and hits == expected
    if isinstance(expected, dict):
        pairs = body[1] if tag == "defaultdict" else body
        return (tag in _DICTS or tag == "defaultdict") and _same_dict(expected, _list(pairs))
    if type(expected) is complex:
        real, imag = body
        return (
            tag == "complex"
            and _same_number(expected.real, _number(real))
            and _same_number(expected.imag, _number(imag))
        )
    if isinstance(expected, (bytes, bytearray)):
        return tag in ("bytes", "bytearray") and body == expected.hex()
    # ranges and dates have one way to be written each
    return encode(expected) == wire


def _same_items(expected: Any, body: Any) -> bool:
    return len(_list(body)) == len(expected) and all(map(_matches, expected, body))


def _same_dict(expected: dict[Any, Any], body: list[Any]) -> bool:
    if len(body) != len(expected):
        return False
    seen: set[Any] = set()
    for pair in body:
        key = _key(pair[0])
        if len(pair) != 2 or key not in expected or key in seen:
            return False
        seen.add(key)
        if not _matches(expected[key], pair[1]):
            return False
    return True


def _tagged(wire: Any) -> tuple[str, Any]:
    if type(wire) is not list or len(wire) != 2 or type(wire[0]) is not str:
        raise TypeError("not a tagged value")
    return wire[0], wire[1]


def _number(wire: Any) -> Any:
    """An int, float, Decimal or Fraction."""
    if type(wire) in (int, float):
        return wire
    tag, body = _tagged(wire)
    if tag == "Decimal":
        return _library(tag)(_text(body))
    if tag == "Fraction":
        return _library(tag)(*map(_number, _list(body)))
    if tag != "int" or type(body) is not str or len(body) > MAX_INT_BITS // 4 + 8:
        raise TypeError("not a number")
    return int(body, 16)


def _same_number(expected: Any, got: Any) -> bool:
    if type(expected) is not float and type(got) is not float:
        return bool(expected == got)
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    return math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-12)


def _key(wire: Any) -> Any:
    """A hashable value for a look-up: plain scalars, tuples and frozensets of them."""
    if type(wire) is not list:
        return wire
    tag, body = _tagged(wire)
    if tag in ("int", "Decimal", "Fraction"):
        return _number(wire)
    if tag == "bytes":
        return bytes.fromhex(body)
    if tag == "tuple":
        return tuple(_key(item) for item in body)
    if tag == "frozenset" and len(body) <= 64:
        return frozenset(_key(item) for item in body)
    raise TypeError("not a key that can be compared")
