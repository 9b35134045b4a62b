"""What the words of a criterion say about it: vague terms, and whether two criteria say the same
or the opposite. Heuristics on English; they point a designer at a line, and decide no reward."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.stem import PorterStemmer

VAGUE: dict[str, tuple[str, ...]] = {
    "says that it should be good, not what a reader would see in the text": (
        *("good", "great", "nice", "excellent", "high quality", "high-quality", "quality"),
        *("perfect", "best", "optimal", "amazing", "impressive", "beautiful", "elegant"),
        *("well written", "well-written", "interesting", "insightful", "engaging", "creative"),
        *("clever", "professional", "effective", "helpful", "useful", "intuitive"),
    ),
    "leaves it to the judge what is enough": (
        *("appropriate", "appropriately", "proper", "properly", "suitable", "reasonable"),
        *("adequate", "sufficient", "sufficiently", "as needed", "as appropriate", "if possible"),
        *("as far as possible", "etc", "and so on", "and the like", "makes sense", "not too"),
    ),
    "asks for what does not stand in the text": (
        *("the user is happy", "the user likes", "the reader enjoys", "the reader feels"),
        *("the reader likes", "the user feels", "satisfied", "tries to", "intends", "effort"),
        *("the model knows", "the model thinks", "the model believes"),
    ),
}
"""Why a criterion cannot be checked -> the terms that make it so."""

_NEGATIONS = frozenset(("not", "no", "never", "without", "avoid", "avoids", "nor", "neither"))
_FILLER = (
    "a an the it its is are be been was were has have had do does must should shall will would can "
    "answer answers response responses reply replies text output of in on to for with and or that "
    "this which every all each any there their them they at as by from only also than contain "
    "contains one include includes use uses give gives given write written say says stay stays"
)
_OPPOSITES = (
    ("short brief concise terse compact", "long detailed thorough exhaustive lengthy extensive"),
    ("formal", "casual informal colloquial slang"),
    ("simple plain", "complex technical ornate"),
    ("prose", "list bullet table"),
    ("neutral objective impartial", "subjective opinionated persuasive"),
    ("serious", "humorous funny witty joking"),
    ("confident certain decisive", "uncertain hedged tentative cautious"),
    ("literal", "figurative metaphorical"),
    ("uppercase", "lowercase"),
    ("positive", "negative"),
)
_LANGUAGES = (
    "arabic bengali chinese czech danish dutch english finnish french german greek hebrew hindi "
    "hungarian indonesian italian japanese korean latin norwegian persian polish portuguese "
    "romanian russian spanish swedish swahili thai turkish ukrainian urdu vietnamese"
)
_MOST = r"at most|no more than|not more than|fewer than|less than|under|up to|maximum of|within"
_LEAST = r"at least|no fewer than|no less than|more than|minimum of"
_BOUND = re.compile(
    rf"\b(?:(?P<most>{_MOST})|(?P<least>{_LEAST})|(?P<exact>exactly))\s+(?P<n>\d+|one|two|three|"
    r"four|five|six|ten)\s+(?P<unit>[a-z]+)"
)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
_ALIKE = 0.75
"""Share of the words of two criteria, stemmed, from which they count as the same."""


@dataclass(frozen=True, slots=True)
class _Sense:
    """A criterion as the comparison sees it."""

    stems: frozenset[str]
    negated: bool
    bounds: tuple[tuple[str, int, str], ...]
    """(most, least or exact; number; unit)."""


def vague_terms(text: str) -> list[tuple[str, str]]:
    """(term, why it cannot be checked) of a criterion; what it quotes or forbids does not count."""
    said = re.sub(r'"[^"]*"', " ", text.lower())
    if re.match(r"(?:no|never|it does not|it never|the answer does not)\b", said):
        return []
    found = [
        (term, why)
        for why, terms in VAGUE.items()
        for term in terms
        if re.search(rf"\b{re.escape(term)}\b", said)
    ]
    return [(t, why) for t, why in found if not any(t != u and t in u for u, _ in found)]


def same(one: str, other: str) -> bool:
    """Whether two criteria ask for the same."""
    a, b = _sense(one), _sense(other)
    return a.negated == b.negated and a.bounds == b.bounds and _alike(a.stems, b.stems)


def contradiction(one: str, other: str) -> str:
    """Why no answer can meet both criteria, "" where nothing shows it."""
    a, b = _sense(one), _sense(other)
    if a.negated != b.negated:
        return "one forbids what the other asks for" if _alike(a.stems, b.stems) else ""
    if why := _bounds_clash(a, b):
        return why
    for left, right in _opposed():
        for x, y in ((a.stems & left, b.stems & right), (a.stems & right, b.stems & left)):
            rest_a, rest_b = a.stems - left - right, b.stems - left - right
            if x and y and not (a.stems & b.stems & (left | right)) and _about(rest_a, rest_b):
                return f"'{min(x)}' against '{min(y)}'"
    tongues_a, tongues_b = a.stems & _tongues(), b.stems & _tongues()
    apart = tongues_a and tongues_b and not tongues_a & tongues_b and not a.negated
    if apart and _about(a.stems - tongues_a, b.stems - tongues_b):
        return f"'{min(tongues_a)}' against '{min(tongues_b)}'"
    return ""


def _bounds_clash(a: _Sense, b: _Sense) -> str:
    for one, other in ((a, b), (b, a)):
        for kind, n, unit in one.bounds:
            for kind2, m, unit2 in other.bounds:
                clash = unit == unit2 and (
                    (kind == "most" and kind2 in ("least", "exact") and m > n)
                    or (kind == "exact" and kind2 == "exact" and m != n)
                    or (kind == "least" and kind2 == "exact" and m < n)
                )
                if clash:
                    return f"{_words(kind)} {n} against {_words(kind2)} {m} of '{unit}'"
    return ""


def _words(kind: str) -> str:
    return "exactly" if kind == "exact" else f"at {kind}"


def _alike(a: frozenset[str], b: frozenset[str]) -> bool:
    return bool(a and b) and len(a & b) / len(a | b) >= _ALIKE


def _about(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether what is left of two criteria is about the same thing."""
    return a <= b or b <= a or len(a & b) / len(a | b) >= 0.5


@lru_cache(maxsize=4096)
def _sense(text: str) -> _Sense:
    said = text.lower().replace("n't", " not")
    words = re.findall(r"[a-z]+|\d+", said)
    bounds = tuple(
        (kind, int(m["n"]) if m["n"].isdigit() else _NUMBERS[m["n"]], _stem(m["unit"]))
        for m in _BOUND.finditer(said)
        for kind in ("most", "least", "exact")
        if m[kind]
    )
    stems = _stems(w for w in words if w not in _NEGATIONS and w not in _FILLER.split())
    # Not every "no" negates: "no more than 50 words" is a bound.
    plain = _BOUND.sub(" ", said)
    negations = sum(w in _NEGATIONS for w in re.findall(r"[a-z]+", plain))
    return _Sense(stems, negations % 2 == 1, bounds)


@lru_cache(maxsize=1)
def _opposed() -> list[tuple[frozenset[str], frozenset[str]]]:
    return [(_stems(left.split()), _stems(right.split())) for left, right in _OPPOSITES]


@lru_cache(maxsize=1)
def _tongues() -> frozenset[str]:
    return _stems(_LANGUAGES.split())


def _stems(words: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_stem, words))


@lru_cache(maxsize=8192)
def _stem(word: str) -> str:
    return _stemmer().stem(word)


@lru_cache(maxsize=1)
def _stemmer() -> "PorterStemmer":
    from nltk.stem import PorterStemmer

    return PorterStemmer()
