r"""Formulas compared by their values: decides most of what is no plain number without sympy.

Owns a reader of the LaTeX that final answers are written in (+ - * / ^, \frac, \sqrt, \pi, numbers,
one-letter variables) and its value at a few random points, to 60 digits. Formulas that differ there
are different; of formulas of at most 300 characters, those that agree to 45 digits at every point
are equal (Schwartz and Zippel's lemma for polynomials). What it does not read is left to sympy.
"""

import re
from decimal import Context, Decimal, DecimalException, localcontext
from random import Random

_CONTEXT = Context(prec=60)
_SAME = Decimal("1e-45")
_OTHER = Decimal("1e-40")
_POINTS = 3
_MAX_POWER = 1_000
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
_TOKEN = re.compile(
    r"\s*(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(\\[A-Za-z]+)|([A-Za-z])|(.))", re.DOTALL
)
_TIMES = ("\\cdot", "\\times", "*")
_OPENERS = ("(", "{", "\\frac", "\\sqrt", "\\pi")


class _Unread(Exception):
    """The formula, or its value, is beyond this reader."""


def same_value(gold: str, answer: str) -> bool | None:
    """Whether two cleaned formulas have the same value everywhere; None where it cannot be told.

    A variable under a root, or in an exponent, is left to sympy: there it matters what it may be.
    """
    rng = Random(0)
    try:
        with localcontext(_CONTEXT):
            for _ in range(_POINTS):
                point = {c: Decimal(rng.randint(10**8, 10**9)) / 10**8 for c in _LETTERS}
                one, other = _value(gold, point), _value(answer, point)
                size = max(abs(one), abs(other), Decimal(1))
                if abs(one - other) > _OTHER * size:
                    return False
                if abs(one - other) > _SAME * size:
                    return None
    except (_Unread, DecimalException, RecursionError):
        return None
    return True


_LETTERS = "abcdfghjklmnopqrstuvwxyzABCDFGHJKLMNOPQRSTUVWXYZ"
"""Variables: not e, i, E and I, which mean numbers as often."""


def _value(text: str, point: dict[str, Decimal]) -> Decimal:
    reader = _Reader([m.group().strip() for m in _TOKEN.finditer(text)], point)
    value, _ = reader.sum()
    if reader.at() != "":
        raise _Unread
    return value


class _Reader:
    """Recursive descent; every method gives (value, whether it holds a variable)."""

    def __init__(self, tokens: list[str], point: dict[str, Decimal]) -> None:
        self._tokens = [t for t in tokens if t]
        self._place = 0
        self._point = point

    def at(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self, expected: str = "") -> str:
        token = self.at()
        if not token or (expected and token != expected):
            raise _Unread
        self._place += 1
        return token

    def sum(self) -> tuple[Decimal, bool]:
        value, free = self._product()
        while self.at() in ("+", "-"):
            sign = self._take()
            term, more = self._product()
            value, free = (value + term if sign == "+" else value - term), free or more
        return value, free

    def _product(self) -> tuple[Decimal, bool]:
        if self.at() in ("+", "-"):
            sign = self._take()
            value, free = self._product()
            return (-value if sign == "-" else value), free
        value, free = self._power()
        while True:
            token = self.at()
            if token in _TIMES or token == "/":
                self._take()
            elif token in _OPENERS or token in self._point:
                token = "*"  # side by side
            elif token[:1].isdigit():
                raise _Unread  # "2 3": a product, or a slip
            else:
                return value, free
            factor, more = self._power()
            value, free = (value / factor if token == "/" else value * factor), free or more

    def _power(self) -> tuple[Decimal, bool]:
        base, free = self._atom()
        if self.at() != "^":
            return base, free
        self._take()
        exponent, in_exponent = self._argument()
        if in_exponent or self.at() == "^" or abs(exponent) > _MAX_POWER:
            raise _Unread
        whole = exponent == exponent.to_integral_value()
        if not whole and (free or base <= 0):
            raise _Unread
        return base**exponent, free

    def _argument(self) -> tuple[Decimal, bool]:
        r"""What LaTeX takes as an argument: a group, or one character (\frac12, x^2)."""
        if self.at() == "{":
            return self._group("{", "}")
        token = self._take()
        if token.isdigit() and len(token) > 1:
            self._place -= 1
            self._tokens[self._place] = token[1:]
            return Decimal(token[0]), False
        self._place -= 1
        return self._atom()

    def _group(self, opening: str, closing: str) -> tuple[Decimal, bool]:
        self._take(opening)
        inner = self.sum()
        self._take(closing)
        return inner

    def _atom(self) -> tuple[Decimal, bool]:
        token = self.at()
        if token == "(":
            return self._group("(", ")")
        if token == "{":
            return self._group("{", "}")
        self._take()
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            return Decimal(token), False
        if token in self._point:
            return self._point[token], True
        if token == "\\pi":
            return +_PI, False
        if token == "\\frac":
            above, free = self._argument()
            below, more = self._argument()
            return above / below, free or more
        if token == "\\sqrt" and self.at() != "[":
            inner, free = self._argument()
            if free or inner < 0:
                raise _Unread
            return inner.sqrt(), False
        raise _Unread
