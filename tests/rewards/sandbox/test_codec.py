"""The plain-data codec: everything plain crosses unchanged, nothing else crosses at all."""

import datetime
import time
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoint.rewards.sandbox import codec

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
)
_keys = st.integers() | st.text(max_size=4) | st.tuples(st.integers(), st.booleans())
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(_keys, inner, max_size=3)
        | st.sets(_keys, max_size=3)
        | st.frozensets(_keys, max_size=3)
    ),
    max_leaves=12,
)


@given(_values)
@settings(max_examples=150, deadline=None)
def test_plain_data_crosses_unchanged(value: Any) -> None:
    wire = codec.loads(codec.dumps(codec.encode(value)))
    back = codec.decode(wire)
    assert back == value
    assert type(back) is type(value)
    assert codec.matches(value, wire)


def _crossed(value: Any) -> Any:
    return codec.decode(codec.loads(codec.dumps(codec.encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        Counter("aab"),
        OrderedDict(b=2, a=1),
        defaultdict(list, a=[1]),
        deque([1, (2,)], maxlen=5),
        Decimal("2.50"),
        Decimal("-Infinity"),
        Fraction(1, 3 << 70),
        range(2, 1 << 60, 7),
        bytearray(b"ab"),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
        datetime.timedelta(-1, 2, 3),
        [Counter(a=1), {(Fraction(1, 2), "a"): deque()}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_types_of_the_library_cross_by_value(value: Any) -> None:
    back = _crossed(value)
    assert back == value and type(back) is type(value) and repr(back) == repr(value)
    assert codec.matches(value, codec.encode(value))


def test_a_factory_crosses_only_by_a_known_name() -> None:
    assert _crossed(defaultdict(list))["x"] == []
    assert _crossed(defaultdict(lambda: 3, a=1)).default_factory is None


def test_kinds_of_dict_are_alike_where_json_is_expected() -> None:
    for value in (Counter("aab"), OrderedDict(b=1, a=2), defaultdict(int, a=2, b=1)):
        assert codec.matches({"a": 2, "b": 1}, codec.encode(value))
        assert not codec.matches({"a": 2}, codec.encode(value))
        assert codec.matches(value, codec.encode({"a": 2, "b": 1}))


class _LyingCounter(Counter[str]):
    def __eq__(self, other: object) -> bool:
        return True


class _Liar(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def _cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "value",
    [_Liar("x"), _LyingCounter(), object(), len, iter([1]), [_Liar("x")], {"k": object()},
     _cycle(), 1 << 30_000, [0] * 200_000, deque([object()]), Decimal("1" * 2000),
     datetime.datetime.now(datetime.UTC), type("int", (int,), {})(3)],
    ids=["str subclass", "dict subclass", "object", "builtin", "iterator", "inside a list",
         "inside a dict", "cycle", "huge int", "huge list", "inside a deque", "long decimal",
         "a clock with a zone", "a type of the same name"],
)  # fmt: skip
def test_nothing_else_crosses(value: Any) -> None:
    with pytest.raises(codec.CodecError):
        codec.encode(value)


@pytest.mark.parametrize(
    ("expected", "answer", "equal"),
    [
        (4, 4.0, True),
        (4, True, False),
        (True, 1, False),
        (None, 0, False),
        (0, None, False),
        ("", None, False),
        (0.3, 0.1 + 0.2, True),
        (0.3, 0.3001, False),
        (float("nan"), float("nan"), True),
        (1.0, float("nan"), False),
        (float("inf"), float("inf"), True),
        (float("inf"), 1e308, False),
        ([1, 2], (1, 2), True),
        ([1, 2], [2, 1], False),
        ([1, 2], {1, 2}, False),
        ([1], [1, 1], False),
        ([[1], []], [[1], []], True),
        ([], None, False),
        ({1, 2}, frozenset({2, 1}), True),
        ({1, 2}, {1}, False),
        ({"a": [1]}, {"a": (1,)}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({}, [], False),
        ("ab", ["a", "b"], False),
        (b"a", "a", False),
        (2**200, 2**200, True),
        (2**200, 2**200 + 1, False),
        (1 + 2j, 1 + 2j, True),
        (2.5, Decimal("2.5"), True),
        (3, Fraction(6, 2), True),
        (3, Decimal("3.1"), False),
        (Fraction(1, 3), 1 / 3, True),
        (1.0, Decimal("1e999999999"), False),
        (1, Decimal("nan"), False),
        ([0, 1, 2], range(3), False),
        ([0, 1], deque([0, 1]), False),
        (deque([0, 1]), deque([0, 1.0]), True),
        (deque([0, 1]), [0, 1], False),
        (b"a", bytearray(b"a"), True),
    ],
)
def test_comparison(expected: Any, answer: Any, equal: bool) -> None:
    assert codec.matches(expected, codec.loads(codec.dumps(codec.encode(answer)))) is equal


@pytest.mark.parametrize(
    "wire",
    [
        {"a": 1},
        ["list"],
        ["list", None],
        ["list", [1], 2],
        ["dict", [[1]]],
        ["dict", [["a", 1], ["a", 1]]],
        ["set", [1, 1]],
        ["int", "zz"],
        ["int", "0x" + "f" * 100_000],
        ["nothing", []],
        [["list"], []],
        ["set", [["list", []], ["dict", []]]],
        [],
        ["Fraction", [1, 0]],
        ["Fraction", 3],
        ["Decimal", "x"],
        ["Decimal", 1],
        ["deque", [1]],
        ["defaultdict", ["eval", []]],
        ["range", [0, 1, 0]],
        ["date", "2024-02-30"],
        ["timedelta", ["1"]],
        ["Counter", [[["list", []], 1]]],
    ],
)
def test_a_forged_message_equals_nothing(wire: Any) -> None:
    for expected in (1, "a", [1], {"a": 1, "b": 1}, {1, 2}, b"", 1j, None, True, (), 2.5):
        assert not codec.matches(expected, wire)


@pytest.mark.parametrize(
    "wire",
    [{"a": 1}, ["list"], ["list", None], ["dict", [[1]]], ["int", "zz"], ["nothing", []], [],
     ["set", [["list", []]]], ["Fraction", [1, 0]], ["Decimal", "x"], ["Decimal", 1],
     ["deque", [1]], ["defaultdict", ["eval", []]], ["range", [0, 1, 0]], ["date", "2024-02-30"],
     ["timedelta", ["1"]], ["int", "0x" + "f" * 100_000], ["list", [{"a": 1}]], ["bytes", 3]],
)  # fmt: skip
def test_a_forged_message_is_no_value(wire: Any) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(wire)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"", b"1" * 10_000, b'{"a":'])
def test_hostile_bytes_are_a_codec_error(data: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.loads(data)


def test_keys_of_equal_hash_cost_the_grader_nothing() -> None:
    prime = (1 << 61) - 1
    keys = [["int", hex(n * prime)] for n in range(1, 20_001)]
    begun = time.process_time()
    assert not codec.matches(set(range(20_000)), ["set", keys])
    assert not codec.matches(dict.fromkeys(range(20_000)), ["dict", [[k, None] for k in keys]])
    assert time.process_time() - begun < 2, "quadratic"
