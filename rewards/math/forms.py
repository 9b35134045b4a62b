r"""What kind of thing an answer is: choice, words, list, tuple, real set, matrix, relation.

Owns the structure of a cleaned answer, down to the formulas and numbers in it, which
`rewards/math/reward.py` compares. Nothing is dropped: names, brackets, order and relations are kept
for the comparison to look at.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from conjoint.rewards.math.numeric import evaluate

_CHOICE = re.compile(r"\(?([A-J])\)?|(?:\(([A-J])\)|([A-J])[.):])[\s:.]*(.*)", re.DOTALL)
_OTHER_CHOICE = re.compile(r"(?<![A-Za-z\\'])[B-HJ](?![A-Za-z'])|\([A-J]\)")
_DENIED = re.compile(r"(?:is|are|or|and|not|nor|wrong|incorrect|false|but)\b", re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ ,;:.!?'\"\-()]+[^\W\d_]\w*)*[.!?]?")
_NAME = re.compile(
    r"(?:\\angle ?|\\triangle ?|m ?\\angle ?|\|)?"
    r"(?:[A-Za-z]|[A-Z]{2,4}|\\[a-zA-Z]+)'*(?:_(?:\{[\w, ]{1,12}\}|\w))?'*"
    r"(?:\^\{-1\})?(?: ?\([^()=<>]{1,20}\)|\|)?"
    r"|\([A-Za-z](?:_\{?\w\}?)?(?: ?, ?[A-Za-z](?:_\{?\w\}?)?)+\)"
    r"|[^\W\d_]{3,20}(?: [^\W\d_]{1,20}){0,3}|[\u4e00-\u9fff]{1,8}"
)
_NO_NAMES = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|ln|log|lg|exp|sqrt|frac|pi|infty|emptyset|arc\w+)(?![A-Za-z])"
    r"|[a-z]{2,3}$|.*\b(?:and|or|not|no|plus|minus|times|over|than|less|más|menos|por)\b|.*[不非]"
)
_AND = (
    r"\\text\s*\{\s*,?\s*(?:and|or|y|o|u|e|和|或|及|与|或者|以及)\s*\}"
    r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|(?<=[0-9)}] )[yo](?= [-0-9(\\])|[和或及与]"
    r"|\\(?:lor|land)(?![a-z])"
)
_SEPARATOR = re.compile(rf"\s*(?:[,;]\s*(?:{_AND})?|{_AND})\s*")
_OR_WORD = re.compile(r"\bor\b|\\lor|或|(?<=\{)\s*o\s*(?=\})| o ")
_AND_WORD = re.compile(r"\band\b|\\land|和|且|(?<=\{)\s*y\s*(?=\})| y ")
_CUP = re.compile(
    r"\s*(?:\\cup(?![a-z])|\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\lor)\s*"
)
_EQUALS = re.compile(r"\s*(=|\\approx(?![a-z]))\s*")
RELATION = re.compile(
    r"[=<>]|\\(?:le|ge|ne|in|notin|approx|sim|equiv|cong|subset|subseteq|perp|parallel|to|propto)"
    r"(?![A-Za-z])"
)
_ORDER = re.compile(r"\s*(<|>|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|=)\s*")
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
MEMBER = re.compile(r"([A-Za-z]\w?)\s*\\in(?![a-z])\s*(.+)", re.DOTALL)
_BUILDER = re.compile(
    r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]\s*(.+?)\s*\\\}", re.DOTALL
)
_INTERVAL = re.compile(r"([(\[])(.*)([)\]])", re.DOTALL)
_BOTH = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_SINGLE = re.compile(r"[A-Za-z](?:_\{?\w\}?)?|\\(?:theta|alpha|beta|gamma|lambda|mu|phi|omega)")
_MATRIX = re.compile(
    r"(.*?)(?:\\begin\{([pb])(?:small)?matrix\}(.*)\\end\{\2(?:small)?matrix\}"
    r"|[(\[]\s*\\begin\{(array|matrix|smallmatrix)\}(?:\{[lcr| ]*\})?(.*)\\end\{\4\}\s*[)\]])",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\\s*(?:\[[^\]]*\])?")
_MODULO = re.compile(
    r"(.*?)\s*\\equiv\s*(.*?)\s*\\?\(?\\?(?:pmod|bmod|mod)\s*\{?\s*([^{}()]+?)\s*\}?\)?"
)
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Listing:
    """A collection: its brackets ("" for a bare list), its items, and the word between them."""

    opening: str
    closing: str
    items: tuple[str, ...]
    word: str = ""
    """"and" or "or" where a word stands between the items."""

    @property
    def ordered(self) -> bool:
        return self.opening in ("(", "[", "\\langle")


@dataclass(frozen=True, slots=True)
class Piece:
    """One interval: its ends, and whether each belongs to it."""

    low: str
    low_in: bool
    high: str
    high_in: bool


def words(text: str) -> str:
    """The answer as words in lower case, "" where it is a formula, a number or a single letter."""
    plain = " ".join(_TEXT.sub(r" \1 ", text).split())
    if not _WORDS.fullmatch(plain) or len(plain) < 2:
        return ""
    return plain.casefold().rstrip(".!")


def choice(text: str) -> str:
    """The letter of a multiple-choice answer, with or without the choice's text; "" if none.

    The text needs a mark between: `C) 12` and `(C) 12` are choices, `C = 12` and `A square` not.
    """
    plain = " ".join(_TEXT.sub(r"\1", text).split())
    match = _CHOICE.fullmatch(plain)
    if match is None:
        return ""
    rest = match[4] or ""
    if _OTHER_CHOICE.search(rest) or _DENIED.match(rest):
        return ""
    return match[1] or match[2] or match[3]


def parts_of_equation(text: str) -> tuple[str, list[str], list[str]]:
    """(name, values, signs) of `x = 6*7 = 42`: what the signs `=` and approximately-equal join.

    The name is "" where the first part is no name; one value and no sign where nothing is joined.
    """
    if "=" not in text and "\\approx" not in text:
        return "", [text], []
    if RELATION.search(_EQUALS.sub("", _outside_brackets(text))):
        return "", [text], []
    values, signs = split(text, _EQUALS), _signs(text, _EQUALS)
    if not all(values[1:]):
        return "", [text], []
    head = values[0]
    if not head:
        return "", list(values[1:]), signs[1:]
    plain = _TEXT.sub(r"\1", head).strip()
    if _NAME.fullmatch(plain) and not _NO_NAMES.match(plain) and plain not in values[1:]:
        return "".join(plain.replace("{", "").replace("}", "").split()), list(values[1:]), signs[1:]
    return "", list(values), signs


def listing(text: str) -> Listing | None:
    """The collection that `text` is, or None for a single value."""
    inner, opening, closing = text.strip(), "", ""
    if inner.startswith("\\{") and inner.endswith("\\}") and _outermost(inner.replace("\\", " ")):
        inner, opening, closing = inner[2:-2], "{", "}"
    elif inner.startswith("\\langle") and inner.endswith("\\rangle"):
        inner, opening, closing = inner[7:-7], "\\langle", "\\rangle"
    elif inner[:1] in ("(", "[") and inner[-1:] in (")", "]") and _outermost(inner):
        inner, opening, closing = inner[1:-1], inner[0], inner[-1]
    items = split(inner, _SEPARATOR)
    if (len(items) < 2 and opening != "{") or not all(items):
        return None
    outside = _outside_brackets(inner)
    word = "or" if _OR_WORD.search(outside) else "and" if _AND_WORD.search(outside) else ""
    return Listing(opening, closing, items, word)


def both_signs(text: str) -> tuple[str, ...]:
    """`1 \\pm 2` as its two values; the text itself where there is no such sign, or several."""
    if len(_BOTH.findall(text)) != 1 or len(split(text, _SEPARATOR)) > 1:
        return (text,)
    return tuple(_BOTH.sub(sign, text).strip() for sign in "+-")


def ratio(text: str) -> tuple[str, ...]:
    """The terms of `2:3`; () for what is none."""
    terms = split(text, re.compile(r"\s*:\s*"))
    return terms if len(terms) > 1 and all(terms) else ()


def real_set(text: str) -> tuple[str, tuple[Piece, ...]] | None:
    """(variable, intervals) of an inequality in one variable, an interval, or a union of them."""
    name = ""
    if match := _BUILDER.fullmatch(text):
        name, text = match[1], match[2]
        if not RELATION.search(text):
            return None
    elif match := MEMBER.fullmatch(text):
        name, text = match[1], match[2]
    pieces: list[Piece] = []
    for part in split(text, _CUP):
        found = _pieces(part)
        if found is None or (found[0] and name and found[0] != name):
            return None
        name = name or found[0]
        pieces += found[1]
    only_points = all(piece.low == piece.high for piece in pieces)
    return None if only_points else (name, tuple(pieces))


def _pieces(part: str) -> tuple[str, list[Piece]] | None:
    if part == "\\mathbb{R}":
        return "", [Piece("-\\infty", False, "\\infty", False)]
    order = _outside_brackets(part)
    if _ORDER.search(order):
        return _inequality(part)
    match = _INTERVAL.fullmatch(part)
    ends = split(match[2], re.compile(r"\s*[,;]\s*")) if match else ()
    if match is None or len(ends) != 2 or not all(ends) or not _outermost(part):
        return None
    return "", [Piece(ends[0], match[1] == "[", ends[1], match[3] == "]")]


def _inequality(part: str) -> tuple[str, list[Piece]] | None:
    terms = [t.strip() for t in split(part, _ORDER)]
    signs = _signs(part, _ORDER)
    places = [k for k, term in enumerate(terms) if _SINGLE.fullmatch(term)]
    if len(terms) == 2 and places and (not terms[1] or not terms[0]):
        return None
    if len(terms) == 2 and len(places) == 1:
        name, sign, value = terms[places[0]], signs[0], terms[1 - places[0]]
        sign = _FLIP[sign] if places[0] == 1 else sign
        if re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])", value):
            return None
        below, above = ("-\\infty", False), ("\\infty", False)
        if sign == "\\ne":
            return name, [Piece(*below, value, False), Piece(value, False, *above)]
        if sign == "=":
            return name, [Piece(value, True, value, True)]
        if sign in ("<", "\\le"):
            return name, [Piece(*below, value, sign == "\\le")]
        return name, [Piece(value, sign == "\\ge", *above)]
    if len(terms) == 3 and places == [1] and all(terms):
        if {*signs} <= {">", "\\ge"}:
            terms, signs = terms[::-1], [_FLIP[sign] for sign in signs[::-1]]
        if {*signs} <= {"<", "\\le"}:
            return terms[1], [Piece(terms[0], signs[0] == "\\le", terms[2], signs[1] == "\\le")]
    return None


def relation(text: str) -> tuple[str, str, str] | None:
    """(left, sign, right) of one relation, turned so that the sign is never `>`; None if not one.

    With a modulus, the sign carries it.
    """
    if match := _MODULO.fullmatch(text):
        return match[1], f"mod {match[3]}", match[2]
    signs, sides = _signs(text, _ORDER), split(text, _ORDER)
    if len(signs) != 1 or len(sides) != 2 or not all(sides) or len(RELATION.findall(text)) != 1:
        return None
    if signs[0] in (">", "\\ge"):
        return sides[1], _FLIP[signs[0]], sides[0]
    return sides[0], signs[0], sides[1]


def relates(text: str) -> bool:
    """Whether a relation stands outside every bracket."""
    return bool(RELATION.search(_outside_brackets(text)))


def matrix(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows of entries of a matrix in round or square brackets; () for what is none."""
    match = _MATRIX.fullmatch(text.strip())
    body = match and (match[3] if match[2] else match[5])
    if match is None or body is None or "\\begin" in body:
        return ()
    factor = match[1].strip()
    if factor and (RELATION.search(factor) or split(factor, _SEPARATOR) != (factor,)):
        return ()
    rows = [split(row, re.compile(r"\s*&\s*")) for row in split(body, _ROW_END) if row.strip()]
    if factor:
        factor = f"{factor}1" if factor in ("-", "+") else factor
        return tuple(tuple(_product(factor, entry) for entry in row) for row in rows)
    return tuple(rows)


