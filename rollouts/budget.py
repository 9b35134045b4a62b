"""Tokens per task kind (Kimi K2 report, section 3.2.3: a budget by task type, over-budget answers
are truncated and penalised; the values are not disclosed, so all of them are config)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rl.types import ConjointError, Group, Status


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
    soft_share: float = 0.0
    """Last share of a budget in which a finished answer pays too: nothing where the share begins,
    the whole penalty at the budget, in a line (DAPO's soft overlong punishment, arXiv 2503.14476,
    where it is 0.2). 0 is off."""

    def validate(self) -> None:
        if not 0 <= self.soft_share <= 1:
            raise ConjointError(f"budget.soft_share={self.soft_share} must lie between 0 and 1")
        if self.soft_share and not self.enabled:
            raise ConjointError(
                f"budget.soft_share={self.soft_share} has no effect with budget.enabled=false; "
                "remove it or turn budgets on"
            )

    def of(self, kind: str, max_tokens: int) -> int:
        """The cap for one trajectory of this kind; never above `max_tokens`."""
        return min(self.tokens.get(kind, self.default), max_tokens) if self.enabled else max_tokens

    def lateness(self, tokens: int, cap: int) -> float:
        """How far an answer of so many tokens reaches into the last share of its cap: 0 to 1."""
        if not self.soft_share:
            return 0.0
        return max(0.0, 1 - (1 - tokens / cap) / self.soft_share)


def assign_rewards(
    groups: Iterable[Group], budget: BudgetConfig, weights: Mapping[str, float], max_tokens: int
) -> None:
    """Scores -> reward. A failed trajectory or a null score leaves the reward null (masked).

    `weights` maps a score's name to its weight (1.0 where it is not named); the reward is the
    weighted mean, so it stays in [0, 1] unless the budget takes from it. `max_tokens` caps every
    budget.
    """
    for group in groups:
        cap = budget.of(group.task.kind, max_tokens)
        for t in group.trajectories:
            values = [s.value for s in t.scores]
            t.reward, t.reward_parts = None, {}
            if t.status is Status.FAILED or not values or any(v is None for v in values):
                continue
            if t.status is Status.TRUNCATED and budget.enabled:
                t.reward = budget.penalty
                t.reward_parts = {s.name: budget.penalty for s in t.scores}
                continue
            late = budget.penalty * budget.lateness(t.num_sampled, cap)
            t.reward_parts = {s.name: (s.value or 0.0) + late for s in t.scores}
            pairs = [(weights.get(s.name, 1.0), (s.value or 0.0) + late) for s in t.scores]
            t.reward = sum(w * v for w, v in pairs) / sum(w for w, _ in pairs)
