"""Policy losses: `LossInputs -> (loss, metrics)`, pure functions in one dict.

Every value is already divided by the denominators of the whole mini-batch, so losses and metrics of
micro-batches, and of ranks, add up to those of the mini-batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from rl.types import ConjointError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The objective and its constants. K2 publishes none of these values."""

    name: str = "k2"
    """One of `LOSSES`."""
    tau: float = 0.1
    """k2, k2_5: strength of the pull to the old policy. It has no effect on fresh on-policy data
    with a single update a batch, where the log-ratio is zero."""
    band_low: float = 0.25
    """k2_5: a token whose log-ratio is below -band_low has no policy gradient."""
    band_high: float = 0.25
    """k2_5: nor has one whose log-ratio is above band_high."""
    clip_low: float = 0.2
    """grpo, dr_grpo, dapo, gspo: the ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.2
    """grpo, dr_grpo, dapo, gspo: the ratio is clipped above 1 + clip_high."""
    max_ratio: float = 5.0
    """cispo: the detached ratio that weighs a token is at most this."""
    length: int = 1024
    """dr_grpo: tokens that every sequence's sum is divided by, whatever its own length."""

    def validate(self) -> None:
        """Refuse an unknown objective, a constant out of range, or one the objective ignores."""
        if self.name not in LOSSES:
            raise ConjointError(f"loss.name is {self.name!r}; choose one of {sorted(LOSSES)}")
        used = LOSS_KEYS[self.name]
        for key in fields(self):
            if key.name == "name":
                continue
            value = getattr(self, key.name)
            if key.name not in used and value != key.default:
                raise ConjointError(
                    f"loss.{key.name}={value} has no effect with loss.name={self.name}, which "
                    f"uses {sorted(used)}; remove it or choose another objective"
                )
            if value <= 0:
                raise ConjointError(f"loss.{key.name} must be above 0, not {value}")


@dataclass(frozen=True, slots=True)
class LossInputs:
    """The T trained tokens of one micro-batch, each field of shape [T] unless it is a number.

    `sequence` maps a token to its sequence, 0..local_sequences-1. `num_sequences` and `num_tokens`
    count the whole mini-batch over all ranks.
    """

    logprobs: "Tensor"
    """Current policy, with gradient."""
    old_logprobs: "Tensor"
    """The learner's own, before the first update of this batch."""
    behavior_logprobs: "Tensor"
    """The engine's, when it sampled. Never to be used as `old_logprobs`."""
    advantages: "Tensor"
    sequence: "Tensor"
    local_sequences: int
    num_sequences: float
    num_tokens: float

    def per_sequence(self, values: "Tensor") -> "Tensor":
        """Sum over each sequence's tokens: [T] -> [local_sequences]."""
        return values.new_zeros(self.local_sequences).index_add(0, self.sequence, values)

    def per_sequence_mean(self, values: "Tensor") -> "Tensor":
        """Mean over each sequence's tokens, 0 for one without: [T] -> [local_sequences]."""
        tokens = self.per_sequence(values.new_ones(values.shape))
        return self.per_sequence(values) / tokens.clamp(min=1)

    def token_mean(self, values: "Tensor") -> "Tensor":
        """Share of the mini-batch's mean in which every token counts the same."""
        return values.sum() / self.num_tokens

    def sequence_mean(self, values: "Tensor") -> "Tensor":
        """Share of the mini-batch's mean in which every sequence counts the same."""
        return self.per_sequence_mean(values).sum() / self.num_sequences


LossFn = Callable[[LossInputs, LossConfig], "tuple[Tensor, dict[str, Tensor]]"]


