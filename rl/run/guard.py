"""Stop rules: a run that cannot be trusted ends with one sentence instead of a wasted night.

Three moments: `check_batch` and `check_judge` before the learner sees a batch (what was graded, and
whether the judge pays for length), `check_update` after an update (whether engine and learner still
agree, whether the loss is a number), `check_critic` after an evaluation (whether the critic has
become worse).
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rl.stats.intervals import Scores, mean_interval, paired_difference

LENGTH_WINDOW = 200
"""Groups that length bias is measured over, the last ones: a judge may become biased late."""
LENGTH_GROUPS = 20
"""Fewer groups never stop a run, whatever the limit."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """Limits; a run stops when a figure is beyond one. A limit of 1 on a share never fires."""

    max_gap: float = 0.05
    """Mean absolute difference of engine and learner log-probs, in nats a token."""
    min_graded_share: float = 0.5
    """Graded answers among all answers of a batch."""
    max_masked_share: float = 0.5
    """Ungraded answers among the answers of one kind in a batch."""
    max_longer_wins: float = 0.9
    """Length bias of the judge: the share of decided pairs of unequal length that the longer answer
    wins, a mean over the last groups. The lower end of its 95 % interval must stay at or below."""
    max_judge_drop: float = 1.0
    """How far the policy's accuracy as judge of the held-out pairs may fall below that at the
    start; the upper end of the paired 95 % interval of the change must stay at or above."""
    max_nonfinite_steps: int = 3
    """Steps in a row with an update skipped because its loss or gradient was not finite, or with a
    gap that is not a number. The run then stops and stores the batch for `replay=`."""
    dump_steps: list[int] = field(default_factory=list)
    """Steps (from 1) whose batch is stored for `replay=` before it is trained on."""

    def validate(self) -> None:
        if not self.max_gap > 0:
            raise ConjointError(f"guard.max_gap is {self.max_gap}; it must be above 0.")
        for key in ("min_graded_share", "max_masked_share", "max_longer_wins", "max_judge_drop"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ConjointError(f"guard.{key} is {value}; it is a share between 0 and 1.")
        if self.max_nonfinite_steps < 1:
            raise ConjointError(
                f"guard.max_nonfinite_steps is {self.max_nonfinite_steps}; it must be 1 or more."
            )
        if any(step < 1 for step in self.dump_steps):
            raise ConjointError(f"guard.dump_steps is {self.dump_steps}; steps count from 1.")


class NonfiniteStop(StopRun):
    """Too many steps in a row were not finite; the last batch is worth keeping."""


class Guard:
    """Remembers how many steps in a row were not finite, and the length bias of the last groups."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._nonfinite_steps = 0
        self._longer_wins: deque[float] = deque(maxlen=LENGTH_WINDOW)

    def state(self) -> dict[str, Any]:
        return {"nonfinite_steps": self._nonfinite_steps, "longer_wins": list(self._longer_wins)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._nonfinite_steps = state["nonfinite_steps"]
        self._longer_wins = deque(state["longer_wins"], maxlen=LENGTH_WINDOW)

    def check_judge(self, longer_wins: Sequence[float]) -> dict[str, float]:
        """`longer_wins`: of each group judged since the last call, the share of decided pairs of
        unequal length that the longer answer won. Returns the lower end of the interval.

        A group is one observation, for its pairs share their answers.
        """
        self._longer_wins.extend(longer_wins)
        if len(self._longer_wins) < LENGTH_GROUPS:
            return {}
        found, limit = mean_interval(list(self._longer_wins)), self._config.max_longer_wins
        if found.lo > limit:
            raise StopRun(
                f"The judge has a length bias: the longer of two answers wins {found.mean:.0%} of "
                f"the pairs that it decides ({found.lo:.1%} or more at 95 % confidence, over "
                f"{found.n} groups; guard.max_longer_wins is {limit:.0%}), so the policy would "
                "learn to be long; read the verdicts in the rollouts file of this step, change "
                "reward.rubrics or judge.policy, or set guard.max_longer_wins=1 if the rubrics ask "
                "for length."
            )
        return {"judge/longer_wins_low": found.lo}

    def check_critic(self, start: Scores, now: Scores) -> None:
        """The policy's scores as judge of the held-out pairs at the start and now, by pair."""
        both, limit = sorted(start.keys() & now.keys()), self._config.max_judge_drop
        if limit == 1 or not both:
            return
        change = paired_difference([start[k] for k in both], [now[k] for k in both])
        if change.hi < -limit:
            raise StopRun(
                f"The policy as judge is right on {-change.mean:.1%} fewer of the {change.n} "
                f"held-out pairs than at the start ({-change.hi:.1%} or more at 95 % confidence; "
                f"guard.max_judge_drop is {limit:.0%}), so its verdicts no longer say what is "
                "good; resume from an earlier checkpoint with critic.refine=true, a higher "
                "critic.weight or judge.policy=promoted."
            )

    def check_batch(self, metrics: Mapping[str, float]) -> None:
        """Raises StopRun if too little of a batch was graded (`step_metrics` before training)."""
        self._check_graded(metrics)
        self._check_masked(metrics)

    def check_update(self, metrics: Mapping[str, float]) -> None:
        """Raises NonfiniteStop on repeated steps that were not finite, StopRun on a log-prob gap
        above its limit."""
        self._check_finite(metrics)
        self._check_gap(metrics)

    def _check_graded(self, metrics: Mapping[str, float]) -> None:
        share, limit = metrics.get("graded_share", 1.0), self._config.min_graded_share
        if share < limit:
            raise StopRun(
                f"Only {share:.0%} of the answers of this batch could be graded "
                f"(guard.min_graded_share is {limit:.0%}); the reasons are in the rollouts file of "
                "this step: mend the reward or the sandbox, then resume."
            )

    def _check_masked(self, metrics: Mapping[str, float]) -> None:
        shares = {k[len("masked/") :]: v for k, v in metrics.items() if k.startswith("masked/")}
        kind = max(shares, key=lambda k: shares[k], default="")
        if kind and shares[kind] > self._config.max_masked_share:
            raise StopRun(
                f"{shares[kind]:.0%} of the {kind} answers of this batch were masked "
                f"(guard.max_masked_share is {self._config.max_masked_share:.0%}), so what is left "
                f"is a biased sample; read their reasons in the rollouts file of this step, mend "
                f"the {kind} reward, then resume."
            )

    def _check_finite(self, metrics: Mapping[str, float]) -> None:
        bad = [k for k in ("loss/total", "gap/mean") if not math.isfinite(metrics.get(k, 0.0))]
        if metrics.get("nonfinite"):
            # A skipped update leaves no loss behind that could tell.
            bad.insert(0, "the loss or its gradient")
        self._nonfinite_steps = self._nonfinite_steps + 1 if bad else 0
        if self._nonfinite_steps >= self._config.max_nonfinite_steps:
            raise NonfiniteStop(
                f"{' and '.join(bad)} has not been a finite number for {self._nonfinite_steps} "
                f"steps in a row (guard.max_nonfinite_steps is "
                f"{self._config.max_nonfinite_steps}); find the cause, or resume from an earlier "
                "checkpoint with a lower optim.lr."
            )

    def _check_gap(self, metrics: Mapping[str, float]) -> None:
        gap, limit = metrics.get("gap/mean", 0.0), self._config.max_gap
        if not gap > limit:
            return
        worst = _worst_kind(metrics)
        raise StopRun(
            f"Engine and learner disagree by {gap:.3g} nats a token on the same tokens{worst} "
            f"(guard.max_gap is {limit:g}), so the policy that samples is not the one being "
            "trained; check that both use the same weights, dtype and sampling parameters, or "
            "raise the limit if the difference is only numerics."
        )


def _worst_kind(metrics: Mapping[str, float]) -> str:
    gaps = {
        k[len("gap/") :]: v
        for k, v in metrics.items()
        if k.startswith("gap/") and k not in ("gap/mean", "gap/max") and math.isfinite(v)
    }
    kind = max(gaps, key=lambda k: gaps[k], default="")
    return f", most in {kind} ({gaps[kind]:.3g})" if kind else ""
