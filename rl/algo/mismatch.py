"""Engine/learner mismatch: a detached weight on each token's policy gradient. Pure functions.

A token was drawn by an engine, whose log-probs differ from the learner's by numerics and, if it was
drawn by older weights, by the updates since. With loss.old=learner, ratio = old / behavior, both as
they were before this batch's first update: the learner's own log-probs over those the engine
reported when it sampled. With loss.old=sampler the objective's own ratio holds both.
What the learner changes afterwards is the objective's own ratio, current / old, and not this one.
Under nucleus sampling (rollout.top_p) the engine's log-prob is that of the nucleus, so the ratio
holds the nucleus' mass too: the weight from what was sampled to what is trained.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from conjoint.envs.types import ConjointError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class MismatchConfig:
    """What weighs a token that the learner's weights would have drawn less or more often."""

    correction: str | None = None
    """truncate: min(ratio, cap), truncated importance sampling. band: the ratio inside [low, high],
    0 outside (IcePop, masked importance sampling). none: no weight. null: truncate with the old
    policy loss.old=learner, none with sampler, whose log-ratio holds the mismatch already."""
    level: str = "token"
    """token: each token has a ratio of its own. sequence: one ratio, the product over an answer's
    sampled tokens, for all of them."""
    cap: float = 2.0
    """truncate: largest weight."""
    low: float = 0.5
    """band: a smaller ratio has weight 0."""
    high: float = 2.0
    """band: a larger ratio has weight 0."""

    def validate(self) -> None:
        """Refuse an unknown choice, bounds out of order, and a key that the correction ignores."""
        for key, choices in (("correction", CORRECTION_KEYS), ("level", LEVELS)):
            if getattr(self, key) not in (None, *choices):
                raise ConjointError(
                    f"mismatch.{key} is {getattr(self, key)!r}; choose one of {sorted(choices)}"
                )
        used, default = CORRECTION_KEYS[self.correction or "truncate"], MismatchConfig()
        for key in ("level", "cap", "low", "high"):
            if key not in used and getattr(self, key) != getattr(default, key):
                raise ConjointError(
                    f"mismatch.{key}={getattr(self, key)} has no effect with mismatch.correction="
                    f"{self.correction or 'truncate'}; remove it or choose another correction"
                )
        if self.cap < 1:
            raise ConjointError(f"mismatch.cap={self.cap} must be 1 or above: 1 is no mismatch")
        if not 0 < self.low <= 1 <= self.high:
            raise ConjointError(
                f"mismatch.low={self.low} and mismatch.high={self.high} must have 1, which is no "
                "mismatch, between them"
            )

    def given(self, old_policy: str) -> "MismatchConfig":
        """With null resolved for the old policy of the loss. Raises ConjointError for a correction
        that would count the ratio of learner and sampler twice."""
        if old_policy == "learner":
            return replace(self, correction=self.correction or "truncate")
        if self not in (MismatchConfig(), UNCORRECTED):
            raise ConjointError(
                "mismatch weighs tokens by learner over sampler, and with loss.old=sampler the "
                "loss's own log-ratio holds that already; set loss.old=learner, or leave mismatch "
                "alone"
            )
        return UNCORRECTED


UNCORRECTED = MismatchConfig(correction="none")
"""For a learner outside the joint loop, whose tokens come from no engine."""

LEVELS = ("token", "sequence")
CORRECTION_KEYS = {
    "truncate": frozenset({"level", "cap"}),
    "band": frozenset({"level", "low", "high"}),
    "none": frozenset(),
}
"""The keys each correction reads; `MismatchConfig.validate` refuses the others."""


def mismatch_weights(
    old_logprobs: "Tensor",
    behavior_logprobs: "Tensor",
    sequence: "Tensor",
    num_sequences: int,
    config: MismatchConfig,
) -> "tuple[Tensor, Tensor]":
    """The weight of each token and whether it was cut, capped or put to 0: two of shape [T].

    Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training") or IcePop's band (arXiv 2510.18855).
    `sequence` [T] maps a token to its own, 0..num_sequences-1. `config.correction` is truncate or
    band.
    """
    log_ratio = old_logprobs - behavior_logprobs
    if config.level == "sequence":
        sums = log_ratio.new_zeros(num_sequences).index_add(0, sequence, log_ratio)
        log_ratio = sums[sequence]  # [num_sequences] -> [T]
    ratio = log_ratio.exp()
    if config.correction == "truncate":
        return ratio.clamp(max=config.cap), ratio > config.cap
    outside = (ratio < config.low) | (ratio > config.high)
    return ratio.masked_fill(outside, 0.0), outside
