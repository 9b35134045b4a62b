"""Rewards -> advantages, by pure functions in the dict `ESTIMATORS`.

A trajectory that has FAILED or has no reward gets no advantage. The same holds for each trajectory
of a group with fewer than two graded members: there is nothing to compare its reward with.

In the formulas r is the reward of one trajectory, mean(r) and std(r) are taken over its group.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from types import MappingProxyType

from conjoint.envs.types import ConjointError, Group, Status, Trajectory, derive_seed

_STD_FLOOR = 1e-6
"""Added to a standard deviation before dividing by it; equal rewards have 0."""


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """Rewards of the graded members of one group, two or more, in the order of the members."""

    rewards: list[float]
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    """Name of a score -> the reward of each member from that score alone, None where it abstained.
    `rewards` is the weighted mean of these."""


Estimator = Callable[[Sequence[GroupRewards], Mapping[str, float]], list[list[float]]]
"""(groups of a batch, name of a score -> its weight, by default 1) -> advantages of each group's
members."""


def mean_baseline(rewards: Sequence[float]) -> list[float]:
    """r - mean(r): Kimi K2's baseline (arXiv 2507.20534, section 3.2.3)."""
    mean = fmean(rewards)
    return [r - mean for r in rewards]


def group_std(rewards: Sequence[float]) -> list[float]:
    """(r - mean(r)) / std(r): GRPO (arXiv 2402.03300). The variance is divided by n - 1."""
    scale = stdev(rewards) + _STD_FLOOR
    return [a / scale for a in mean_baseline(rewards)]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r minus the mean of the other rewards of its group: RLOO (arXiv 2402.14740).

    Computed as n / (n - 1) * (r - mean(r)), which is the same.
    """
    n = len(rewards)
    return [a * n / (n - 1) for a in mean_baseline(rewards)]


def batch_std(groups: Sequence[GroupRewards], _: Mapping[str, float]) -> list[list[float]]:
    """r - mean(r), divided by the standard deviation of these differences over the batch.

    REINFORCE++ with a group baseline (arXiv 2501.03262) and ScaleRL (arXiv 2510.13786). Unlike
    std(r), this does not inflate the small differences within an easy group.
    """
    return _over_batch_std([mean_baseline(group.rewards) for group in groups])


def gdpo(groups: Sequence[GroupRewards], weights: Mapping[str, float]) -> list[list[float]]:
    """GDPO (arXiv 2601.05242), for kinds with several scores.

    Each score is normalised within the group by `group_std`. The weighted sum of these is divided
    by its standard deviation over the batch. Two answers whose scores differ but have equal means
    get different advantages. A score that abstained from an answer adds nothing to it.
    """
    sums = []
    for group in groups:
        parts = [
            [weights.get(name, 1.0) * a for a in _std_of_known(values)]
            for name, values in group.parts.items()
        ]
        sums.append([sum(member) for member in zip(*parts, strict=True)])
    return _over_batch_std(sums)


def _std_of_known(values: Sequence[float | None]) -> list[float]:
    """`group_std` over the members that have a value; 0 for the others, and for one by itself."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [0.0] * len(values)
    found = iter(group_std(known))
    return [0.0 if value is None else next(found) for value in values]


def _over_batch_std(centred: list[list[float]]) -> list[list[float]]:
    """Divide by the standard deviation over the batch. Each group must have mean 0 already."""
    scale = stdev([a for group in centred for a in group]) + _STD_FLOOR if centred else 1.0
    return [[a / scale for a in group] for group in centred]


def _by_group(of_group: Callable[[Sequence[float]], list[float]]) -> Estimator:
    """An `Estimator` that applies `of_group` to the rewards of each group by itself."""

    def estimate(groups: Sequence[GroupRewards], _: Mapping[str, float]) -> list[list[float]]:
        return [of_group(group.rewards) for group in groups]

    return estimate


ESTIMATORS: dict[str, Estimator] = {
    "mean": _by_group(mean_baseline),
    "group_std": _by_group(group_std),
    "leave_one_out": _by_group(leave_one_out),
    "batch_std": batch_std,
    "gdpo": gdpo,
}


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """How the rewards of a group become advantages."""

    estimator: str = "mean"
    """Name of the function; one of `ESTIMATORS`."""
    scale: dict[str, float] = field(default_factory=dict)
    """Task kind -> factor on its advantages, by default 1. A factor below 1 damps a kind whose
    rewards are mostly noise, such as the verdicts of a weak critic."""
    shuffle_rewards: bool = False
    """Control experiment: compute advantages from rewards permuted within each group. They then
    carry no information about the answers, so nothing should be learned."""

    def validate(self) -> None:
        for kind, factor in self.scale.items():
            if not 0 <= factor < float("inf"):
                raise ConjointError(f"advantage.scale.{kind}={factor} must be 0 or above")
        if self.estimator not in ESTIMATORS:
            raise ConjointError(
                f"advantage.estimator is {self.estimator!r}; choose one of {sorted(ESTIMATORS)}"
            )


def assign_advantages(
    groups: Sequence[Group],
    config: AdvantageConfig,
    seed: int,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Set `advantage` of every trajectory, None for a masked one. Returns metrics of the batch.

    `seed` determines the permutations of `shuffle_rewards`. `weights` maps the name of a score to
    its weight, by default 1.
    """
    # Advantages of an earlier call must not survive where this one gives none.
    for trajectory in (t for group in groups for t in group.trajectories):
        trajectory.advantage = None
    members = [_graded(group) for group in groups]
    kept = [(group, ts) for group, ts in zip(groups, members, strict=True) if len(ts) > 1]
    rewards = [_rewards(group, ts, config, seed) for group, ts in kept]
    found = ESTIMATORS[config.estimator](rewards, weights)
    for (group, ts), advantages in zip(kept, found, strict=True):
        for trajectory, advantage in zip(ts, advantages, strict=True):
            trajectory.advantage = advantage * config.scale.get(group.task.kind, 1.0)
    equal = sum(min(r.rewards) == max(r.rewards) for r in rewards)
    trajectories = sum(len(group.trajectories) for group in groups)
    return {
        "advantage/graded_share": sum(map(len, members)) / max(trajectories, 1),
        "advantage/equal_reward_groups": equal / max(len(groups), 1),
        "advantage/groups_without": (len(groups) - len(kept)) / max(len(groups), 1),
        "advantage/shuffled": float(config.shuffle_rewards),
    }


def _graded(group: Group) -> list[Trajectory]:
    return [t for t in group.graded if t.status is not Status.FAILED]


def _rewards(
    group: Group, members: list[Trajectory], config: AdvantageConfig, seed: int
) -> GroupRewards:
    """Rewards of one group for the estimator. `shuffle_rewards` moves a reward and its parts
    together."""
    # Only the assignment of rewards to members is permuted: mean and spread of the group stay.
    order = list(range(len(members)))
    if config.shuffle_rewards:
        _rng(seed, group).shuffle(order)
    rewards = [t.reward for t in (members[i] for i in order) if t.reward is not None]
    if config.shuffle_rewards:
        for trajectory, reward in zip(members, rewards, strict=True):
            trajectory.metrics["shuffled_reward"] = reward
    names = dict.fromkeys(name for t in members for name in t.reward_parts)
    parts = {n: [members[i].reward_parts.get(n) for i in order] for n in names}
    return GroupRewards(rewards, parts)


def _rng(seed: int, group: Group) -> random.Random:
    return random.Random(derive_seed(seed, "shuffle_rewards", group.index, group.task.id))
