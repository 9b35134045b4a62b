"""Rewards of one group -> advantages: what the policy loss sees. One dict of pure functions.

A trajectory without a reward, or FAILED, gets no advantage; nor does anybody in a group with fewer
than two graded members, because there is nothing to compare with.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from rl.types import ConjointError, Group, Status, derive_seed

Estimator = Callable[[Sequence[float]], list[float]]

_STD_FLOOR = 1e-6


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


ESTIMATORS: dict[str, Estimator] = {
    "mean": mean_baseline,
    "group_std": group_std,
    "leave_one_out": leave_one_out,
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
    groups: Sequence[Group], config: AdvantageConfig, seed: int
) -> dict[str, float]:
    """Set `advantage` on every trajectory; returns shares that describe the batch.

    `seed` decides the permutations of `shuffle_rewards`: the same seed, the same permutations.
    """
    estimate = ESTIMATORS[config.estimator]
    trajectories = graded = equal = silent = 0
    for group in groups:
        members = [t for t in group.graded if t.status is not Status.FAILED]
        rewards = [t.reward for t in members if t.reward is not None]
        trajectories += len(group.trajectories)
        graded += len(members)
        for trajectory in group.trajectories:
            trajectory.advantage = None
        if len(members) < 2:
            silent += 1
            continue
        equal += min(rewards) == max(rewards)
        if config.shuffle_rewards:
            _rng(seed, group).shuffle(rewards)
            for trajectory, reward in zip(members, rewards, strict=True):
                trajectory.metrics["shuffled_reward"] = reward
        for trajectory, advantage in zip(members, estimate(rewards), strict=True):
            trajectory.advantage = advantage * config.scale.get(group.task.kind, 1.0)
    return {
        "advantage/graded_share": graded / max(trajectories, 1),
        "advantage/equal_reward_groups": equal / max(len(groups), 1),
        "advantage/groups_without": silent / max(len(groups), 1),
        "advantage/shuffled": float(config.shuffle_rewards),
    }


def _rng(seed: int, group: Group) -> random.Random:
    return random.Random(derive_seed(seed, "shuffle_rewards", group.index, group.task.id))
