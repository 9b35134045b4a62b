"""Answers as exact numbers: the fast path that decides nearly every math verdict without sympy.

Owns the reading of one number with its unit. Values are `Fraction`s, so 0.50 equals 1/2 and 3.14
does not equal pi; digits and exponents are capped first.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from conjoint.rewards.math.numerals import chinese_number
from conjoint.rewards.math.units import CURRENCY, read_unit

_MAX_DIGITS = 200
_MAX_EXPONENT = 400
_N = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])|[0-9]+)"
_D = rf"(?:{_N}(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"[-+]?\s*{_D}"
_FRAC = (
    rf"\\frac\s*(?:\{{\s*(?P<up>{_SIGNED})\s*\}}|(?P<up1>[0-9]))"
    rf"\s*(?:\{{\s*(?P<low>{_SIGNED})\s*\}}|(?P<low1>[0-9]))"
)
_MONEY = r"(?P<money>\\?\$|€|£|¥)?\s*"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*{_MONEY}(?P<inner>(?<![0-9+-])(?<=[$€£¥])-)?(?:"
    rf"(?P<whole>[0-9]+)?\s*{_FRAC}"
    rf"|(?P<mixed>[0-9]+)\s+(?P<mixed_top>[0-9]+)/(?P<mixed_bottom>[0-9]+)"
    rf"|(?P<top>{_D})\s*/\s*(?P<bottom>{_SIGNED})"
    rf"|(?P<head>[0-9]*)\.(?P<fixed>[0-9]*)\\(?:overline|bar|dot)\s*\{{(?P<cycle>[0-9]+)\}}"
    rf"|(?P<base>[0-9]+)\s*\^\s*(?:\{{\s*(?P<power>[-+]?[0-9]+)\s*\}}|(?P<power1>[0-9]))"
    rf"|(?P<mantissa>{_D})(?:[eE](?P<e>[-+]?[0-9]+)"
    rf"|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*(?P<ten>[-+]?[0-9]+)\s*\}}|(?P<ten1>[0-9])))?"
    r")"
)
_EUROPEAN = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}(?:(?:\.[0-9]{3})+,[0-9]+|(?:\.[0-9]{3}){2,})(?![0-9.,])"
)
_DECIMAL_COMMA = re.compile(r"([-+]?(?:0|[1-9][0-9]*)),([0-9]+)(?![0-9.,])")
_BASED = re.compile(r"(-?)\(?([0-9][0-9A-Z]*|[0-9A-F]{2,}(?=\)?_\{16\}))\)?_\{?([0-9]{1,2})\}?")
_IGNORED = ("each", "total", "altogether", "共", "una", "uno")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number (50% is 1/2) with its unit in plain words, "" where none is written."""

    value: Fraction
    unit: str = ""
    evaluated: bool = True
    """False for 84/2 and 2^{10}: right only where the reference leaves as much to be done."""

    def same(self, gold: "Quantity") -> bool:
        """Equal values; units must agree only where both name one, a number's base always."""
        based = (self.unit + gold.unit).find("base") >= 0
        units_agree = self.unit == gold.unit or (not based and (not self.unit or not gold.unit))
        finished = self.evaluated or not gold.evaluated
        return self.value == gold.value and units_agree and finished


def quantity(text: str) -> Quantity | None:
    """The one number that a cleaned `text` is, or None where it is not a plain number.

    Reads integers with thousands separators, decimals (also repeating), fractions, mixed numbers,
    powers and scientific notation, numbers in another base (1011_2), Chinese numerals, money,
    percent and a trailing unit.
    """
    if len(text) > 2 * _MAX_DIGITS:
        return None
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1 and "," not in text:
        text = text[1:-1].strip()
    if based := _BASED.fullmatch(text.replace(" ", "")):
        return _based(*based.groups())
    text = _EUROPEAN.sub(lambda m: m[0].replace(".", "").replace(",", "."), text)
    match = _NUMBER.match(text)
    if match is None:
        chinese = chinese_number(text)
        return chinese and _with_unit(chinese[0], chinese[1].strip(), True, "", True)
    if len(match.group()) > _MAX_DIGITS or (value := _value(match)) is None:
        return None
    if "-" in (match["sign"], match["inner"]):
        value = -value
    spaced = text[match.end() : match.end() + 1] in (" ", "\\", "^", "$", "€", "£", "¥")
    money = CURRENCY.get(match["money"] or "", "")
    rest = text[match.end() :].strip()
    return _with_unit(value, rest, spaced, money, _evaluated(match, value))


