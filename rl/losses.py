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
    """k2: strength of the pull to the old policy. It has no effect on fresh on-policy data with a
    single update a batch, where the log-ratio is zero."""
    clip_low: float = 0.2
    """grpo: the ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.2
    """grpo: the ratio is clipped above 1 + clip_high."""

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


LossFn = Callable[[LossInputs, LossConfig], "tuple[Tensor, dict[str, Tensor]]"]


def k2(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Kimi K2's squared objective (arXiv 2507.20534, 3.2.3), averaged over sequences.

    (A - tau * D)^2 / (2 tau) with D = sum_t (logp - old): the sequence's log-ratio. The factor
    1/(2 tau) keeps the learning rate independent of tau: at D = 0 the gradient is REINFORCE's.
    """
    log_ratio = inputs.per_sequence(inputs.logprobs - inputs.old_logprobs)
    tokens = inputs.per_sequence(inputs.advantages.new_ones(inputs.advantages.shape))
    advantage = inputs.per_sequence(inputs.advantages) / tokens.clamp(min=1)
    residual = advantage - config.tau * log_ratio
    loss = residual.square().sum() / (2 * config.tau * inputs.num_sequences)
    metrics = {
        "k2/log_ratio_abs": log_ratio.detach().abs().sum() / inputs.num_sequences,
        "k2/pull_share": (config.tau * log_ratio.detach().abs() > advantage.abs()).sum()
        / inputs.num_sequences,
    }
    return loss, metrics


def grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """PPO's clipped surrogate on token ratios (arXiv 1707.06347), averaged over tokens.

    -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A), ratio = exp(logp - old).
    """
    ratio = (inputs.logprobs - inputs.old_logprobs).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    gain = ratio * inputs.advantages
    bounded = clipped * inputs.advantages
    loss = -gain.minimum(bounded).sum() / inputs.num_tokens
    return loss, {"grpo/clip_share": (bounded < gain).sum() / inputs.num_tokens}


LOSSES: dict[str, LossFn] = {"k2": k2, "grpo": grpo}

LOSS_KEYS: dict[str, frozenset[str]] = {
    "k2": frozenset({"tau"}),
    "grpo": frozenset({"clip_low", "clip_high"}),
}
"""The constants each objective reads; `LossConfig.validate` refuses the others."""
