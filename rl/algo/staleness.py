"""How old the weights were that drew the tokens of a batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from conjoint.envs.types import Group, StopRun, Trajectory


def staleness_metrics(groups: Sequence[Group], step: int, bound: int) -> dict[str, float]:
    """`staleness/mean` and `/max` in versions, and `staleness/share_N` of the sampled tokens for
    each N up to `bound`; `staleness/mixed` is the share of answers drawn by several versions.

    Raises StopRun for a token older than the bound.
    """
    answers = [t for g in groups for t in g.trajectories if t.num_sampled]
    ages = Counter(step - v for t in answers for v in t.versions if v >= 0)
    total = sum(ages.values())
    if not total:
        return {}
    if max(ages) > bound or min(ages) < 0:
        raise StopRun(
            f"a token of this step's batch was drawn {max(ages)} versions ago, but "
            f"rollout.max_staleness is {bound}: the scheduler broke its own rule"
        )
    mixed = sum(len({v for v in t.versions if v >= 0}) > 1 for t in answers)
    return {
        "staleness/mean": sum(age * n for age, n in ages.items()) / total,
        "staleness/max": float(max(ages)),
        "staleness/mixed": mixed / len(answers),
        **{f"staleness/share_{age}": ages[age] / total for age in range(bound + 1)},
    }


def newest_only(groups: Sequence[Group]) -> list[Group]:
    """The same groups with an answer's tokens of older weights than its newest as context (Kimi
    K1.5, 2.6.2, may leave earlier segments out of the loss)."""
    return [
        replace(group, trajectories=[_newest(t) for t in group.trajectories]) for group in groups
    ]


def _newest(trajectory: Trajectory) -> Trajectory:
    newest = max(trajectory.versions, default=-1)
    sampled = [
        s and v == newest for s, v in zip(trajectory.sampled, trajectory.versions, strict=True)
    ]
    return replace(trajectory, sampled=sampled)
