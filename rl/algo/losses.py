"""Policy losses: `LossInputs -> (loss, metrics)`, pure functions in one dict.

Every value is already divided by the denominators of the whole mini-batch, so losses and metrics of
micro-batches, and of ranks, add up to those of the mini-batch. An objective averages the optional
KL to a reference in the same way as its own tokens.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from conjoint.envs.types import ConjointError

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
    """grpo, dr_grpo, dapo, gspo, rloo, reinforce_pp: the ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.2
    """grpo, dr_grpo, dapo, gspo, rloo, reinforce_pp: and above 1 + clip_high."""
    max_ratio: float = 5.0
    """cispo: the detached ratio that weighs a token is at most this."""
    length: int = 1024
    """dr_grpo: tokens that every sequence's sum is divided by, whatever its own length."""
    kl_weight: float = 0.0
    """Weight of the KL of the policy to a reference; 0 is off, and no reference is held."""
    kl_estimator: str = "k3"
    """One of `KL_ESTIMATORS`: how a token's log-probs estimate the KL."""
    kl_ratio: bool = True
    """Multiply the estimate by the ratio to the old policy that sampled the token."""
    reference: str = "frozen"
    """frozen: the model the run started from; ema: a moving average of the policy."""
    ema_decay: float = 0.99
    """ema: what the average keeps of itself at each update."""

    def validate(self) -> None:
        """Refuse an unknown objective, a constant out of range, or one the objective ignores."""
        if self.name not in LOSSES:
            raise ConjointError(f"loss.name is {self.name!r}; choose one of {sorted(LOSSES)}")
        self._validate_reference()
        used = LOSS_KEYS[self.name]
        for key in fields(self):
            if key.name == "name" or key.name in _REFERENCE_KEYS:
                continue
            value = getattr(self, key.name)
            if key.name not in used and value != key.default:
                raise ConjointError(
                    f"loss.{key.name}={value} has no effect with loss.name={self.name}, which "
                    f"uses {sorted(used)}; remove it or choose another objective"
                )
            if value <= 0:
                raise ConjointError(f"loss.{key.name} must be above 0, not {value}")

    def _validate_reference(self) -> None:
        _check_choice("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        _check_choice("reference", self.reference, REFERENCES)
        if not 0 <= self.kl_weight < float("inf"):
            raise ConjointError(f"loss.kl_weight={self.kl_weight} must be 0 (off) or above")
        if not 0 < self.ema_decay < 1:
            raise ConjointError(f"loss.ema_decay={self.ema_decay} must lie between 0 and 1")
        for key in fields(self):
            value = getattr(self, key.name)
            if key.name not in _REFERENCE_KEYS or value == key.default:
                continue
            if self.kl_weight == 0:
                raise ConjointError(
                    f"loss.{key.name}={value} has no effect with loss.kl_weight=0; set a weight "
                    "above 0 or remove it"
                )
            if key.name == "ema_decay" and self.reference != "ema":
                raise ConjointError(
                    f"loss.ema_decay={value} has no effect with loss.reference={self.reference}; "
                    "set loss.reference=ema or remove it"
                )
        if self.kl_weight and self.kl_estimator == "k1" and not self.kl_ratio:
            raise ConjointError(
                "loss.kl_estimator=k1 needs loss.kl_ratio=true: without the ratio its gradient is "
                "zero on average; use k2 or k3"
            )


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConjointError(f"loss.{key} is {value!r}; choose one of {sorted(choices)}")


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
    weights: "Tensor"
    """Of each token's policy gradient, detached: `mismatch.py`; 1 corrects nothing. The engine's
    own log-probs are known there only, so that no loss can take them for `old_logprobs`."""
    advantages: "Tensor"
    sequence: "Tensor"
    local_sequences: int
    num_sequences: float
    num_tokens: float
    ref_logprobs: "Tensor | None" = None
    """The reference's, without gradient; None where no reference is held."""

    @property
    def log_ratio(self) -> "Tensor":
        """log(current / old) of each token: [T]."""
        return self.logprobs - self.old_logprobs

    @property
    def policy_logprobs(self) -> "Tensor":
        """`logprobs` for what the advantage multiplies: each token's gradient is scaled by its
        weight and no value changes, so clips and bands decide on the true ratio: [T]."""
        fixed = self.logprobs.detach()
        return fixed + self.weights * (self.logprobs - fixed)

    @property
    def policy_log_ratio(self) -> "Tensor":
        """`log_ratio` with the gradient of `policy_logprobs`: [T]."""
        return self.policy_logprobs - self.old_logprobs

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
    The same gradient is that of -A * D + (tau/2) * D^2; weights scale the first part only, since
    the pull to the old policy is meant for any answer, whoever sampled it.
    """
    log_ratio = inputs.per_sequence(inputs.log_ratio)
    advantage = inputs.per_sequence_mean(inputs.advantages)
    residual = advantage - config.tau * log_ratio
    # Zero in value; its gradient makes -A * D the weighted one, to the bit where weights are 1.
    reweighted = advantage * inputs.per_sequence(inputs.policy_logprobs - inputs.logprobs)
    squared = residual.square() / (2 * config.tau) - reweighted
    kl = inputs.per_sequence(reference_kl(inputs, config, inputs.log_ratio))
    metrics = {
        "k2/log_ratio_abs": log_ratio.detach().abs().sum() / inputs.num_sequences,
        "k2/pull_share": (config.tau * log_ratio.detach().abs() > advantage.abs()).sum()
        / inputs.num_sequences,
    }
    return (squared + kl).sum() / inputs.num_sequences, metrics


def k2_5(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Kimi K2.5's token-level objective (arXiv 2602.02276, 4.4.2), averaged over tokens.

    -(ratio * A - tau * (logp - old)^2). Outside the band the first part has no gradient, whatever
    the sign of A; K2.5 publishes neither tau nor the band. For stale and multi-turn data. Weights
    scale the first part only, as in k2.
    """
    log_ratio = inputs.log_ratio
    outside = (log_ratio < -config.band_low) | (log_ratio > config.band_high)
    gain = inputs.policy_log_ratio.exp() * inputs.advantages
    kept = gain.detach().where(outside, gain)
    pull = config.tau * log_ratio.square()
    loss = inputs.token_mean(pull - kept + reference_kl(inputs, config, log_ratio))
    return loss, {"clip_share": inputs.token_mean(outside.to(gain.dtype))}


def grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """GRPO (arXiv 2402.03300): the clipped surrogate, averaged over each sequence's tokens and
    then over sequences, so that a token of a long answer weighs less."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return inputs.sequence_mean(surrogate), metrics


def dr_grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Dr. GRPO (arXiv 2503.20783): the clipped surrogate over a constant length, which removes
    GRPO's length bias. Its advantages are not divided by std: advantage.estimator=mean."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return surrogate.sum() / (inputs.num_sequences * config.length), metrics


def dapo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """DAPO (arXiv 2503.14476): the clipped surrogate averaged over all tokens; with a clip_high
    above clip_low unlikely tokens can rise. Its soft overlong penalty is budget.soft_share."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return inputs.token_mean(surrogate), metrics


def reinforce_pp(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """REINFORCE++ with a group baseline (arXiv 2501.03262): PPO's clipped surrogate averaged over
    all tokens, without a critic. What sets it apart is the advantage, normalised over the whole
    batch: advantage.estimator=batch_std. Its KL is a loss of its own: loss.kl_estimator=k2."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return inputs.token_mean(surrogate), metrics


def gspo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """GSPO (arXiv 2507.18071): one ratio a sequence, exp(mean_t (logp - old)), clipped as a whole;
    the bounds are of another order than GRPO's (3e-4 and 4e-4 in the paper)."""
    policy = inputs.per_sequence_mean(inputs.policy_log_ratio)[inputs.sequence]
    surrogate, held = _clipped(inputs.advantages, policy, config)
    mean = inputs.per_sequence_mean(inputs.log_ratio)[inputs.sequence]
    loss = inputs.sequence_mean(surrogate + reference_kl(inputs, config, mean))
    return loss, {"clip_share": inputs.token_mean(held)}


def rloo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """RLOO (arXiv 2402.14740): the whole answer is one action, -A * ratio averaged over sequences,
    with ratio = exp(D) clipped as TRL does once the policy has moved.

    At the old policy this is the paper's -A * sum_t logp. The paper puts the KL into the reward;
    here it is a part of the loss. Its advantage is advantage.estimator=leave_one_out.
    """
    advantage = inputs.per_sequence_mean(inputs.advantages)
    surrogate, held = _clipped(advantage, inputs.per_sequence(inputs.policy_log_ratio), config)
    kl = inputs.per_sequence(reference_kl(inputs, config, inputs.log_ratio))
    loss = (surrogate + kl).sum() / inputs.num_sequences
    return loss, {"clip_share": held.sum() / inputs.num_sequences}


def cispo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """CISPO (MiniMax-M1, arXiv 2506.13585): -min(ratio, max_ratio) * A * logp with the weight
    detached, averaged over tokens: a cut token keeps a gradient."""
    ratio = inputs.log_ratio.exp().detach()
    surrogate = -ratio.clamp(max=config.max_ratio) * inputs.advantages * inputs.policy_logprobs
    loss = inputs.token_mean(surrogate + reference_kl(inputs, config, inputs.log_ratio))
    return loss, {"clip_share": inputs.token_mean((ratio > config.max_ratio).to(ratio.dtype))}


def _clipped_tokens(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Clipped surrogate plus reference KL of each token [T], and the share that the clip holds."""
    surrogate, held = _clipped(inputs.advantages, inputs.policy_log_ratio, config)
    kl = reference_kl(inputs, config, inputs.log_ratio)
    return surrogate + kl, {"clip_share": inputs.token_mean(held)}


def _clipped(
    advantages: "Tensor", log_ratio: "Tensor", config: LossConfig
) -> "tuple[Tensor, Tensor]":
    """PPO's clipped surrogate (arXiv 1707.06347), and 1 where the clip holds the gradient back.

    -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A), of tokens [T] or sequences.
    """
    ratio = log_ratio.exp()
    gain = ratio * advantages
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantages
    return -gain.minimum(bounded), (bounded < gain).to(gain.dtype)


# -- the KL to a reference --------------------------------------------------------------------

KL_ESTIMATORS: "dict[str, Callable[[Tensor], Tensor]]" = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: (-d).exp() + d - 1,
}
"""Estimates of KL(policy || reference) from d = log(policy / reference) of a token that the policy
sampled (Schulman, "Approximating KL divergence"): k1 is unbiased, k2 has little variance and a
bias, k3 is unbiased and never negative."""

REFERENCES = ("frozen", "ema")


def reference_kl(inputs: LossInputs, config: LossConfig, log_ratio: "Tensor") -> "Tensor":
    """kl_weight * KL to the reference of each token [T]; zeros where no reference is held.

    With `kl_ratio` the estimate is multiplied by exp(log_ratio), with gradient: the importance
    weight of a token of the old policy (DeepSeek-V3.2, arXiv 2512.02556). Its gradient is then
    that of the KL itself; without the ratio that holds for k2 only, and on-policy only.
    """
    if inputs.ref_logprobs is None:
        return inputs.logprobs.new_zeros(inputs.logprobs.shape)
    estimate = KL_ESTIMATORS[config.kl_estimator](inputs.logprobs - inputs.ref_logprobs)
    return config.kl_weight * (estimate * log_ratio.exp() if config.kl_ratio else estimate)


def kl_metrics(inputs: LossInputs) -> "dict[str, Tensor]":
    """Token means of k3: kl/old is KL(old || current), from the old policy's tokens, kl/reference
    that to the reference, if one is held, of the policy that sampled."""
    k3 = KL_ESTIMATORS["k3"]
    metrics = {"kl/old": inputs.token_mean(k3(-inputs.log_ratio.detach()))}
    if inputs.ref_logprobs is not None:
        gap = inputs.logprobs.detach() - inputs.ref_logprobs
        metrics["kl/reference"] = inputs.token_mean(k3(gap))
    return metrics


LOSSES: dict[str, LossFn] = {
    "k2": k2,
    "k2_5": k2_5,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
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
    "rloo": _CLIP,
    "reinforce_pp": _CLIP,
}
"""The constants each objective reads; `LossConfig.validate` refuses the others."""

_REFERENCE_KEYS = frozenset({"kl_weight", "kl_estimator", "kl_ratio", "reference", "ema_decay"})
"""The keys that every objective reads, if kl_weight is above 0."""
