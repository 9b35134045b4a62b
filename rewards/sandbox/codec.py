"""The closed plain-data codec: the only form in which values cross the wall of the jail.

A value is written as JSON: None, bool, float, str and small int as themselves, all else as
`[tag, body]`. Types are exact (`type(x) is`): a subclass, whose `==` could lie, does not cross; the
library's own dict types cross as dict.
Used on both sides. The grader never rebuilds objects from what a program sent: `matches` compares
the wire form with the expected value, so hostile hashes and `__eq__` have nothing to act on.
"""

import json
import math
from collections import Counter, OrderedDict, defaultdict
from typing import Any

MAX_DEPTH = 60
MAX_NODES = 100_000
MAX_INT_BITS = 20_000
_SMALL = 1 << 53
_DICTS = (dict, Counter, OrderedDict, defaultdict)
"""Types that cross as a plain dict, which they equal in Python too."""


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
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind is complex:
        return ["complex", [value.real, value.imag]]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [_encode(item, depth + 1, budget) for item in value]]
    if kind in _DICTS:
        pairs = [
            [_encode(k, depth + 1, budget), _encode(v, depth + 1, budget)] for k, v in value.items()
        ]
        return ["dict", pairs]
    raise CodecError(f"a value of type {str(kind.__name__)[:80]}")


def decode(wire: Any) -> Any:
    """The value of a wire form that this project wrote (arguments on their way in)."""
    if type(wire) is not list:
        return wire
    tag, body = wire
    if tag == "int":
        return int(body, 16)
    if tag == "bytes":
        return bytes.fromhex(body)
    if tag == "complex":
        return complex(*body)
    if tag == "dict":
        return {decode(k): decode(v) for k, v in body}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](
        [decode(item) for item in body]
    )


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
    except (TypeError, ValueError, KeyError, IndexError, RecursionError, OverflowError):
        return False


def _matches(expected: Any, wire: Any) -> bool:
    if expected is None or type(expected) in (bool, str):
        return type(wire) is type(expected) and wire == expected
    if type(expected) in (int, float):
        return _same_number(expected, _number(wire))
    tag, body = _tagged(wire)
    if type(expected) is bytes:
        return tag == "bytes" and body == expected.hex()
    if type(expected) is complex:
        real, imag = body
        return (
            tag == "complex"
            and _same_number(expected.real, _number(real))
            and _same_number(expected.imag, _number(imag))
        )
    if type(body) is not list or len(body) != len(expected):
        return False
    if type(expected) in (list, tuple):
        return tag in ("list", "tuple") and all(map(_matches, expected, body))
    if type(expected) in (set, frozenset):
        # Look-ups go into the trusted set, and only its members are kept: a set built of what a
        # program sent could be made quadratic by keys of equal hash.
        hits = {key for key in map(_key, body) if key in expected}
        return tag in ("set", "frozenset") and hits == expected
    if type(expected) is dict:
        return tag == "dict" and _same_dict(expected, body)
    return False


def _same_dict(expected: dict[Any, Any], body: list[Any]) -> bool:
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


def _number(wire: Any) -> int | float:
    if type(wire) in (int, float):
        return wire
    tag, body = _tagged(wire)
    if tag != "int" or type(body) is not str or len(body) > MAX_INT_BITS // 4 + 8:
        raise TypeError("not a number")
    return int(body, 16)


def _same_number(expected: int | float, got: int | float) -> bool:
    if type(expected) is int and type(got) is int:
        return expected == got
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    return math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-12)


def _key(wire: Any) -> Any:
    """A hashable value for a look-up: plain scalars, tuples and frozensets of them."""
    if type(wire) is not list:
        return wire
    tag, body = _tagged(wire)
    if tag == "int":
        return _number(wire)
    if tag == "bytes":
        return bytes.fromhex(body)
    if tag == "tuple":
        return tuple(_key(item) for item in body)
    if tag == "frozenset" and len(body) <= 64:
        return frozenset(_key(item) for item in body)
    raise TypeError("not a key that can be compared")
