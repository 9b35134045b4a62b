"""Policy losses: pure functions `(LossInputs, LossConfig) -> (loss, metrics)` in the dict `LOSSES`.

Each call sees one micro-batch but divides by the counts of the whole mini-batch over all ranks. So
the losses and metrics of micro-batches and ranks add up to those of the mini-batch. An objective
averages the optional KL to a reference in the same way as its own terms.

In the formulas A is the advantage, logp and old are the log-probs of a token under the current and
the old policy, and ratio = exp(logp - old). `LossConfig.old` says which policy the old one is.
Shapes: T trained tokens of the micro-batch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from conjoint.envs.types import ConjointError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The objective and its constants. Kimi K2 publishes no values for its own constants."""

    name: str = "k2"
    """One of `LOSSES`."""
    old: str | None = None
    """The old policy. sampler: the one that drew the token, engine and stale weights included.
    learner: the learner before the first update of the batch; what lies between it and the sampler
    is `mismatch.correction`'s (the decoupled form). null: sampler for k2 and k2_5, as their papers
    have it, learner for the others."""
    tau: float = 0.1
    """k2, k2_5: strength of the pull to the old policy. It has no effect where the log-ratio is
    zero: in the first update of a batch that the same weights drew, or with old=learner."""
    band_low: float = 0.25
    """k2_5: tokens with a log-ratio below -band_low have no policy gradient."""
    band_high: float = 0.25
    """k2_5: tokens with a log-ratio above band_high have no policy gradient."""
    clip_low: float = 0.2
    """grpo, dr_grpo, dapo, gspo, rloo, reinforce_pp: ratios below 1 - clip_low are clipped."""
    clip_high: float = 0.2
    """grpo, dr_grpo, dapo, gspo, rloo, reinforce_pp: ratios above 1 + clip_high are clipped."""
    max_ratio: float = 5.0
    """cispo: upper bound of the detached ratio that weighs a token."""
    length: int = 1024
    """dr_grpo: constant number of tokens that the sum of each sequence is divided by."""
    kl_weight: float = 0.0
    """Weight of the KL from the policy to a reference. 0 turns it off and holds no reference."""
    kl_estimator: str = "k3"
    """Estimator of the KL from the log-probs of a sampled token; one of `KL_ESTIMATORS`."""
    kl_ratio: bool = True
    """Multiply the estimate by ratio, since the old policy sampled the token."""
    reference: str = "frozen"
    """frozen: the model that the run started from; ema: a moving average of the policy."""
    ema_decay: float = 0.99
    """ema: weight of the old average at each update; the policy has the rest."""

    def validate(self) -> None:
        """Raises ConjointError for an unknown objective, a constant out of range, and a constant
        that the objective ignores."""
        _check_choice("name", self.name, LOSSES)
        if self.old is not None:
            _check_choice("old", self.old, OLD_POLICIES)
        self._validate_reference()
        used = LOSS_KEYS[self.name]
        for key in fields(self):
            if key.name in ("name", "old") or key.name in _REFERENCE_KEYS:
                continue
            value = getattr(self, key.name)
            if key.name not in used and value != key.default:
                raise ConjointError(
                    f"loss.{key.name}={value} has no effect with loss.name={self.name}, which "
                    f"uses {sorted(used)}; remove it or choose another objective"
                )
            if value <= 0:
                raise ConjointError(f"loss.{key.name} must be above 0, not {value}")

    @property
    def old_policy(self) -> str:
        """One of `OLD_POLICIES`."""
        return self.old or ("sampler" if self.name in _OLD_SAMPLES else "learner")

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
    """The T trained tokens of one micro-batch. Tensors have shape [T]."""

    logprobs: "Tensor"
    """Log-probs under the current policy, with gradient."""
    old_logprobs: "Tensor"
    """Log-probs under the old policy (`LossConfig.old_policy`), without gradient."""
    weights: "Tensor"
    """Detached weight of each token's policy gradient, from `mismatch.py`; 1 leaves it unchanged,
    and is all there is where the sampler is the old policy: the ratio holds the rest already."""
    advantages: "Tensor"
    sequence: "Tensor"
    """Index of each token's sequence, 0..local_sequences-1."""
    local_sequences: int
    """Sequences of the micro-batch; some may have no trained token."""
    num_sequences: float
    """Trained sequences of the whole mini-batch, over all ranks."""
    num_tokens: float
    """Trained tokens of the whole mini-batch, over all ranks."""
    ref_logprobs: "Tensor | None" = None
    """Log-probs under the reference, without gradient; None if no reference is held."""

    @property
    def log_ratio(self) -> "Tensor":
        """logp - old of each token: [T]."""
        return self.logprobs - self.old_logprobs

    @property
    def policy_logprobs(self) -> "Tensor":
        """`logprobs` with each token's gradient multiplied by its weight: [T].

        For terms that the advantage multiplies. Values stay as they are, so that clips and bands
        still decide on the true ratio.
        """
        # The difference below is 0 in value and carries the gradient.
        fixed = self.logprobs.detach()
        return fixed + self.weights * (self.logprobs - fixed)

    @property
    def policy_log_ratio(self) -> "Tensor":
        """`log_ratio` with the weighted gradient of `policy_logprobs`: [T]."""
        return self.policy_logprobs - self.old_logprobs

    def per_sequence(self, values: "Tensor") -> "Tensor":
        """Sum over each sequence's tokens: [T] -> [local_sequences]."""
        return values.new_zeros(self.local_sequences).index_add(0, self.sequence, values)

    def per_sequence_mean(self, values: "Tensor") -> "Tensor":
        """Mean over each sequence's tokens, 0 for a sequence without: [T] -> [local_sequences]."""
        tokens = self.per_sequence(values.new_ones(values.shape))
        return self.per_sequence(values) / tokens.clamp(min=1)

    def token_mean(self, values: "Tensor") -> "Tensor":
        """The micro-batch's share of the mini-batch mean in which each token weighs the same."""
        return values.sum() / self.num_tokens

    def sequence_mean(self, values: "Tensor") -> "Tensor":
        """The micro-batch's share of the mini-batch mean in which each sequence weighs the same."""
        return self.per_sequence_mean(values).sum() / self.num_sequences


