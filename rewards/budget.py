"""Token budgets by task kind (Kimi K2 report, arXiv 2507.20534, section 3.2.3).

An answer above its budget is truncated and penalised; `rewards/assign.py` applies the penalty. The
report discloses no values, so all of them are configuration.
"""

from dataclasses import dataclass, field

from conjoint.envs.types import ConjointError
from conjoint.rewards.lengths import LengthRewardConfig, ToggleConfig
from conjoint.rollouts.schedule import SCHEDULES, scheduled


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
    """Reward of a truncated answer, in place of its score; at most 0, the score of a wrong one."""
    soft_share: float = 0.0
    """Last share of a budget in which a finished answer pays too: nothing where the share begins,
    the whole penalty at the budget, in a line (DAPO's soft overlong punishment, arXiv 2503.14476,
    where it is 0.2). 0 is off."""
    toggle: ToggleConfig = field(default_factory=ToggleConfig)
    length: LengthRewardConfig = field(default_factory=LengthRewardConfig)

    def validate(self) -> None:
        if not 0 <= self.soft_share <= 1:
            raise ConjointError(f"budget.soft_share={self.soft_share} must lie between 0 and 1")
        if not float("-inf") < self.penalty <= 0:
            raise ConjointError(
                f"budget.penalty={self.penalty} must be 0 or less: above 0 an answer that is cut "
                "off pays more than a wrong one that ends"
            )
        self._validate_schedule()
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
