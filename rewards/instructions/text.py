"""What a text consists of: its language, its sentences, its tokens, its words.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no spaces between words: there a letter counts
as a word, and a word is whole wherever it stands.

Nothing is downloaded: Punkt is untrained but for lists of words, and langdetect carries
its profiles. Both are slow on hostile text, so what they see is bounded.
"""

import functools
import re

from conjoint.rewards.text.claims import punkt

_CODES = (
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr "
    "ne nl no pa pl pt ro ru sk sl so sq sv sw ta te th tl tr uk ur vi zh-cn zh-tw"
)
LANGUAGES = tuple(_CODES.split())
"""The codes that langdetect knows."""

_ABBREVIATIONS = (
    "a.d a.m adm aug ave b.c co col corp d.c dec dr feb ft gen inc jan jr lt ltd maj messrs mr mrs "
    "ms nov oct p.m ph.d prof rep sen sep sept sr st u.k u.n u.s u.s.a vs"
)
"""Fewer than for reading claims: the public checker ends a sentence after "etc." and "e.g."."""
_OPENERS = (
    "although both but does even finally he her here however if in instead it many meanwhile most "
    "since so some sometimes soon still such the them there therefore these they this though thus "
    "were when which while yes your"
)
_UNSPACED = (
    "\u0e01-\u0e5b\u0e80-\u0edf\u1000-\u109f\u1780-\u17dd\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
"""Letters of the scripts without spaces, as ranges of a character class."""
_WORD = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ONE_UNSPACED = re.compile(rf"(?=\w)[{_UNSPACED}]")
_END_MARKS = re.compile(
    "[\u3002\uff0e\uff61\uff01\uff1f\u0964\u0965\u06d4\u061f]+[\u201d\u2019\u300d\u300f\uff09\u3011\u300b]*"
)
"""Marks that end a sentence in Chinese, Japanese, Hindi, Urdu and Arabic: Punkt knows none."""
_MAX_MARKS = 4_000
"""Sentence marks that Punkt is asked about, for it is slow."""
_DETECTED = 10_000
"""Characters that langdetect looks at; its own limit, applied before its regular expressions."""


@functools.lru_cache(maxsize=64)
def count_sentences(text: str) -> int:
    """By Punkt. Beyond 4,000 sentence marks their number is the count: no prose has so many."""
    text = _END_MARKS.sub("! ", text)
    marks = sum(map(text.count, ".?!"))
    return len(punkt(_ABBREVIATIONS, _OPENERS).tokenize(text)) if marks <= _MAX_MARKS else marks


def tokens(text: str) -> list[str]:
    """Words and marks as the Penn treebank splits them: a hyphenated word is one token."""
    from nltk.tokenize import word_tokenize

    return word_tokenize(text, preserve_line=True)


@functools.lru_cache(maxsize=256)
def language(text: str) -> str | None:
    """The code of the likeliest language; None where the text shows none (no letters).

    langdetect draws at random: with its seed set, equal texts get equal answers.
    """
    import langdetect

    langdetect.DetectorFactory.seed = 0
    try:
        found = langdetect.detect(text[:_DETECTED])
    except langdetect.LangDetectException:
        return None
    return None if found == "unknown" else found


def count_words(text: str) -> int:
    """Runs of letters and digits; of a script without spaces, its letters."""
    return sum(1 for _ in _WORD.finditer(text))


def spaced_words(text: str) -> list[str]:
    """Runs without white space that hold a letter or a digit: a dash alone is no word. Of a script
    without spaces, its letters."""
    apart = _ONE_UNSPACED.sub(r" \g<0> ", text)
    return [word for word in apart.split() if any(c.isalnum() for c in word)]


def unspaced(text: str) -> bool:
    """Whether a text holds a letter of a script without spaces."""
    return bool(_ONE_UNSPACED.search(text))


def joined(before: str, after: str) -> bool:
    """Whether two neighbouring characters (or "") belong to one word."""
    both = before.isalnum() and after.isalnum()
    return both and not unspaced(before + after)


def whole_word(word: str) -> str:
    """A pattern of `word` where it is no part of a longer one."""
    letter = rf"[^\W{_UNSPACED}]"
    before, after = (
        "" if unspaced(edge) else f"(?{side}{letter})"
        for edge, side in ((word[:1], "<!"), (word[-1:], "!"))
    )
    return f"{before}{re.escape(word)}{after}"
