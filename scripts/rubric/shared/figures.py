"""Figures of judged pairs with 95 % intervals. Pairs of one prompt are not independent, so prompts
are what is counted (`clustered_interval`)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from conjoint.rl.stats.intervals import Interval, clustered_interval
from conjoint.scripts.rubric.shared.judged import Judged
from conjoint.scripts.rubric.shared.page import Table, share

_MASKED = 0.1
"""Share of masked pairs that is said aloud."""

Points = Iterable[tuple[str, float]]
"""(task id, value in [0, 1])."""


def clustered(points: Points) -> Interval | None:
    """The mean over prompts; None of nothing."""
    tasks: dict[str, list[float]] = {}
    for task, value in points:
        tasks.setdefault(task, []).append(value)
    if not tasks:
        return None
    return clustered_interval([fmean(v) for v in tasks.values()], max(map(len, tasks.values())))


def swap_consistency(judged: Sequence[Judged]) -> Interval | None:
    """Share of pairs, readable in both orders, whose winner did not change with its place."""
    return clustered(
        (p.group.task.id, float(p.consistent)) for p in judged if p.consistent is not None
    )


def tie_share(judged: Sequence[Judged]) -> Interval | None:
    return clustered((p.group.task.id, float(p.winner == "tie")) for p in _read(judged))


def longer_wins(judged: Sequence[Judged]) -> Interval | None:
    """Share of decided pairs of unequal length that the longer answer won."""
    return clustered(
        (p.group.task.id, float((p.winner == "A") == (len(p.a) > len(p.b))))
        for p in _read(judged)
        if p.winner != "tie" and len(p.a) != len(p.b)
    )


def first_wins(judged: Sequence[Judged]) -> Interval | None:
    """Share of single verdicts with a winner that name the answer shown first."""
    return clustered(
        (p.group.task.id, float(verdict.winner == "A"))
        for p in judged
        for verdict in p.orders or ()
        if verdict.winner != "tie"
    )


def habits(judged: Sequence[Judged]) -> Table:
    """How the judge behaved, whatever is right."""
    how = Counter(p.how for p in judged)
    rows = [
        ("pairs", f"{len(judged):,}"),
        ("  judged in both orders", f"{how['judged']:,}"),
        ("  settled by code", f"{how['code']:,}"),
        ("  masked: a reply could not be read", f"{how['unreadable']:,}"),
        ("  masked: the judge failed", f"{how['failed']:,}"),
        ("swap-consistency", share(swap_consistency(judged))),
        ("ties", share(tie_share(judged))),
        ("the longer answer wins (50 % is unbiased)", share(longer_wins(judged))),
        ("the first answer wins (50 % is unbiased)", share(first_wins(judged))),
    ]
    note = (
        "[ ] 95 % intervals, n prompts (pairs of one are not independent); shares of judged pairs."
    )
    return Table("The judge", ("figure", "value"), rows, note)


def warnings(judged: Sequence[Judged]) -> list[str]:
    """What makes the figures of a judge worth little, in words."""
    said = []
    masked = sum(p.winner is None for p in judged)
    if masked > _MASKED * len(judged):
        said.append(
            f"{masked} of {len(judged)} pairs are masked, which a run would learn nothing from; "
            "look at judge.template, judge.max_tokens and max_model_len."
        )
    consistent = swap_consistency(judged)
    if consistent is not None and consistent.hi < 0.5:
        said.append(
            "On most pairs the verdict follows the place of an answer and not the answer: those "
            "are ties, from which a run gets no advantage. This judge cannot tell them apart."
        )
    return said


def _read(judged: Sequence[Judged]) -> list[Judged]:
    return [p for p in judged if p.how == "judged"]
