"""Arithmetic for the comparison of formulas: exact while it is rational, else to many digits.

Values are Fractions, or mpmath numbers of a context of their own; mpmath is imported on the first
irrational value.
"""

import functools
import math
import threading
from fractions import Fraction
from typing import Any

Number = Any
"""A Fraction, or an mpmath number of the Calculator that made it."""

MAX_BITS = 40_000
"""Size of the largest exact number."""


class Unread(Exception):
    """The formula, or its value, is beyond this reader."""


_contexts = threading.local()


def _context(digits: int) -> Any:
    """mpmath with a precision of its own, one for each thread and precision."""
    from mpmath import MPContext

    known: dict[int, Any] = _contexts.__dict__.setdefault("known", {})
    if digits not in known:
        if len(known) > 64:
            known.clear()
        context: Any = MPContext()
        context.dps = digits
        known[digits] = context
    return known[digits]


class Ambiguous(Unread):
    """The formula has two readings. No value of it may be paid."""


class Calculator:
    """Arithmetic with so many digits, and a record of how large and how small values were."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self._low = self._high = 0

    @functools.cached_property
    def mp(self) -> Any:
        return _context(self.digits)

    def note(self, value: Number) -> Number:
        """`value`, remembered in the span; not a number and infinity are Unread."""
        if isinstance(value, Fraction):
            if not value:
                return value
            size = value.numerator.bit_length() - value.denominator.bit_length()
        else:
            if not self.mp.isfinite(value):
                raise Unread
            if not value:
                return value
            size = int(self.mp.mag(value))
        if abs(size) > MAX_BITS:
            raise Unread
        self._low, self._high = min(self._low, size), max(self._high, size)
        return value

    def span(self) -> int:
        """Decimal digits between the largest and the smallest value so far."""
        return int((self._high - self._low) * 0.302) + 1

    def any(self, value: Number) -> Any:
        """`value` as a number of mpmath."""
        if isinstance(value, Fraction):
            return self.mp.mpf(value.numerator) / value.denominator
        return self.mp.mpmathify(value)

    def real(self, value: Number) -> Any:
        number = self.any(value)
        if abs(self.mp.im(number)) > self.mp.mpf(10) ** (-self.digits // 2):
            raise Unread
        return self.mp.re(number)

    def same(self, one: Number, other: Number) -> bool | None:
        """Whether they agree in all digits but those that rounding may have cost."""
        if isinstance(one, Fraction) and isinstance(other, Fraction):
            return one == other
        left, right = self.any(one), self.any(other)
        noise, size = self.mp.mpf(10) ** (-self.span() - 40), max(abs(left), abs(right))
        if size < noise:
            return None  # both are 0 as far as can be seen
        return bool(abs(left - right) <= noise * size)

    def same_product(self, one: tuple[Number, Number], other: tuple[Number, Number]) -> bool | None:
        """`same` for two products."""
        if not all(isinstance(value, Fraction) for value in (*one, *other)):
            one = (self.any(one[0]), self.any(one[1]))
            other = (self.any(other[0]), self.any(other[1]))
        return self.same(one[0] * one[1], other[0] * other[1])

    def positive(self, value: Number) -> bool:
        """Whether a real value is above 0. Raises Unread for a complex one."""
        return bool(self.real(value) > 0)

    def power(self, base: Number, exponent: Number) -> Number:
        exact = isinstance(base, Fraction) and isinstance(exponent, Fraction)
        if exact and exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > MAX_BITS or (not base and exponent <= 0):
                raise Unread
            return base ** int(exponent)
        if not base:
            raise Unread
        size = abs(self.mp.log(abs(self.any(base)))) * abs(self.any(exponent))
        if size > MAX_BITS:
            raise Unread
        return self.mp.power(self.any(base), self.any(exponent))

    def root(self, radicand: Number, degree: int) -> Number:
        """The principal square root; of an odd degree, the real root."""
        if isinstance(radicand, Fraction) and radicand >= 0 and degree == 2:
            top, bottom = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
            if top * top == radicand.numerator and bottom * bottom == radicand.denominator:
                return Fraction(top, bottom)
        value = self.any(radicand)
        if degree == 2:
            return self.mp.sqrt(value)
        real = not self.mp.im(value)
        if real and value < 0 and degree % 2:
            return -self.mp.root(-value, degree)
        return self.mp.root(value, degree)

    def call(self, name: str, argument: Number) -> Number:
        value = self.any(argument)
        if abs(value) > 10**6 and name not in ("ln", "log", "lg"):
            raise Unread
        if name in ("ln", "log", "lg"):
            if not value:
                raise Unread
            # \log alone has no known base: one that no other constant has.
            base = {
                "ln": None,
                "log": self.mp.mpf(7) + self.mp.sqrt(self.mp.mpf(11)) / 10,
                "lg": 10,
            }
            return self.mp.log(value) if base[name] is None else self.mp.log(value, base[name])
        return getattr(self.mp, name)(value)

    def unknown(self, name: str, arguments: list[Number]) -> Number:
        """A value that only the same call has: an arbitrary function of name and arguments."""
        total = self.mp.mpf(sum(ord(c) * 31**k for k, c in enumerate(name[:6])) % 9973)
        for place, argument in enumerate(arguments):
            total += self.mp.sqrt(self.mp.mpf(place + 2)) * self.any(argument)
        return self.mp.sin(total) + 2
