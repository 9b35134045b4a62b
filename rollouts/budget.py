"""Tokens per task kind (Kimi K2 report, section 3.2.3: a budget by task type, over-budget answers
are truncated and penalised; the values are not disclosed, so all of them are config), and the one
place where scores become a reward."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rl.types import ConjointError, Group, Status, Trajectory
from rollouts.lengths import LengthRewardConfig, ToggleConfig, above_limit, length_rewards
from rollouts.schedule import SCHEDULES, scheduled


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    enabled: bool = True
    """False: only `rollout.max_tokens` limits an answer and truncation costs nothing."""
    default: int = 64
    """Sampled tokens a trajectory for kinds that `tokens` does not name."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Sampled tokens a trajectory, by task kind."""
    schedule: str = "constant"
    """constant; or linear or cosine from those values at the first step to the two below at the
    last one. A kind without an end of its own ends at `end_default`."""
    end_default: int | None = None
    """null: as at the first step."""
    end_tokens: dict[str, int] = field(default_factory=dict)
    penalty: float = -0.5
    """Reward of a truncated answer, in place of its score."""
    soft_share: float = 0.0
    """Last share of a budget in which a finished answer pays too: nothing where the share begins,
    the whole penalty at the budget, in a line (DAPO's soft overlong punishment, arXiv 2503.14476,
    where it is 0.2). 0 is off."""
    toggle: ToggleConfig = field(default_factory=ToggleConfig)
    length: LengthRewardConfig = field(default_factory=LengthRewardConfig)

    def validate(self) -> None:
        if not 0 <= self.soft_share <= 1:
            raise ConjointError(f"budget.soft_share={self.soft_share} must lie between 0 and 1")
        self._validate_schedule()
        self.toggle.validate()
        self.length.validate()
        needs_budgets = {
            "soft_share": self.soft_share,
            "schedule": self.schedule if self.schedule != "constant" else "",
            "toggle.every": self.toggle.every,
        }
        for key, value in needs_budgets.items():
            if value and not self.enabled:
                raise ConjointError(
                    f"budget.{key}={value} has no effect with budget.enabled=false; remove it or "
                    "turn budgets on"
                )

    def _validate_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConjointError(
                f"budget.schedule is {self.schedule!r}; choose one of {list(SCHEDULES)}"
            )
        ends = self.end_tokens or self.end_default is not None
        if self.schedule == "constant" and ends:
            raise ConjointError(
                "budget.end_tokens and budget.end_default have no effect with "
                "budget.schedule=constant; choose linear or cosine"
            )
        if self.schedule != "constant" and not ends:
            raise ConjointError(
                f"budget.schedule={self.schedule} needs budget.end_tokens or budget.end_default: "
                "where the budgets should end"
            )
        for key, tokens in (
            ("default", self.default),
            ("end_default", 1 if self.end_default is None else self.end_default),
            *((f"tokens.{kind}", n) for kind, n in self.tokens.items()),
            *((f"end_tokens.{kind}", n) for kind, n in self.end_tokens.items()),
        ):
            if tokens < 1:
                raise ConjointError(f"budget.{key}={tokens} must be at least 1 token")

    def of(self, kind: str, max_tokens: int, progress: float = 0.0) -> int:
        """The cap for one trajectory of this kind after `progress` in [0, 1] of the run; never
        above `max_tokens`."""
        if not self.enabled:
            return max_tokens
        start = self.tokens.get(kind, self.default)
        end = self.end_tokens.get(kind, start if self.end_default is None else self.end_default)
        return min(round(scheduled(self.schedule, start, end, progress)), max_tokens)

    def largest(self, kind: str, max_tokens: int) -> int:
        """The largest cap that this kind has in a run."""
        return max(self.of(kind, max_tokens), self.of(kind, max_tokens, 1.0))

    def lateness(self, tokens: int, cap: int) -> float:
        """How far an answer of so many tokens reaches into the last share of its cap: 0 to 1."""
        if not self.soft_share:
            return 0.0
        return max(0.0, 1 - (1 - tokens / cap) / self.soft_share)


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
