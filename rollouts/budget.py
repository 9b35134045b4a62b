"""Tokens per task kind (Kimi K2 report, section 3.2.3: a budget by task type, over-budget answers
are truncated and penalised; the values are not disclosed, so all of them are config)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rl.types import Group, Status


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    enabled: bool = True
    """False: only `rollout.max_tokens` limits an answer and truncation costs nothing."""
    default: int = 64
    """Sampled tokens a trajectory for kinds that `tokens` does not name."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Sampled tokens a trajectory, by task kind."""
    penalty: float = -0.5
    """Reward of a truncated answer, in place of its score."""

    def of(self, kind: str, max_tokens: int) -> int:
        """The cap for one trajectory of this kind; never above `max_tokens`."""
        return min(self.tokens.get(kind, self.default), max_tokens) if self.enabled else max_tokens


def assign_rewards(
    groups: Iterable[Group], budget: BudgetConfig, weights: Mapping[str, float]
) -> None:
    """Scores -> reward. A failed trajectory or a null score leaves the reward null (masked).

    `weights` maps a score's name to its weight (1.0 where it is not named); the reward is the
    weighted mean, so it stays in [0, 1] unless the budget penalty replaces it.
    """
    for group in groups:
        for t in group.trajectories:
            values = [s.value for s in t.scores]
            if t.status is Status.FAILED or not values or any(v is None for v in values):
                t.reward = None
            elif t.status is Status.TRUNCATED and budget.enabled:
                t.reward = budget.penalty
            else:
                pairs = [(weights.get(s.name, 1.0), s.value or 0.0) for s in t.scores]
                t.reward = sum(w * v for w, v in pairs) / sum(w for w, _ in pairs)
