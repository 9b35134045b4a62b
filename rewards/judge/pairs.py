"""Comparing two answers: the result, what code decides alone, and which pairs to compare."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from conjoint.rewards.judge.prompt import Verdict
from conjoint.rewards.rubrics.find import Rubric
from conjoint.rewards.text.quoting import visible


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """What one comparison gives answers a and b: a and b in [0, 1], or None for both (masked).

    `verdicts` are the judge's own, on (a, b) and on (b, a), None where one cannot be read; None
    where the judge was not asked or broke.
    """

    a: float | None
    b: float | None
    reason: str
    verdicts: tuple[Verdict | None, Verdict | None] | None = None

    def __post_init__(self) -> None:
        if (self.a is None) != (self.b is None):
            raise ValueError("a comparison is masked for both answers or for none")


def without_judge(a: str, b: str, rubrics: Sequence[Rubric]) -> PairVerdict | None:
    """The pair's verdict where code can give it, else None.

    Two answers at fault both lose: neither profits from the other's fault.
    """
    fault_a, fault_b = fault(a, rubrics), fault(b, rubrics)
    if fault_a or fault_b:
        said = [f"{x} {why}" for x, why in (("A", fault_a), ("B", fault_b)) if why]
        return PairVerdict(float(not fault_a), float(not fault_b), "; ".join(said))
    if same(a, b):
        return PairVerdict(0.5, 0.5, "the answers are the same")
    return None


def same(a: str, b: str) -> bool:
    """Whether a reader sees the same text; spaces and marks inside count, as in code."""
    return visible(a).strip() == visible(b).strip()


def is_blank(answer: str) -> bool:
    """Whether an answer shows no letter and no digit: empty, or a lone symbol."""
    return not any(ch.isalnum() for ch in visible(answer))


def fault(answer: str, rubrics: Sequence[Rubric]) -> str:
    """What is wrong with an answer by code alone, "" if nothing is."""
    if is_blank(answer):
        return "is empty"
    for rubric in rubrics:
        if (words := rubric.violation(answer)) is not None:
            return f"breaks {rubric.name} ({words!r})"
    return ""


def choose_pairs(items: Sequence[int], per_item: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of `items`, each item in `per_item` of them (one may be in one more where the number is
    odd); all pairs if `per_item` is 0 or not below the number of opponents."""
    n = len(items)
    if per_item == 0 or per_item >= n - 1:
        return [(items[i], items[j]) for i in range(n) for j in range(i + 1, n)]
    ring = list(items)
    random.Random(seed).shuffle(ring)
    # Neighbours at distance d on a ring put every item into two pairs.
    pairs = [(ring[i], ring[(i + d) % n]) for d in range(1, per_item // 2 + 1) for i in range(n)]
    if per_item % 2:
        half = n // 2
        pairs += [(ring[i], ring[i + half]) for i in range(half)]
        if n % 2:
            pairs.append((ring[n - 1], ring[half - 1]))
    return sorted((min(p), max(p)) for p in pairs)


def grade(verdict: Verdict | None, right: str) -> float:
    """1 if the verdict names the right answer, 0.5 for a tie, 0 if it is wrong or unreadable."""
    if verdict is None:
        return 0.0
    return 0.5 if verdict.winner == "tie" else float(verdict.winner == right)
