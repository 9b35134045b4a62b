"""What counts as the right output of a script: the checkers of `stdio` tests.

Owns their names, their options and the comparisons, which run here on bytes that a program wrote.
A checker that is a program itself runs in a jail of its own, never here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(rb"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
_INTEGER = re.compile(rb"[-+]?[0-9]+")
_MAX_NUMBER = 400
"""Characters of a number that is read as one."""


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How outputs are compared.

    `exact`: line by line, but for blanks at the ends of lines, CR LF and empty lines at the end.
    `tokens`: what stands between white space. `floats`: likewise, but where both tokens are
    numbers they may differ by `tolerance`, absolutely or relative to the expected one; two
    integers may not. `program`: `source` defines `check(input, output, expected)`, three texts,
    which returns True or False.
    """

    type: str = "exact"
    tolerance: float = 1e-6
    source: str = ""

    def same(self, expected: bytes, got: bytes) -> bool:
        """Not for type `program`."""
        if self.type == "exact":
            return same_output(expected, got)
        wanted, tokens = expected.split(), got.split()
        if self.type == "tokens":
            return wanted == tokens
        return len(wanted) == len(tokens) and all(map(self._same_number, wanted, tokens))

    def _same_number(self, expected: bytes, got: bytes) -> bool:
        if expected == got:
            return True
        integers = _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(got)
        if integers or len(got) > _MAX_NUMBER:
            return False
        if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(got)):
            return False
        wanted = float(expected)
        # Relative to the expected number alone: a huge answer must not widen its own tolerance.
        return math.isfinite(wanted) and abs(float(got) - wanted) <= self.tolerance * max(
            1.0, abs(wanted)
        )


_OPTIONS = {"exact": (), "tokens": (), "floats": ("tolerance",), "program": ("source",)}


def output_check(tests: Mapping[str, Any]) -> OutputCheck:
    """The checker of `stdio` tests: a name, or an object with `type` and the type's options.

    Raises ValueError naming the field that is wrong.
    """
    where, given = "reference.tests.checker", tests.get("checker", "exact")
    options = dict(given) if isinstance(given, Mapping) else {"type": given}
    kind = options.pop("type", None)
    if not isinstance(kind, str) or kind not in _OPTIONS:
        known = ", ".join(_OPTIONS)
        raise ValueError(f"{where}: type is {kind!r:.80}; expected one of {known}")
    if unknown := [key for key in options if key not in _OPTIONS[kind]]:
        raise ValueError(f"{where}: {unknown[0]!r:.80} is not an option of type '{kind}'")
    tolerance = options.get("tolerance", 1e-6)
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not (number and 0 <= tolerance < math.inf):
        raise ValueError(f"{where}: 'tolerance' is {tolerance!r:.80}; expected a number from 0")
    source = options.get("source", "")
    if kind == "program" and not (isinstance(source, str) and "check" in source):
        raise ValueError(
            f"{where}: 'source' must be a Python program that defines check(input, output, "
            "expected)"
        )
    return OutputCheck(kind, float(tolerance), source)


def same_output(expected: bytes, got: bytes) -> bool:
    """Equal bytes, but for blanks at the ends of lines, CR LF, and empty lines at the end."""
    return _lines(expected) == _lines(got)


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip(b" \t\r") for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