def k2(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Kimi K2's squared objective (arXiv 2507.20534, 3.2.3), averaged over sequences.

    (A - tau * D)^2 / (2 tau) with D = sum_t (logp - old): the sequence's log-ratio. The factor
    1/(2 tau) keeps the learning rate independent of tau: at D = 0 the gradient is REINFORCE's.
    """
    log_ratio = inputs.per_sequence(inputs.logprobs - inputs.old_logprobs)
    advantage = inputs.per_sequence_mean(inputs.advantages)
    residual = advantage - config.tau * log_ratio
    loss = residual.square().sum() / (2 * config.tau * inputs.num_sequences)
    metrics = {
        "k2/log_ratio_abs": log_ratio.detach().abs().sum() / inputs.num_sequences,
        "k2/pull_share": (config.tau * log_ratio.detach().abs() > advantage.abs()).sum()
        / inputs.num_sequences,
    }
    return loss, metrics


def k2_5(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Kimi K2.5's token-level objective (arXiv 2602.02276, 4.4.2), averaged over tokens.

    -(ratio * A - tau * (logp - old)^2). Outside the band the first part has no gradient, whatever
    the sign of A; K2.5 publishes neither tau nor the band. For stale and multi-turn data.
    """
    log_ratio = inputs.logprobs - inputs.old_logprobs
    outside = (log_ratio < -config.band_low) | (log_ratio > config.band_high)
    gain = log_ratio.exp() * inputs.advantages
    kept = gain.detach().where(outside, gain)
    loss = inputs.token_mean(config.tau * log_ratio.square() - kept)
    return loss, {"clip_share": inputs.token_mean(outside.to(gain.dtype))}


def grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """GRPO (arXiv 2402.03300): the clipped surrogate, averaged over each sequence's tokens and
    then over sequences, so that a token of a long answer weighs less."""
    surrogate, metrics = _clipped(inputs, config, inputs.logprobs - inputs.old_logprobs)
    return inputs.sequence_mean(surrogate), metrics


def dr_grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Dr. GRPO (arXiv 2503.20783): the clipped surrogate over a constant length, which removes
    GRPO's length bias. Its advantages are not divided by std: advantage.estimator=mean."""
    surrogate, metrics = _clipped(inputs, config, inputs.logprobs - inputs.old_logprobs)
    return surrogate.sum() / (inputs.num_sequences * config.length), metrics


def dapo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """DAPO (arXiv 2503.14476): the clipped surrogate averaged over all tokens; with a clip_high
    above clip_low unlikely tokens can rise."""
    surrogate, metrics = _clipped(inputs, config, inputs.logprobs - inputs.old_logprobs)
    return inputs.token_mean(surrogate), metrics


def gspo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """GSPO (arXiv 2507.18071): one ratio a sequence, exp(mean_t (logp - old)), clipped as a whole;
    the bounds are of another order than GRPO's (3e-4 and 4e-4 in the paper)."""
    mean = inputs.per_sequence_mean(inputs.logprobs - inputs.old_logprobs)
    surrogate, metrics = _clipped(inputs, config, mean[inputs.sequence])
    return inputs.sequence_mean(surrogate), metrics


def cispo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """CISPO (MiniMax-M1, arXiv 2506.13585): -min(ratio, max_ratio) * A * logp with the weight
    detached, averaged over tokens: a cut token keeps a gradient."""
    ratio = (inputs.logprobs - inputs.old_logprobs).exp().detach()
    weight = ratio.clamp(max=config.max_ratio)
    loss = inputs.token_mean(-weight * inputs.advantages * inputs.logprobs)
    return loss, {"clip_share": inputs.token_mean((ratio > config.max_ratio).to(ratio.dtype))}


def _clipped(
    inputs: LossInputs, config: LossConfig, log_ratio: "Tensor"
) -> "tuple[Tensor, dict[str, Tensor]]":
    """PPO's clipped surrogate of each token (arXiv 1707.06347), and the share that the clip holds.

    -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A).
    """
    ratio = log_ratio.exp()
    gain = ratio * inputs.advantages
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * inputs.advantages
    held = (bounded < gain).to(gain.dtype)
    return -gain.minimum(bounded), {"clip_share": inputs.token_mean(held)}


LOSSES: dict[str, LossFn] = {
    "k2": k2,
    "k2_5": k2_5,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
}

_CLIP = frozenset({"clip_low", "clip_high"})
LOSS_KEYS: dict[str, frozenset[str]] = {
    "k2": frozenset({"tau"}),
    "k2_5": frozenset({"tau", "band_low", "band_high"}),
    "grpo": _CLIP,
    "dr_grpo": _CLIP | {"length"},
    "dapo": _CLIP,
    "gspo": _CLIP,
    "cispo": frozenset({"max_ratio"}),
}
"""The constants each objective reads; `LossConfig.validate` refuses the others."""
