"""Units and words behind a number: what they are called, and what they do to it.

A unit is any noun (`42 apples`), in one name for each of the usual ones (`cm`, `centimeters`,
`厘米`). Words that change the number are either read (`12 thousand` is 12000, 12万 is 120000) or no
unit (`12 thirds`, `12 or so`, `12 squared`), so that no answer is paid for its digits alone.
"""

import re

_NAMES = """
cm centimeter centimetre centímetro centimetro 厘米 公分 | mm millimeter millimetre milímetro 毫米
m meter metre metro 米 | km kilometer kilometre kilómetro 千米 公里 | in inch inche pulgada 英寸
ft foot feet pie 英尺 | mi mile milla 英里 | yd yard yarda
g gram gramo 克 | kg Kg kilogram kilo kilogramo 千克 公斤 | mg milligram 毫克 | lb lbs libra 磅
l L liter litre litro 升 | ml mL milliliter millilitre mililitro 毫升
s sec secs second segundo 秒 | min mins minute minuto 分钟 | h hr hrs hour hora 小时
d day día dia 天
week semana 周 星期 | month mes mese 个月 | year yr año 年
dollar USD usd dólar dolar 美元 | cent centavo 美分 | euro EUR 欧元
poundsterling GBP 英镑 | yuan RMB 元 人民币 | yen 日元 円
degree deg grado 度 | radian rad 弧度 | per por 每 | square sq cuadrado 平方 | cubic cu cúbico 立方
person people persona 人 | child children niño | apple manzana 苹果
""".replace("\n", " | ")
_ALIASES = {
    name: names.split()[0] for names in _NAMES.split("|") if names.strip() for name in names.split()
}
CURRENCY = {"$": "dollar", "\\$": "dollar", "€": "euro", "£": "poundsterling", "¥": "yuan"}
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "lakh": 10**5, "crore": 10**7, "mil": 10**3, "millón": 10**6, "millone": 10**6,
    "万": 10**4, "亿": 10**8, "百万": 10**6, "千万": 10**7, "docena": 12,
}  # fmt: skip
_NO_UNITS = (
    "or and not nor no to plus minus times time over if is are but than less more fewer "
    "percent pct percentage permille ppm basis bps squared cubed root factorial fold double "
    "twice thrice triple modulo mod either maybe half halve pair couple score gross ten "
    "quarter base binary octal hexadecimal hex about around approx approximately roughly "
    "almost nearly least most wrong incorrect false without except excluding negative below "
    "above under between until wait then by k bn mn mln tn infinity zero one two three four "
    "five six seven eight nine eleven twelve point divided multiplied equal instead rather "
    "actually grand o y ni más menos medio media mitad tercio cuarto quinto décimo vece doble "
    "excepto casi "
)
_NOT_UNITS = frozenset(_NO_UNITS.split())
_NUMERAL = re.compile(
    r"third|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie|hundred|thousand|million"
    r"|billion|trillion|lakh|dozen)th|(?:thir|four|fif|six|seven|eigh|nine)teen|\w+ésim[oa]|\w+avo"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
)
_CJK_NOT = re.compile("[零〇一二三四五六七八九十百千万亿兆半分倍成折多余约几不非负到至或和点]")
_CJK_KEEP = re.compile("千米|千克|分钟|千瓦|百分")
_WORD = re.compile(r"[^\W\d_]+")
_POWERS = re.compile(r"\^\s*\{?\s*(-?[0-9])\s*\}?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm)\s*\{([^{}]*)\}")
_RATIO = re.compile(
    r"\\frac\s*\{([^{}]*(?:\{[^{}]*\})?[^{}]*)\}\s*\{([^{}]*(?:\{[^{}]*\})?[^{}]*)\}"
)
_PER_CENT = frozenset(("%", "percent", "per cent", "por ciento", "pct"))
_MAX_WORDS = 6


def read_unit(rest: str, spaced: bool) -> tuple[str, int] | str | None:
    """(unit, factor) of what follows a number, "%" for percent, None where it is no unit.

    `spaced`: whether anything but letters stands between the number and `rest`.
    """
    if not rest:
        return "", 1
    if rest in CURRENCY:
        return CURRENCY[rest], 1
    if rest == "^{\\circ}":
        return "degree", 1
    if ratio := _RATIO.fullmatch(rest):
        if not all(_TEXT.search(part) for part in ratio.groups()):
            return None
        rest = f"{ratio[1]} per {ratio[2]}"
    inside = bool(_TEXT.search(rest))
    plain = _TEXT.sub(r" \1 ", rest).replace("\\cdot", " ").replace("/", " per ").strip()
    plain = re.sub(r" +\^", "^", " ".join(plain.split()))
    if plain.lower().rstrip(".") in _PER_CENT:
        return "%"
    chinese = "\u4e00" <= plain[:1] <= "\u9fff"
    if not (spaced or inside or chinese or (len(plain) > 1 and plain in _ALIASES)):
        return None
    return _words(plain, inside, chinese)


def _words(plain: str, inside: bool, chinese: bool) -> tuple[str, int] | None:
    factor, names = 1, []
    if chinese:
        for scale in ("百万", "千万", "万", "亿"):
            if plain.startswith(scale):
                factor, plain = _SCALES[scale], plain[len(scale) :]
                break
        if _CJK_NOT.search(_CJK_KEEP.sub("", plain)):
            return None
        plain = plain.removeprefix("个")
        plain = plain.replace("平方", "平方 ", 1).replace("立方", "立方 ", 1)
    words = plain.split()
    if len(words) > _MAX_WORDS:
        return None
    for place, word in enumerate(words):
        power = _POWERS.search(word)
        bare = (word[: power.start()] if power else word).rstrip(".")
        if (power and power.end() != len(word)) or not _WORD.fullmatch(bare):
            return None
        singular = _singular(bare)
        if singular in _SCALES and not names:
            factor *= _SCALES[singular]
            continue
        # A bare letter is a variable; in \text{ } and behind "/" it is a unit.
        beside = words[max(place - 1, 0) : place + 2]
        written = inside or chinese or "per" in beside
        if len(bare) == 1 and not written:
            return None
        if {singular, bare.lower()} & _NOT_UNITS or _NUMERAL.fullmatch(singular):
            return None
        names.append(_ALIASES.get(singular, singular) + (f"^{power[1]}" if power else ""))
    if names[:1] in (["of"], ["de"]):
        names = names[1:]
    return _standard(names), factor


def _singular(word: str) -> str:
    """In lower case without a plural s; what may be an abbreviation (MW, mW) as it is."""
    if len(word) <= 3:
        return word
    return word.lower().removesuffix("s")


def _standard(names: list[str]) -> str:
    """`square cm` and `cm^2` are one unit."""
    for word, power in (("square", 2), ("cubic", 3)):
        for first, second in ((0, 1), (1, 0)):
            if len(names) == 2 and names[first] == word:
                return f"{names[second]}^{power}"
    return " ".join(names)