LossFn = Callable[[LossInputs, LossConfig], "tuple[Tensor, dict[str, Tensor]]"]


def k2(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Kimi K2's squared objective (arXiv 2507.20534, section 3.2.3), averaged over sequences.

    (A - tau * D)^2 / (2 tau), where D = sum_t (logp - old) is the sequence's log-ratio. The factor
    1 / (2 tau) makes the gradient at D = 0 REINFORCE's for any tau, so that tau does not change the
    learning rate. Up to a constant this is -A * D + (tau/2) * D^2. Importance weights scale the
    first term only: the second, the pull to the old policy, holds for any answer, whoever sampled.
    """
    log_ratio = inputs.per_sequence(inputs.log_ratio)
    # All tokens of a sequence have the same advantage, which the mean returns.
    advantage = inputs.per_sequence_mean(inputs.advantages)
    residual = advantage - config.tau * log_ratio
    # Zero in value. Its gradient replaces that of -A * D by the weighted gradient, and is exactly
    # zero where all weights are 1, so that uncorrected runs keep their bits.
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
    """Kimi K2.5's token-level objective (arXiv 2602.02276, section 4.4.2), averaged over tokens.

    -(ratio * A - tau * (logp - old)^2). Outside the band the first term has no gradient, whatever
    the sign of A. K2.5 publishes neither tau nor the band. Suited to stale and multi-turn data.
    Importance weights scale the first term only, as in `k2`.
    """
    log_ratio = inputs.log_ratio
    outside = (log_ratio < -config.band_low) | (log_ratio > config.band_high)
    gain = inputs.policy_log_ratio.exp() * inputs.advantages
    # detach() removes the gradient and keeps the value of the loss.
    kept = gain.detach().where(outside, gain)
    pull = config.tau * log_ratio.square()
    loss = inputs.token_mean(pull - kept + reference_kl(inputs, config, log_ratio))
    return loss, {"clip_share": inputs.token_mean(outside.to(gain.dtype))}


def grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """GRPO (arXiv 2402.03300): the clipped surrogate, averaged over each sequence's tokens and
    then over sequences. A token of a long answer therefore weighs less."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return inputs.sequence_mean(surrogate), metrics


def dr_grpo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Dr. GRPO (arXiv 2503.20783): the clipped surrogate divided by a constant length, which
    removes GRPO's length bias. Its advantages are not divided by a standard deviation: set
    advantage.estimator=mean."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return surrogate.sum() / (inputs.num_sequences * config.length), metrics


def dapo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """DAPO (arXiv 2503.14476): the clipped surrogate averaged over all tokens. A clip_high above
    clip_low lets unlikely tokens gain probability. Its soft overlong penalty is budget.soft_share.
    """
    surrogate, metrics = _clipped_tokens(inputs, config)
    return inputs.token_mean(surrogate), metrics


def reinforce_pp(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """REINFORCE++ with a group baseline (arXiv 2501.03262): PPO's clipped surrogate averaged over
    all tokens, without a critic. The paper normalises advantages over the whole batch
    (advantage.estimator=batch_std) and has a KL loss (loss.kl_estimator=k2)."""
    surrogate, metrics = _clipped_tokens(inputs, config)
    return inputs.token_mean(surrogate), metrics


def gspo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """GSPO (arXiv 2507.18071): one clipped ratio for each sequence, exp(mean_t (logp - old)).

    Its clip bounds are much smaller than GRPO's: 3e-4 and 4e-4 in the paper.
    """
    # Spread over the tokens [T] again: each token carries the ratio of its sequence.
    policy = inputs.per_sequence_mean(inputs.policy_log_ratio)[inputs.sequence]
    surrogate, held = _clipped(inputs.advantages, policy, config)
    mean = inputs.per_sequence_mean(inputs.log_ratio)[inputs.sequence]
    loss = inputs.sequence_mean(surrogate + reference_kl(inputs, config, mean))
    return loss, {"clip_share": inputs.token_mean(held)}


def rloo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """RLOO (arXiv 2402.14740): the whole answer is one action; averaged over sequences.

    -A * exp(D) with D = sum_t (logp - old), clipped as in TRL once the policy has moved. At the old
    policy its gradient is that of the paper's -A * sum_t logp. The paper puts the KL into the
    reward; here it is a term of the loss. Its advantage is advantage.estimator=leave_one_out.
    """
    advantage = inputs.per_sequence_mean(inputs.advantages)
    surrogate, held = _clipped(advantage, inputs.per_sequence(inputs.policy_log_ratio), config)
    kl = inputs.per_sequence(reference_kl(inputs, config, inputs.log_ratio))
    loss = (surrogate + kl).sum() / inputs.num_sequences
    return loss, {"clip_share": held.sum() / inputs.num_sequences}


def cispo(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """CISPO (MiniMax-M1, arXiv 2506.13585): -min(ratio, max_ratio) * A * logp, averaged over
    tokens. The minimum is detached, so a token with a cut ratio still has a gradient."""
    ratio = inputs.log_ratio.exp().detach()
    surrogate = -ratio.clamp(max=config.max_ratio) * inputs.advantages * inputs.policy_logprobs
    loss = inputs.token_mean(surrogate + reference_kl(inputs, config, inputs.log_ratio))
    return loss, {"clip_share": inputs.token_mean((ratio > config.max_ratio).to(ratio.dtype))}


def _clipped_tokens(inputs: LossInputs, config: LossConfig) -> "tuple[Tensor, dict[str, Tensor]]":
    """Clipped surrogate plus reference KL of each token [T], and the share of clipped tokens."""
    surrogate, held = _clipped(inputs.advantages, inputs.policy_log_ratio, config)
    kl = reference_kl(inputs, config, inputs.log_ratio)
    return surrogate + kl, {"clip_share": inputs.token_mean(held)}


def _clipped(
    advantages: "Tensor", log_ratio: "Tensor", config: LossConfig
) -> "tuple[Tensor, Tensor]":
    """PPO's clipped surrogate (arXiv 1707.06347), and 1 where the clip removes the gradient.

    -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A), for each token or each sequence.
    """
    ratio = log_ratio.exp()
    gain = ratio * advantages
    # The clip binds only where it lowers the gain: it never stops a move back towards ratio 1.
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantages
    return -gain.minimum(bounded), (bounded < gain).to(gain.dtype)


# -- the KL to a reference --------------------------------------------------------------------

KL_ESTIMATORS: "dict[str, Callable[[Tensor], Tensor]]" = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: (-d).exp() + d - 1,
}
"""Estimators of KL(policy || reference) from d = log(policy / reference) of a token that the policy
sampled (Schulman, "Approximating KL divergence"). k1 is unbiased, k2 has a low variance and a bias,
k3 is unbiased and never negative."""

REFERENCES = ("frozen", "ema")
"""Choices of `LossConfig.reference`."""


def reference_kl(inputs: LossInputs, config: LossConfig, log_ratio: "Tensor") -> "Tensor":
    """kl_weight times the estimated KL to the reference of each token: [T]; 0 without a reference.

    With `kl_ratio` the estimate is multiplied by exp(log_ratio), with gradient: the importance
    weight of a token that the old policy sampled (DeepSeek-V3.2, arXiv 2512.02556). The expected
    gradient is then that of the KL itself. Without the ratio this holds only for k2 on-policy.
    """
    if inputs.ref_logprobs is None:
        return inputs.logprobs.new_zeros(inputs.logprobs.shape)
    estimate = KL_ESTIMATORS[config.kl_estimator](inputs.logprobs - inputs.ref_logprobs)
    return config.kl_weight * (estimate * log_ratio.exp() if config.kl_ratio else estimate)


def kl_metrics(inputs: LossInputs) -> "dict[str, Tensor]":
    """Token means of the estimator k3, for the log.

    kl/old estimates KL(old || current). kl/reference, if a reference is held, estimates the KL from
    the policy to it.
    """
    k3 = KL_ESTIMATORS["k3"]
    # The old policy sampled the tokens, so d = log(old / current) estimates KL(old || current).
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

OLD_POLICIES = ("sampler", "learner")
"""Choices of `LossConfig.old`."""
_OLD_SAMPLES = frozenset({"k2", "k2_5"})
"""Objectives whose papers define the log-ratio to the policy that sampled."""

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
"""Objective -> constants that it reads. `LossConfig.validate` refuses other constants."""

_REFERENCE_KEYS = frozenset({"kl_weight", "kl_estimator", "kl_ratio", "reference", "ema_decay"})
"""Keys that every objective reads if kl_weight is above 0."""
