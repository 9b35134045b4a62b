"""The `math` kind: chains of one-digit additions and subtractions.

A demonstration answers directly, by running totals, or by spelling out every step. All three are
correct; they differ in how reliable they are for a tiny model and in how many tokens they take.
"""

from random import Random

from conjoint.envs.sources.splits import Item, Procedural, pick
from conjoint.envs.types import Task

HIGHEST_TOTAL = 9
_SHOWN = {"direct": 0.45, "spelled": 0.45, "wordy": 0.1}
_RIGHT = {"direct": 0.3, "spelled": 0.7}
_WRONG = {"direct": 0.8, "spelled": 0.2}


class Arithmetic(Procedural):
    """`Compute 7+4-6+8.`: four one-digit operands, totals from 0 to 9. Reference: the number."""

    kind = "math"

    def draw(self, rng: Random) -> Item:
        terms = _terms(rng)
        content = "".join(f"{t:+d}" for t in terms).lstrip("+")
        totals = _totals(terms)
        reference = str(totals[-1])
        return Item(
            task=Task.make(self.kind, f"Compute {content}.", reference, {"source": "arithmetic"}),
            content=content,
            answer=_render(terms, totals, pick(rng, _SHOWN)),
            correct=_render(terms, totals, pick(rng, _RIGHT)),
            incorrect=_render(terms, _slip(totals, rng), pick(rng, _WRONG)),
        )


def _terms(rng: Random) -> list[int]:
    """Signed operands, the first positive, with every running total in range."""
    terms = [rng.randint(1, 9)]
    while len(terms) < 4:
        term = rng.choice((-1, 1)) * rng.randint(1, 9)
        if 0 <= sum(terms) + term <= HIGHEST_TOTAL:
            terms.append(term)
    return terms


def _totals(terms: list[int]) -> list[int]:
    return [sum(terms[: i + 1]) for i in range(len(terms))]


def _slip(totals: list[int], rng: Random) -> list[int]:
    """The totals with an error at one place that is carried on, as a slip in working is."""
    shifts: list[int] = []
    while not shifts:
        place = rng.randrange(1, len(totals))
        low, high = min(totals[place:]), max(totals[place:])
        shifts = [d for d in (-2, -1, 1, 2) if low + d >= 0 and high + d <= HIGHEST_TOTAL]
    shift = rng.choice(shifts)
    return [t + shift if i >= place else t for i, t in enumerate(totals)]


def _render(terms: list[int], totals: list[int], style: str) -> str:
    if style == "direct":
        return f"The answer is {totals[-1]}"
    steps = [
        f"{before}{term:+d}={after}"
        for before, term, after in zip(totals, terms[1:], totals[1:], strict=False)
    ]
    if style == "spelled":
        return ",".join(steps)
    return "We go step by step: " + ", and then we have ".join(steps)
