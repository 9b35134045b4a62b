"""What the libraries say about a text: its language, its sentences, its tokens.

Nothing is downloaded: Punkt is untrained but for lists of words, and langdetect carries
its profiles. Both are slow on hostile text, so what they see is bounded.
"""

import functools

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
_MAX_MARKS = 4_000
"""Sentence marks that Punkt is asked about, for it is slow."""
_DETECTED = 10_000
"""Characters that langdetect looks at; its own limit, applied before its regular expressions."""


@functools.lru_cache(maxsize=64)
def count_sentences(text: str) -> int:
    """By Punkt. Beyond 4,000 sentence marks their number is the count: no prose has so many."""
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
