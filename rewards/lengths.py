"""Rewards that compare the lengths of answers: Kimi K1.5's length reward and K2.5's Toggle.

Pure functions and their settings; `rewards/assign.py` adds them to the reward.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from conjoint.envs.types import ConjointError

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class LengthRewardConfig:
    """Kimi K1.5's length reward (arXiv 2501.12599, section 2.3.3)."""

    weight: dict[str, float] = field(default_factory=dict)
    """Factor of the length reward, by task kind; 0, which is off, where one is not named."""
    warmup_steps: int = 0
    """Steps at the start of a run that go without it."""

    def validate(self) -> None:
        for kind, weight in self.weight.items():
            if not 0 <= weight < math.inf:
                raise ConjointError(f"budget.length.weight.{kind}={weight} must be 0 or above")
        if self.warmup_steps < 0:
            raise ConjointError(f"budget.length.warmup_steps={self.warmup_steps} must be 0 or more")
        if self.warmup_steps and not any(self.weight.values()):
            raise ConjointError(
                f"budget.length.warmup_steps={self.warmup_steps} has no effect without a "
                "budget.length.weight.KIND above 0"
            )

    def weight_at(self, kind: str, step: int) -> float:
        return self.weight.get(kind, 0.0) if step >= self.warmup_steps else 0.0


def length_rewards(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """One value in [-0.5, 0.5] for each answer of one group: 0.5 for the shortest, -0.5 for the
    longest, in a line between; an answer that is not correct is never paid for being short. All 0
    where all lengths are equal."""
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    if shortest == longest:
        return [0.0] * len(lengths)
    shares = [0.5 - (n - shortest) / (longest - shortest) for n in lengths]
    return [x if right else min(0.0, x) for x, right in zip(shares, correct, strict=True)]


@dataclass(frozen=True, slots=True)
class ToggleConfig:
    """Kimi K2.5's Toggle (arXiv 2602.02276): `every` steps in which a correct answer above the
    length limit of its kind is not paid, then `every` steps in which length costs nothing. The
    report publishes none of these values."""

    every: int = 0
    """Steps of one phase; 0 is off."""
    kinds: list[str] = field(default_factory=list)
    """Task kinds with a length limit."""
    min_score: float = 0.5
    """A group with a lower mean score keeps all its scores: length is not asked for before the
    task is mastered."""
    percentile: float = 50.0
    """The limit of a kind: this percentile of the lengths of its correct answers."""
    estimate_steps: int = 5
    """Steps at the start of a run whose correct answers set the limits, once and for all."""

    def validate(self) -> None:
        if not self.every:
            for key in fields(self):
                if getattr(self, key.name) != getattr(_NO_TOGGLE, key.name):
                    raise ConjointError(
                        f"budget.toggle.{key.name}={getattr(self, key.name)} has no effect with "
                        "budget.toggle.every=0; set the steps of a phase"
                    )
            return
        if self.every < 0 or self.estimate_steps < 1:
            raise ConjointError(
                "budget.toggle.every and budget.toggle.estimate_steps must be at least 1"
            )
        if not self.kinds:
            raise ConjointError(
                f"budget.toggle.every={self.every} needs budget.toggle.kinds, such as [math,code]"
            )
        if not (0 <= self.min_score <= 1 and 0 < self.percentile <= 100):
            raise ConjointError(
                "budget.toggle.min_score must be between 0 and 1 and budget.toggle.percentile "
                "above 0 and at most 100"
            )


_NO_TOGGLE = ToggleConfig()


def above_limit(
    scores: Sequence[float], lengths: Sequence[int], limit: int | None, min_score: float
) -> list[bool]:
    """Which answers of one group lose their score: none before its mean score is `min_score`, and
    none in a phase without a limit."""
    if limit is None or not scores or sum(scores) / len(scores) < min_score:
        return [False] * len(scores)
    return [n > limit for n in lengths]


class Toggle:
    """Which phase a step is in, and the length limits: collected first, then fixed. The same
    answers in the same order make the same limits; `state` is all a resumed run needs."""

    enough = 8
    """Correct answers of a kind below which no limit is set yet."""

    def __init__(self, config: ToggleConfig) -> None:
        self._config = config
        self._lengths: dict[str, list[int]] = {kind: [] for kind in config.kinds}
        self.limits: dict[str, int] = {}
        """Those that are set, by kind."""

    def phase(self, step: int) -> int:
        """0 while the limits bind, 1 while length costs nothing, as it does in the steps that the
        limits come from."""
        if not self._config.every or step < self._config.estimate_steps:
            return 1
        return (step - self._config.estimate_steps) // self._config.every % 2

    def limits_at(self, step: int) -> dict[str, int]:
        """What `assign_rewards` is given: empty in phase 1."""
        return dict(self.limits) if self.phase(step) == 0 else {}

    def observe(self, lengths: Mapping[str, Sequence[int]], step: int) -> None:
        """Take the lengths of a step's correct answers by kind. A kind that has too few of them
        after `estimate_steps` gets its limit as soon as they are enough."""
        for kind in self._lengths.keys() - self.limits.keys():
            mine = self._lengths[kind]
            mine += lengths.get(kind, ())
            if step + 1 >= self._config.estimate_steps and len(mine) >= self.enough:
                self.limits[kind] = percentile(mine, self._config.percentile)
                mine.clear()

    def metrics(self, step: int) -> dict[str, float]:
        """The phase and the limits of a step, nothing where Toggle is off."""
        if not self._config.every:
            return {}
        limits = {f"toggle_limit/{kind}": float(n) for kind, n in sorted(self.limits.items())}
        return {"toggle/phase": float(self.phase(step)), **limits}

    def state(self) -> dict[str, Any]:
        return {"lengths": self._lengths, "limits": self.limits}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._lengths |= {kind: list(lengths) for kind, lengths in state["lengths"].items()}
        self.limits = dict(state["limits"])


def percentile(values: Sequence[N], share: float) -> N:
    """The smallest value that at least `share` percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]