def _product(factor: str, entry: str) -> str:
    product = f"({factor})({entry})"
    value = evaluate(product)
    return str(value) if isinstance(value, Fraction) else product


def split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    """Split at `separator` outside every bracket; the parts are stripped."""
    parts, start = [], 0
    for match in _found(text, separator):
        parts.append(text[start : match.start()].strip())
        start = match.end()
    parts.append(text[start:].strip())
    return tuple(parts)


def _signs(text: str, separator: re.Pattern[str]) -> list[str]:
    return [match[1] for match in _found(text, separator)]


def _found(text: str, separator: re.Pattern[str]) -> list[re.Match[str]]:
    """Matches of `separator` that stand outside every bracket and every bar of a set-builder."""
    found, depth, reached = [], 0, 0
    for match in separator.finditer(text):
        for char in text[reached : match.start()]:
            depth += (char in _OPENING) - (char in _CLOSING)
        reached = match.start()
        if depth == 0:
            found.append(match)
    return found


def _outside_brackets(text: str) -> str:
    kept, depth = [], 0
    for char in text:
        depth += char in _OPENING
        if depth <= 0:
            kept.append(char)
        depth -= char in _CLOSING
    return "".join(kept)


def _outermost(text: str) -> bool:
    """Whether the first bracket closes at the very end (`[` may close with `)`: intervals)."""
    depth, text = 0, text.strip()
    for index, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0:
            return index == len(text) - 1
    return False
