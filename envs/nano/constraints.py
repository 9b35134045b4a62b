"""The `instruction` kind: a few words about a topic under two checkable constraints.

A demonstration is a plain list of the topic's nouns in their usual order, or a richer run of
adjectives and nouns in any order. Both follow the constraints.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from conjoint.envs.nano.words import ADJECTIVES, CLOSERS, KEYWORDS, OPENERS, TOPICS
from conjoint.envs.sources.splits import Item, Procedural, pick
from conjoint.envs.types import Task

_SHOWN = {"plain": 0.4, "rich": 0.6}
_RIGHT = {"plain": 0.7, "rich": 0.3}
_WRONG = {"plain": 0.3, "rich": 0.7}
_RELATIONS = {"exactly": "exactly", "at_least": "at least", "at_most": "at most"}


@dataclass(frozen=True, slots=True)
class Constraints:
    """What one task asks for; None where it does not ask."""

    topic: str
    relation: str | None = None
    count: int = 0
    starts: str | None = None
    ends: str | None = None
    includes: str | None = None
    case: str | None = None

    def checks(self) -> list[dict[str, Any]]:
        """The reference, in the names that rewards/instructions/reward.py reads."""
        checks: list[dict[str, Any]] = []
        if self.relation:
            checks.append({"name": "word_count", "relation": self.relation, "count": self.count})
        if self.starts:
            checks.append({"name": "starts_with", "text": self.starts})
        if self.ends:
            checks.append({"name": "ends_with", "text": self.ends})
        if self.includes:
            checks.append({"name": "includes", "keyword": self.includes})
        if self.case:
            checks.append({"name": "case", "style": self.case})
        return checks

    def phrases(self) -> list[str]:
        phrases = []
        if self.relation:
            phrases.append(f"{_RELATIONS[self.relation]} {self.count} words")
        if self.starts:
            phrases.append(f"start with {self.starts}")
        if self.ends:
            phrases.append(f"end with {self.ends}")
        if self.includes:
            phrases.append(f"include {self.includes}")
        if self.case:
            phrases.append(f"{self.case} case")
        return phrases


class WordConstraints(Procedural):
    """`Write about the sea: exactly 4 words, include blue.` Reference: the checks."""

    kind = "instruction"

    def draw(self, rng: Random) -> Item:
        asked = _constraints(rng)
        content = f"{asked.topic}: {', '.join(asked.phrases())}"
        prompt = f"Write about {content}."
        return Item(
            task=Task.make(
                self.kind, prompt, {"checks": asked.checks()}, {"source": "constraints"}
            ),
            content=content,
            answer=_write(asked, pick(rng, _SHOWN), rng),
            correct=_write(asked, pick(rng, _RIGHT), rng),
            incorrect=_write_wrong(asked, pick(rng, _WRONG), rng),
        )


def _constraints(rng: Random) -> Constraints:
    topic = rng.choice([*TOPICS])
    asked = Constraints(topic)
    for name in rng.sample(("count", "starts", "ends", "includes", "case"), 2):
        if name == "count":
            asked = replace(asked, relation=rng.choice([*_RELATIONS]), count=rng.randint(2, 6))
        elif name == "starts":
            asked = replace(asked, starts=rng.choice(OPENERS))
        elif name == "ends":
            asked = replace(asked, ends=rng.choice(CLOSERS))
        elif name == "includes":
            asked = replace(asked, includes=rng.choice(KEYWORDS))
        else:
            asked = replace(asked, case=rng.choice(("lower", "upper")))
    return asked


def _cased(asked: Constraints, word: str) -> str:
    return word.upper() if asked.case == "upper" else word


def _length(asked: Constraints, style: str, rng: Random) -> int:
    """How many words to write: the plain style stays near the count, the rich one strays."""
    spare = 1 if style == "plain" else 3
    if asked.relation == "exactly":
        return asked.count
    if asked.relation == "at_least":
        return asked.count + rng.randint(0, spare)
    if asked.relation == "at_most":
        return max(2, asked.count - rng.randint(0, spare))
    return 3 if style == "plain" else rng.randint(3, 7)


def _write(asked: Constraints, style: str, rng: Random, length: int = 0) -> str:
    """A run of `length` words (0: as asked) that opens, closes and includes what it must."""
    length = length or _length(asked, style, rng)
    nouns = TOPICS[asked.topic]
    head = [asked.starts] if asked.starts else []
    tail = [asked.ends] if asked.ends else []
    size = max(0, length - len(head) - len(tail))
    if style == "plain":
        body = [asked.includes] if asked.includes else []
        body = (body + [nouns[i % len(nouns)] for i in range(size)])[:size]
    else:
        body = [rng.choice((*nouns, *ADJECTIVES)) for _ in range(size)]
        if asked.includes and size:
            body[rng.randrange(size)] = asked.includes
    return " ".join(_cased(asked, word) for word in head + body + tail)


def _write_wrong(asked: Constraints, style: str, rng: Random) -> str:
    """An answer that breaks one of the constraints."""
    broken = rng.choice([check["name"] for check in asked.checks()])
    if broken == "word_count":
        step = {"at_least": -1, "at_most": 1}.get(asked.relation or "", rng.choice((-1, 1)))
        return _write(asked, style, rng, length=max(1, asked.count + step * rng.randint(1, 2)))
    length = _length(asked, style, rng)
    if broken == "starts_with":
        return _write(replace(asked, starts=None), style, rng, length)
    if broken == "ends_with":
        return _write(replace(asked, ends=None), style, rng, length)
    if broken == "case":
        other = "lower" if asked.case == "upper" else "upper"
        return _write(replace(asked, case=other), style, rng, length)
    other = rng.choice([word for word in KEYWORDS if word != asked.includes])
    text = _write(replace(asked, includes=other), style, rng, length)
    missing = _cased(asked, asked.includes or "")
    return " ".join(_cased(asked, other) if w == missing else w for w in text.split())
