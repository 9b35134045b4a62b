"""Scores -> reward: the one place where weights, token budgets and length rules meet.

A truncated answer gets the budget's penalty in place of its score (Kimi K2 report, section 3.2.3).
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from conjoint.envs.types import Group, Status, Trajectory
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.lengths import above_limit, length_rewards


def assign_rewards(
    groups: Iterable[Group],
    budget: BudgetConfig,
    weights: Mapping[str, float],
    step: int = 0,
    limits: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Scores -> reward. A failed trajectory or a null score leaves the reward null (masked).

    `weights` maps a score's name to its weight (1.0 where it is not named); the reward is the
    weighted mean, so it stays in [0, 1] unless budget or length take from it or add to it. `limits`
    are Toggle's length limits by kind in this step. What an answer lost or gained by its length is
    in its `metrics`.
    """
    for group in groups:
        for t in group.trajectories:
            t.reward, t.reward_parts = None, {}
            for name in ("above_limit", "length_reward"):
                t.metrics.pop(name, None)
        kind, members = group.task.kind, _gradable(group)
        scores = [paid_score(t, budget, weights) for t in members]
        lengths = [t.num_sampled for t in members]
        cut = above_limit(scores, lengths, limits.get(kind), budget.toggle.min_score)
        kept = [0.0 if c else score for c, score in zip(cut, scores, strict=True)]
        weight = budget.length.weight_at(kind, step)
        bonuses = [weight * x for x in length_rewards(lengths, [s >= 1 for s in kept])]
        for t, over, bonus in zip(members, cut, bonuses, strict=True):
            if _cut_off(t, budget):
                t.reward = budget.penalty
                t.reward_parts = {s.name: budget.penalty for s in t.scores}
                continue
            extra = bonus + budget.penalty * budget.lateness(t.num_sampled, t.budget)
            values = [0.0 if over else s.value or 0.0 for s in t.scores]
            parts = [(s.name, value + extra) for s, value in zip(t.scores, values, strict=True)]
            t.reward, t.reward_parts = _weighted(parts, weights), dict(parts)
            t.metrics |= {"above_limit": float(over)} if kind in limits else {}
            t.metrics |= {"length_reward": bonus} if weight else {}


def correct_lengths(
    groups: Iterable[Group], budget: BudgetConfig, weights: Mapping[str, float]
) -> dict[str, list[int]]:
    """Lengths of the answers that every check paid in full, by kind: what Toggle learns from."""
    found: dict[str, list[int]] = {}
    for group in groups:
        members = _gradable(group)
        right = [t.num_sampled for t in members if paid_score(t, budget, weights) >= 1]
        found.setdefault(group.task.kind, []).extend(right)
    return found


def paid_score(t: Trajectory, budget: BudgetConfig, weights: Mapping[str, float]) -> float:
    """Weighted mean of what the checks say of a graded answer, whatever its confidence; 0 if it was
    cut off at a budget."""
    if _cut_off(t, budget):
        return 0.0
    return _weighted([(s.name, s.value or 0.0) for s in t.checks], weights)


def _cut_off(t: Trajectory, budget: BudgetConfig) -> bool:
    return t.status is Status.TRUNCATED and budget.enabled


def _gradable(group: Group) -> list[Trajectory]:
    """The members that get a reward: not failed, and every check has a value."""
    return [
        t
        for t in group.trajectories
        if t.status is not Status.FAILED and t.scores and not any(s.value is None for s in t.scores)
    ]


def _weighted(values: list[tuple[str, float]], weights: Mapping[str, float]) -> float:
    pairs = [(weights.get(name, 1.0), value) for name, value in values]
    return sum(w * v for w, v in pairs) / sum(w for w, _ in pairs)
