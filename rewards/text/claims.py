"""An answer as the sentences that a judge checks one by one, each different one once.

Sentences are found by nltk's Punkt, untrained but for a list of abbreviations; list items, headings
and lines that stand alone are sentences of their own.
"""

import functools
import re
from typing import Any

_MARKER = re.compile(r"(?:[-*+•‣–—]|#{1,6}|>|\(?(?:\d{1,3}|[A-Za-z])[.)])\s+")  # noqa: RUF001
_ENDS = (".", "!", "?", ":", ";")
_WRAPPED = 60
"""Characters from which a line without an end mark goes on in the next one."""
_ABBREVIATIONS = (
    "dr mr mrs ms prof st jr sr inc ltd co corp vs etc al fig no vol pp ca approx dept est "
    "e.g i.e u.s u.k u.n a.m p.m ph.d b.c a.d jan feb mar apr jun jul aug sep sept oct nov dec"
)
_REPEATS = 4
"""Repeated sentences of an answer from which it is looked at as one that repeats itself."""


def sentences(text: str) -> list[str]:
    """The sentences of `text` that hold a letter or a digit, in order."""
    splitter = punkt()
    found = (s.strip() for block in _blocks(text) for s in splitter.tokenize(block))
    return [s for s in found if any(c.isalnum() for c in s)]


def normal(sentence: str) -> str:
    """One spelling for sentences that only look different: words without case and punctuation."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def distinct(found: list[str]) -> list[str]:
    """Each different sentence once, where it stands first."""
    first: dict[str, str] = {}
    for sentence in found:
        first.setdefault(normal(sentence), sentence)
    return list(first.values())


def repeats_itself(found: list[str]) -> bool:
    """Whether more than half of the sentences, and several, were said before."""
    repeated = len(found) - len({normal(s) for s in found})
    return repeated >= _REPEATS and 2 * repeated > len(found)


def _blocks(text: str) -> list[str]:
    """Paragraphs and list items, without their markers; wrapped lines are joined."""
    blocks: list[list[str]] = []
    open_line = ""
    for raw in text.splitlines():
        line = raw.strip()
        marker = _MARKER.match(line)
        body = line[marker.end() :] if marker else line
        goes_on = (
            open_line
            and body
            and not marker
            and not open_line.endswith(_ENDS)
            and (body[0].islower() or len(open_line) >= _WRAPPED)
        )
        if goes_on:
            blocks[-1].append(body)
        elif body:
            blocks.append([body])
        open_line = body
    return [" ".join(lines) for lines in blocks]


@functools.cache
def punkt(abbreviations: str = _ABBREVIATIONS, openers: str = "") -> Any:
    """Punkt, untrained but for two lists: `tokenize(text)` gives the sentences, in about 35
    microseconds a sentence mark. One of the `openers` in a capital begins a sentence even after an
    abbreviation or an ellipsis."""
    from nltk.tokenize.punkt import _ORTHO_MID_LC, PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(abbreviations.split())
    for word in openers.split():
        parameters.add_ortho_context(word, _ORTHO_MID_LC)
    return PunktSentenceTokenizer(parameters)
