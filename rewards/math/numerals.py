"""Chinese numerals: 四十二, 一百零五, 两万, 三点一四, 二分之一, 百分之五十, 负七.

Only the full written form is read: a numeral counts where writing its value gives it again, so that
short forms with two readings (一百二) and slips are refused.
"""

import re
from fractions import Fraction

_DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")
_SECTIONS = (("亿", 10**8), ("万", 10**4))
_INTEGER = "[零一二三四五六七八九十百千万亿]+"
_NUMERAL = re.compile(
    rf"(?P<sign>负)?(?:(?P<cent>百分之)(?P<of>{_INTEGER}(?:点[零一二三四五六七八九]+)?)"
    rf"|(?P<bottom>{_INTEGER})分之(?P<top>{_INTEGER})"
    rf"|(?P<whole>{_INTEGER})(?:点(?P<decimals>[零一二三四五六七八九]+))?)"
)
_MAX_LENGTH = 40


def chinese_number(text: str) -> tuple[Fraction, str] | None:
    """The value of the numeral at the beginning of `text`, and what follows it."""
    same = text.replace("\u3007", "零").replace("两", "二")
    match = _NUMERAL.match(same)
    if match is None or match.end() > _MAX_LENGTH:
        return None
    try:
        value = _value(match)
    except (ValueError, ZeroDivisionError):
        return None
    return (-value if match["sign"] else value), text[match.end() :]


def _value(match: re.Match[str]) -> Fraction:
    if match["cent"]:
        whole, _, decimals = match["of"].partition("点")
        return _decimal(whole, decimals) / 100
    if match["bottom"]:
        return Fraction(_integer(match["top"]), _integer(match["bottom"]))
    return _decimal(match["whole"], match["decimals"] or "")


def _decimal(whole: str, decimals: str) -> Fraction:
    digits = "".join(str(_DIGITS.index(c)) for c in decimals)
    return _integer(whole) + Fraction(int(digits or "0"), 10 ** len(digits))


def _integer(numeral: str) -> int:
    value = _read(numeral)
    if numeral.removeprefix("一") not in (_write(value), _write(value).removeprefix("一")):
        raise ValueError(numeral)
    if _write(value) != numeral and not (10 <= value < 20 and numeral == "一" + _write(value)):
        raise ValueError(numeral)
    return value


def _read(numeral: str) -> int:
    for sign, size in _SECTIONS:
        head, found, tail = numeral.rpartition(sign)
        if found:
            return _read(head) * size + (_read(tail) if tail else 0)
    total, digit = 0, 0
    for char in numeral:
        if char in _DIGITS:
            digit = _DIGITS.index(char)
        elif char in _PLACES:
            total += (digit or 1) * 10 ** _PLACES.index(char)
            digit = 0
        else:
            raise ValueError(numeral)
    return total + digit


def _write(value: int) -> str:
    """The one full form: 105 is 一百零五, 10 is 十."""
    if value == 0:
        return "零"
    for sign, size in _SECTIONS:
        if value >= size:
            above, below = divmod(value, size)
            gap = "零" if below and below < size // 10 else ""
            return _write(above) + sign + gap + (_write_inner(below) if below else "")
    return _write_inner(value).removeprefix("一") if 10 <= value < 20 else _write_inner(value)


def _write_inner(value: int) -> str:
    if value >= 10**4:
        return _write(value)
    text, zero = "", False
    for place in (3, 2, 1, 0):
        digit = value // 10**place % 10
        if digit:
            text += ("零" if zero and text else "") + _DIGITS[digit] + _PLACES[place]
        zero = not digit
    return text
