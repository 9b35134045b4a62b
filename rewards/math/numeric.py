r"""Formulas compared by their values: decides most of what is no plain number without sympy.

Two formulas are compared at a few random points for their variables. Rational values are exact
(Python's integers and fractions); the rest is computed with as many digits as the span of its
intermediate values asks for, so that neither a tiny nor a huge term can hide a difference. Formulas
that differ at a point are different; those that agree at every point are equal (Schwartz and
Zippel's lemma for polynomials). `formula.py` reads them; what it does not read is left to sympy.
"""

from fractions import Fraction
from random import Random

from conjoint.rewards.math.calculator import Ambiguous, Calculator, Number, Unread
from conjoint.rewards.math.formula import matrix_order, value_of, variables

_POINTS = 3
_FIRST_DIGITS = 120
_MORE_DIGITS = 60
"""Digits beyond twice the span (in digits) of the values that a formula goes through."""
_MAX_SPAN = 1_500
_MAX_LENGTH = 1_000
"""Characters of one formula. Longer ones are not read."""


def same_value(gold: str, answer: str) -> bool | None:
    """Whether two cleaned formulas have the same value everywhere; None where it cannot be told.

    The first point is positive in every variable. What agrees there and not where a variable is
    negative is not told: it matters what the variables may be.
    """
    if matrix_order(gold) != matrix_order(answer):
        return False  # matrices do not commute
    try:
        found = _values(gold, answer)
    except Ambiguous:
        return False
    if found is None:
        return None
    values, calculator = found
    agree = [calculator.same(one, other) for one, other in values]
    if None in agree:
        return None
    return True if all(agree) else (None if agree[0] else False)


def same_relation(gold: tuple[str, str], answer: tuple[str, str], ordered: bool) -> bool | None:
    """Whether left - right of two relations are constant multiples of each other.

    With `ordered` (an inequality) the factor must be positive.
    """
    try:
        found = _values(f"({gold[0]})-({gold[1]})", f"({answer[0]})-({answer[1]})")
    except Ambiguous:
        return False
    if found is None:
        return None
    values, calculator = found
    (one, other), *rest = values
    if not rest or not one or not other:
        return None
    agree = [calculator.same_product((one, right), (other, left)) for left, right in rest]
    if not all(agree):
        return None if None in agree else False
    return not ordered or calculator.positive(one) == calculator.positive(other)


def evaluate(text: str) -> Number | None:
    """The value of a formula without variables, or None. Exact where it is rational."""
    try:
        if len(text) <= _MAX_LENGTH and not variables(text):
            return value_of(text, {}, Calculator(_FIRST_DIGITS))
    except (Unread, ArithmeticError, ValueError, RecursionError):
        pass
    return None


def close(exact: str, rounded: str) -> bool:
    """Whether the decimal `rounded` is formula `exact` rounded, or cut, at the decimal's end."""
    one, other = evaluate(exact), evaluate(rounded)
    if one is None or not isinstance(other, Fraction):
        return False
    calculator = Calculator(_FIRST_DIGITS)
    try:
        exactly = one if isinstance(one, Fraction) else calculator.real(one)
        units = (exactly if other >= 0 else -exactly) * 10 ** len(rounded.partition(".")[2])
        shown = abs(other) * 10 ** len(rounded.partition(".")[2])
        left = units - (shown if isinstance(units, Fraction) else calculator.any(shown))
        return bool(-0.5 <= left < 1)
    except Unread:
        return False


def _values(gold: str, answer: str) -> tuple[list[tuple[Number, Number]], Calculator] | None:
    """Both formulas' values at each point, with the digits that telling them apart takes.

    Raises Ambiguous.
    """
    if len(gold) > _MAX_LENGTH or len(answer) > _MAX_LENGTH:
        return None
    digits = _FIRST_DIGITS
    try:
        points = _random_points(sorted(variables(gold) | variables(answer)))
        for _ in range(2):
            calculator = Calculator(digits)
            values = [
                (value_of(gold, point, calculator), value_of(answer, point, calculator))
                for point in points
            ]
            needed = 2 * calculator.span() + _MORE_DIGITS
            exact = all(isinstance(v, Fraction) for pair in values for v in pair)
            if exact or needed <= digits:
                return values, calculator
            if calculator.span() > _MAX_SPAN:
                return None
            digits = _FIRST_DIGITS << (needed // _FIRST_DIGITS).bit_length()
    except Ambiguous:
        raise
    except (Unread, ArithmeticError, ValueError, RecursionError):
        pass
    return None


def _random_points(names: list[str]) -> list[dict[str, Fraction]]:
    """Points between 1 and 9 in size: all positive, all negative, then of random signs."""
    rng = Random(0)
    points = []
    for index in range(_POINTS if names else 1):
        point = {}
        for name in names:
            sign = (1, -1)[index] if index < 2 else rng.choice((1, -1))
            point[name] = Fraction(sign * rng.randint(1_030, 9_000), 1_024)
        points.append(point)
    return points
