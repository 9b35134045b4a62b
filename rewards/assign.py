"""Scores -> reward: the one place where reward weights, token budgets and length rules meet.

A truncated answer gets the budget's penalty in place of its scores (Kimi K2 report, arXiv
2507.20534, section 3.2.3).
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from conjoint.envs.types import Group, Outcome, Score, Status, Trajectory
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.lengths import above_limit, length_rewards


def assign_rewards(
    groups: Iterable[Group],
    budget: BudgetConfig,
    weights: Mapping[str, float],
    step: int = 0,
    limits: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Set `reward` and `reward_parts` of each trajectory, both empty for a masked one.

    The reward is the weighted mean of the scores that count; `weights` maps the name of a score to
    its weight, by default 1.0. A score that abstains does not count. A trajectory is masked (reward
    None) if it failed, if one of its scores failed, or if none that has a weight counts. The reward
    lies in [0, 1] before budget and length rules change it. `step` is 0-based. `limits` maps a task
    kind to Toggle's length limit, in tokens, where it binds in this step. `metrics` of the
    trajectory record what its length has cost or paid.
    """
    for group in groups:
        # The replacement of flat groups may have assigned rewards before.
        for t in group.trajectories:
            t.reward, t.reward_parts = None, {}
            for name in ("above_limit", "length_reward"):
                t.metrics.pop(name, None)
        kind, members = group.task.kind, _gradable(group, weights)
        scores = [paid_score(t, budget, weights) for t in members]
        lengths = [t.num_sampled for t in members]
        # Toggle pays nothing above the limit; such an answer cannot earn a length bonus either.
        cut = above_limit(scores, lengths, limits.get(kind), budget.toggle.min_score)
        kept = [0.0 if c else score for c, score in zip(cut, scores, strict=True)]
        weight = budget.length.weight_at(kind, step)
        bonuses = [weight * x for x in length_rewards(lengths, [s >= 1 for s in kept])]
        for t, over, bonus in zip(members, cut, bonuses, strict=True):
            if _cut_off(t, budget):
                # The parts too: gdpo computes advantages from them and not from the reward.
                t.reward = budget.penalty
                t.reward_parts = {s.name: budget.penalty for s in _counted(t)}
                continue
            # Added to each part, so that the weighted mean of the parts stays the reward.
            extra = bonus + budget.penalty * budget.lateness(t.num_sampled, t.budget)
            parts = [(s.name, (0.0 if over else s.value or 0.0) + extra) for s in _counted(t)]
            t.reward, t.reward_parts = _weighted(parts, weights), dict(parts)
            t.metrics |= {"above_limit": float(over)} if kind in limits else {}
            t.metrics |= {"length_reward": bonus} if weight else {}


def correct_lengths(
    groups: Iterable[Group], budget: BudgetConfig, weights: Mapping[str, float]
) -> dict[str, list[int]]:
    """Task kind -> sampled tokens of each answer with full score, from which Toggle sets limits."""
    found: dict[str, list[int]] = {}
    for group in groups:
        members = _gradable(group, weights)
        right = [t.num_sampled for t in members if paid_score(t, budget, weights) >= 1]
        found.setdefault(group.task.kind, []).extend(right)
    return found


def paid_score(t: Trajectory, budget: BudgetConfig, weights: Mapping[str, float]) -> float:
    """Weighted mean of the scores of a graded answer, without that of its stated confidence.

    0 if the answer was cut off and budgets are on, or if no check of it has a weight.
    """
    if _cut_off(t, budget):
        return 0.0
    return _weighted([(s.name, s.value or 0.0) for s in t.checks], weights)


def _cut_off(t: Trajectory, budget: BudgetConfig) -> bool:
    """Whether the answer gets the penalty: without budgets a truncated answer keeps its scores."""
    return t.status is Status.TRUNCATED and budget.enabled


def _counted(t: Trajectory) -> list[Score]:
    """The scores that do not abstain."""
    return [s for s in t.scores if s.outcome is not Outcome.ABSTAIN]


def _gradable(group: Group, weights: Mapping[str, float]) -> list[Trajectory]:
    """The members that get a reward: not failed, and the scores that count have values, at least
    one of them with a weight above 0."""
    return [
        t
        for t in group.trajectories
        if t.status is not Status.FAILED
        and all(s.value is not None for s in _counted(t))
        and any(weights.get(s.name, 1.0) > 0 for s in _counted(t))
    ]


def _weighted(values: list[tuple[str, float]], weights: Mapping[str, float]) -> float:
    """Weighted mean of (name, value) pairs; 0 where they weigh nothing."""
    pairs = [(weights.get(name, 1.0), value) for name, value in values]
    total = sum(w for w, _ in pairs)
    return sum(w * v for w, v in pairs) / total if total else 0.0