def decimal_comma(text: str) -> Quantity | None:
    """`3,5` and `3,5 metros` as 3.5, where the comma can separate no thousands; else None."""
    match = _DECIMAL_COMMA.match(text)
    if match is None or (len(match[2]) == 3 and match[1].lstrip("+-") != "0"):
        return None
    return quantity(f"{match[1]}.{match[2]}{text[match.end() :]}")


def _with_unit(
    value: Fraction, rest: str, spaced: bool, money: str, evaluated: bool
) -> Quantity | None:
    read = read_unit(rest, spaced)
    if read is None:
        return None
    if isinstance(read, str):
        return None if money else Quantity(value / 100)
    unit, factor = read
    words = [word for word in unit.split() if word not in _IGNORED]
    if money and words[:1] != [money]:
        words = [money, *words]
    return Quantity(value * factor, " ".join(words), evaluated)


def _based(sign: str, digits: str, base: str) -> Quantity | None:
    try:
        value = int(digits, int(base))
    except ValueError:
        return None
    unit = "" if base == "10" else f"base {int(base)}"
    return Quantity(Fraction(-value if sign else value), unit)


def _evaluated(match: re.Match[str], value: Fraction) -> bool:
    divided = match["top"] is not None or (match["whole"] is None and "frac" in match.group())
    if divided and value.denominator == 1:
        return False
    return match["base"] in (None, "10")


def _value(match: re.Match[str]) -> Fraction | None:
    """The magnitude of a matched number; None for a zero denominator or a capped exponent."""
    top = match["up"] or match["up1"]
    if top is not None:
        fraction = _divide(top, match["low"] or match["low1"])
        if match["whole"] is None or fraction is None:
            return fraction
        return Fraction(match["whole"]) + fraction if 0 < fraction < 1 else None
    if match["mixed"] is not None:
        fraction = _divide(match["mixed_top"], match["mixed_bottom"])
        return Fraction(match["mixed"]) + fraction if fraction and fraction < 1 else None
    if match["top"] is not None:
        return _divide(match["top"], match["bottom"])
    if match["cycle"] is not None:
        return _repeating(match["head"], match["fixed"], match["cycle"])
    if match["base"] is not None:
        return _power(Fraction(match["base"]), int(match["power"] or match["power1"]))
    exponent = match["e"] or match["ten"] or match["ten1"]
    mantissa = _decimal(match["mantissa"])
    if exponent is None:
        return mantissa
    scale = _power(Fraction(10), int(exponent))
    return None if scale is None else mantissa * scale


def _decimal(digits: str) -> Fraction:
    return Fraction("".join(digits.replace(",", "").split()).rstrip("."))


def _divide(top: str, bottom: str) -> Fraction | None:
    below = _decimal(bottom)
    return _decimal(top) / below if below else None


def _power(base: Fraction, exponent: int) -> Fraction | None:
    if abs(exponent) > _MAX_EXPONENT or base.numerator > 10**6 or (not base and exponent <= 0):
        return None
    return base**exponent


def _repeating(head: str, fixed: str, cycle: str) -> Fraction:
    """0.1666... is 1/10 + 6/90: the cycle over 99..9, moved right by the fixed digits."""
    shift = 10 ** len(fixed)
    return Fraction(int(head + fixed or "0"), shift) + Fraction(
        int(cycle), (10 ** len(cycle) - 1) * shift
    )
