"""What a judge is worth, measured on fixed pairs: is it right, and what moves it that should not.

Every pair is asked in both orders at temperature 0, without rubrics: the question is which answer
is correct, as in critic tasks.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from conjoint.envs.types import Task
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.judge.pairs import grade
from conjoint.rewards.judge.prompt import Verdict

_SWAP = {"A": "B", "B": "A", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class AskedPair:
    """Two answers and the verdicts on (a, b) and on (b, a), None where one cannot be read."""

    task: Task
    a: str
    b: str
    first: Verdict | None
    second: Verdict | None

    @property
    def score(self) -> float:
        """How far the judge is for `a`: the mean over both orders of 1, 0.5 for a tie, and 0 for
        `b` or for an unreadable verdict."""
        return (grade(self.first, "A") + grade(self.second, "B")) / 2

    @property
    def said(self) -> list[str | None]:
        """What was answered in either order; in the second one "A" is answer b."""
        return [verdict and verdict.winner for verdict in (self.first, self.second)]

    @property
    def winners(self) -> tuple[str, str] | None:
        """The winner by each order, as "A" for `a`; None unless both can be read."""
        if self.first is None or self.second is None:
            return None
        return self.first.winner, _SWAP[self.second.winner]

    @property
    def winner(self) -> str | None:
        """What both orders say; "tie" if they disagree, None unless both can be read."""
        if self.winners is None:
            return None
        return self.winners[0] if self.winners[0] == self.winners[1] else "tie"


async def ask_pairs(
    judge: Judge, pairs: Sequence[tuple[Task, str, str]], context: RewardContext
) -> list[AskedPair]:
    """Each (task, answer a, answer b) judged. A failing engine raises: it says nothing about the
    judge."""
    asked = await asyncio.gather(
        *(judge.ask_both(task, a, b, (), context, temperature=0.0) for task, a, b in pairs)
    )
    return [AskedPair(*pair, *verdicts) for pair, verdicts in zip(pairs, asked, strict=True)]


def quality(proven: Sequence[AskedPair], equal: Sequence[AskedPair] = ()) -> dict[str, float]:
    """Figures of a judge; one of nothing is left out.

    In `proven` pairs a verifier found `a` right and `b` wrong. In `equal` pairs it found both the
    same, and `a` is of the present policy, `b` of the start policy.
    """
    read = [winners for pair in proven if (winners := pair.winners) is not None]
    said = [word for pair in proven for word in pair.said]
    decided = [word for word in said if word in ("A", "B")]
    preferred = [_POINTS[pair.winner] for pair in equal if pair.winner is not None]
    figures = {
        "accuracy": [pair.score for pair in proven],
        "swap_consistency": [float(one == two) for one, two in read],
        "tie_share": [float(one != two or one == "tie") for one, two in read],
        "unparsable_share": [float(word is None) for word in said],
        "first_position_share": [float(word == "A") for word in decided],
        "self_preference": preferred,
    }
    found = {name: fmean(values) for name, values in figures.items() if values}
    if preferred:
        found["self_preference_pairs"] = float(len(preferred))
    return found | length_bias(proven)


_POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}


def length_bias(proven: Sequence[AskedPair]) -> dict[str, float]:
    """How often the longer answer wins a decided pair, the mean of where it is right and of where
    it is wrong; {} unless there are some of both.

    0.5 is a judge that length does not move, however good it is and however often the right answer
    happens to be the longer one: what it wins by being right it loses by being wrong.
    """
    wins: dict[bool, list[float]] = {True: [], False: []}
    for pair in proven:
        if pair.winner in ("A", "B") and len(pair.a) != len(pair.b):
            longer_is_right = len(pair.a) > len(pair.b)
            wins[longer_is_right].append(float((pair.winner == "A") == longer_is_right))
    if not (wins[True] and wins[False]):
        return {}
    return {"length_bias": (fmean(wins[True]) + fmean(wins[False])) / 2}
