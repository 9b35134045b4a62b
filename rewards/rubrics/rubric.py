"""What a rubric is: a named list of criteria, and the hard rules that code checks.

A prescriptive rubric may carry `forbidden` patterns: code checks them, so that no judge can be
talked out of them.
"""

import re
import unicodedata
from dataclasses import dataclass

from conjoint.rewards.rubrics.pattern import Pattern
from conjoint.rewards.text.quoting import clip, visible

KINDS = ("core", "prescriptive", "task")
EVERY_KIND = "*"
_OPENING_CHARS = 300
_MAX_ANSWER = 100_000
"""Characters of an answer that patterns search: of a longer one its beginning and its end."""
_INTERJECTION = re.compile(r"\w+(?:[ ']\w+){0,3} ?[!.,:;\u2013\u2014-]+[\W_]*")
_EMPHASIS = re.compile(r"[*_`~#]+")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing the judge looks at; breaking a mandatory one loses the pair."""

    text: str
    weight: float = 1.0
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Rubric:
    """A named list of criteria. `short` is its form for the compact judge template."""

    name: str
    version: int
    kind: str
    intent: str
    short: str
    criteria: tuple[Criterion, ...]
    applies_to: tuple[str, ...] = (EVERY_KIND,)
    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    forbidden_opening: tuple[Pattern, ...] = ()
    forbidden_anywhere: tuple[Pattern, ...] = ()
    alternative_to: str = ""
    """Rubrics of a run with the same name here are alternatives, of which each group gets one; its
    own name where the file says nothing."""

    def applies(self, task_kind: str) -> bool:
        return EVERY_KIND in self.applies_to or task_kind in self.applies_to

    def violation(self, answer: str) -> str | None:
        """The words of `answer` that a forbidden pattern matches, None if none does.

        An opening pattern matches from the first letter or digit on, or after a short interjection
        ("Sure! ..."), so that neither an emoji nor a filler word hides it.
        """
        text = plain(clip(answer, _MAX_ANSWER))
        opening = re.sub(r"^[\W_]+", "", text)[:_OPENING_CHARS]
        starts = [0] + [m.end() for m in [_INTERJECTION.match(opening)] if m]
        found = [p.match(opening[at:]) for p in self.forbidden_opening for at in starts]
        found += [p.search(text) for p in self.forbidden_anywhere]
        return next((words.strip() for words in found if words is not None), None)


def plain(text: str) -> str:
    """`text` as a reader sees it: no invisible characters, no emphasis, plain forms."""
    folded = visible(unicodedata.normalize("NFKC", text))
    folded = " ".join(_EMPHASIS.sub("", folded).split())
    return folded.replace("\u2019", "'").replace("\u2018", "'")
