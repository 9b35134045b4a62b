"""Rewards of a batch -> advantages: what the policy loss sees. One dict of pure functions.

A trajectory without a reward, or FAILED, gets no advantage; nor does anybody in a group with fewer
than two graded members, because there is nothing to compare with.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from types import MappingProxyType

from conjoint.envs.types import ConjointError, Group, Status, Trajectory, derive_seed

_STD_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """The graded members of one group, at least two, in order."""

    rewards: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Name of a score -> what it pays each member; `rewards` is the weighted mean of these."""


Estimator = Callable[[Sequence[GroupRewards], Mapping[str, float]], list[list[float]]]
"""(the groups of a batch, weight of each score or 1) -> one advantage a member."""


def mean_baseline(rewards: Sequence[float]) -> list[float]:
    """r - mean(r): Kimi K2's baseline (arXiv 2507.20534, section 3.2.3)."""
    mean = fmean(rewards)
    return [r - mean for r in rewards]


def group_std(rewards: Sequence[float]) -> list[float]:
    """(r - mean(r)) / std(r), std with n-1: GRPO (arXiv 2402.03300)."""
    scale = stdev(rewards) + _STD_FLOOR
    return [a / scale for a in mean_baseline(rewards)]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r_i minus the mean of the others, which is n/(n-1) * (r - mean(r)): RLOO (2402.14740)."""
    n = len(rewards)
    return [a * n / (n - 1) for a in mean_baseline(rewards)]


def batch_std(groups: Sequence[GroupRewards], _: Mapping[str, float]) -> list[list[float]]:
    """(r - mean of the group) / std of that over the batch: REINFORCE++ with a group baseline
    (arXiv 2501.03262), ScaleRL (2510.13786). An easy group is not blown up as by its own std."""
    return _over_batch_std([mean_baseline(group.rewards) for group in groups])


def gdpo(groups: Sequence[GroupRewards], weights: Mapping[str, float]) -> list[list[float]]:
    """GDPO (arXiv 2601.05242): each reward normalised by itself within the group, their weighted
    sum, then the std of the batch. Two answers of equal sum but different parts stay apart."""
    sums = []
    for group in groups:
        parts = [
            [weights.get(name, 1.0) * a for a in group_std(values)]
            for name, values in group.parts.items()
        ]
        sums.append([sum(member) for member in zip(*parts, strict=True)])
    return _over_batch_std(sums)


def _over_batch_std(centred: list[list[float]]) -> list[list[float]]:
    """Each group's mean is 0 already, so the batch's is too and only its std is left."""
    scale = stdev([a for group in centred for a in group]) + _STD_FLOOR if centred else 1.0
    return [[a / scale for a in group] for group in centred]


def _by_group(of_group: Callable[[Sequence[float]], list[float]]) -> Estimator:
    """Lifts what looks at one group's rewards only."""

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
    """One of `ESTIMATORS`."""
    scale: dict[str, float] = field(default_factory=dict)
    """Factor on the advantages of a task kind, 1 where it is not named. Below 1 it calms a kind
    whose signal is mostly noise, such as the verdicts of a weak critic."""
    shuffle_rewards: bool = False
    """Control experiment: advantages are computed from rewards permuted inside each group, so
    that they carry no information about the answers. Nothing should be learned."""

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
    """Set `advantage` on every trajectory; returns shares that describe the batch.

    `seed` decides the permutations of `shuffle_rewards`: the same seed, the same permutations.
    `weights` are those of the scores, 1 where one is not named.
    """
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
    """What the estimator may see of one group; the parts are permuted together with the whole."""
    order = list(range(len(members)))
    if config.shuffle_rewards:
        _rng(seed, group).shuffle(order)
    rewards = [t.reward for t in (members[i] for i in order) if t.reward is not None]
    if config.shuffle_rewards:
        for trajectory, reward in zip(members, rewards, strict=True):
            trajectory.metrics["shuffled_reward"] = reward
    names = members[0].reward_parts
    return GroupRewards(rewards, {n: [members[i].reward_parts[n] for i in order] for n in names})


def _rng(seed: int, group: Group) -> random.Random:
    return random.Random(derive_seed(seed, "shuffle_rewards", group.index, group.task.id))
