"""Answers as exact numbers: the fast path that decides nearly every math verdict without sympy.

Owns the clean form of an answer's LaTeX and the reading of one number with its unit. Values are
`Fraction`s, so 0.50 equals 1/2 and 3.14 does not equal pi; digits and exponents are capped first.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 200
_MAX_EXPONENT = 400

_CHARACTERS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00d7": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/"}
    | {"π": "\\pi ", "∞": "\\infty ", "°": "^{\\circ}", "²": "^{2}", "³": "^{3}", "√": "\\sqrt "}
    | {"≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "\u222a": "\\cup ", "∩": "\\cap ", "±": "\\pm "}
    | {"½": "\\frac{1}{2}", "\u2019": "'", "\t": " ", "\n": " ", "\r": " "}
)
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|left\b|right\b|[bB]igg?[lr]?\b)|~"
)
_THIN = re.compile(r"\\!|(?<=[0-9])\\,(?=[0-9]{3})")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm)\s*\{([^{}]*)\}")
_BRACED = re.compile(r"\{([^{}]*)\}")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))

_N = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_D = rf"(?:{_N}(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"[-+]?\s*{_D}"
_FRAC = rf"\\frac\s*(?:\{{\s*({_SIGNED})\s*\}}|([0-9]))\s*(?:\{{\s*({_SIGNED})\s*\}}|([0-9]))"
_MONEY = r"(?:\\?\$|€|£)?\s*"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*{_MONEY}(?:"
    rf"(?P<whole>[0-9]+)?\s*{_FRAC}"
    rf"|(?P<mixed>[0-9]+)\s+(?P<mixed_top>[0-9]+)/(?P<mixed_bottom>[0-9]+)"
    rf"|(?P<top>{_D})\s*/\s*(?P<bottom>{_SIGNED})"
    rf"|(?P<head>[0-9]*)\.(?P<fixed>[0-9]*)\\(?:overline|bar|dot)\s*\{{(?P<cycle>[0-9]+)\}}"
    rf"|(?P<base>[0-9]+)\s*\^\s*(?:\{{\s*(?P<power>[-+]?[0-9]+)\s*\}}|(?P<power1>[0-9]))"
    rf"|(?P<mantissa>{_D})(?:[eE](?P<e>[-+]?[0-9]+)"
    rf"|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*(?P<ten>[-+]?[0-9]+)\s*\}}|(?P<ten1>[0-9])))?"
    r")"
)
_UNIT_WORD = re.compile(r"[A-Za-z]+\.?")
_NO_UNITS = (
    "or and not nor to plus minus times over if is but than less more half hundred thousand "
    "million billion trillion dozen percent pct squared modulo mod either maybe"
)
_NOT_UNITS = frozenset(_NO_UNITS.split())


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number (50% is 1/2) with its unit in plain words, "" where none is written."""

    value: Fraction
    unit: str = ""
    evaluated: bool = True
    """False for 84/2 and 2^{10}: right only where the reference leaves as much to be done."""

    def same(self, gold: "Quantity") -> bool:
        """Equal values; units must agree only where both name one."""
        units_agree = not self.unit or not gold.unit or self.unit == gold.unit
        finished = self.evaluated or not gold.evaluated
        return self.value == gold.value and units_agree and finished


def clean(answer: str) -> str | None:
    """One spelling for answers that only look different; None for invisible characters."""
    text = answer.translate(_CHARACTERS)
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text):
        return None
    text = text.strip()
    for _ in range(3):
        for opening, closing in _WRAPPERS:
            size = len(opening) + len(closing)
            if len(text) >= size and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        text = text.rstrip(".,;").strip() if not text.endswith(("\\,", "\\;")) else text
        whole = _TEXT.fullmatch(text) or _BRACED.fullmatch(text)
        text = whole.group(1).strip() if whole else text
    text = _FRACTIONS.sub(r"\\frac", _THIN.sub("", text.replace("{,}", ",")))
    return " ".join(_SPACING.sub(" ", text).split())


def quantity(text: str) -> Quantity | None:
    """The one number that a cleaned `text` is, or None where it is not a plain number.

    Reads integers with thousands separators, decimals (also repeating), fractions, mixed numbers,
    powers and scientific notation, money, percent and a trailing unit.
    """
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    match = _NUMBER.match(text)
    if match is None or len(match.group()) > _MAX_DIGITS:
        return None
    value = _value(match)
    if value is None:
        return None
    if match["sign"] == "-":
        value = -value
    rest = text[match.end() :].strip()
    if rest in ("%", "\\%", "percent", "\\text{ percent}", "\\text{percent}"):
        return Quantity(value / 100)
    unit = _unit(rest, spaced=text[match.end() : match.end() + 1] in (" ", "\\", "^"))
    return None if unit is None else Quantity(value, unit, _evaluated(match, value))


def _evaluated(match: re.Match[str], value: Fraction) -> bool:
    divided = match["top"] is not None or (match["whole"] is None and "frac" in match.group())
    if divided and value.denominator == 1:
        return False
    return match["base"] in (None, "10")


def _value(match: re.Match[str]) -> Fraction | None:
    """The magnitude of a matched number; None for a zero denominator or a capped exponent."""
    top = match.group(3) or match.group(4)
    if top is not None:
        fraction = _divide(top, match.group(5) or match.group(6))
        if match["whole"] is None or fraction is None:
            return fraction
        return None if fraction < 0 else Fraction(match["whole"]) + fraction
    if match["mixed"] is not None:
        fraction = _divide(match["mixed_top"], match["mixed_bottom"])
        return None if fraction is None else Fraction(match["mixed"]) + fraction
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


def _unit(rest: str, spaced: bool) -> str | None:
    """`rest` as a unit in lower case without a plural s, "" for none, None if it is no unit."""
    if not rest:
        return ""
    if rest in ("^\\circ", "^{\\circ}", "\\degree", "\\degrees"):
        return "degree"
    power = re.search(r"\s*\^\s*\{?([23])\}?$", rest)
    body = rest[: power.start()] if power else rest
    inside = _TEXT.fullmatch(body)
    words = (inside.group(1) if inside else body).replace("/", " per ").split()
    if not words or len(words) > 4 or not spaced:
        return None
    for word in words:
        # A bare letter is a variable; in \text{ } it is a unit.
        bare = len(word) == 1 and inside is None
        if bare or not _UNIT_WORD.fullmatch(word) or word.lower().rstrip(".") in _NOT_UNITS:
            return None
    lowered = [word.lower().rstrip(".") for word in words]
    singular = [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in lowered]
    return " ".join(singular) + (f"^{power.group(1)}" if power else "")
