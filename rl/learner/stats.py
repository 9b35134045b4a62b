"""Metrics of one learner step, summed over micro-batches and ranks. Heavy: torch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conjoint.rl.algo.mismatch import MismatchConfig, mismatch_weights
from conjoint.rl.learner.batch import MicroBatch, Update


class StepStats:
    """Collects additive metrics and the engine/learner gap of one step, then reduces them once."""

    def __init__(self, kinds: Sequence[str], version: int) -> None:
        self._kinds = list(kinds)
        self._version = version
        self._gap_sum = torch.zeros(len(kinds), dtype=torch.float64)
        self._gap_count = torch.zeros(len(kinds), dtype=torch.float64)
        self._gap_max = 0.0
        self._weights = torch.zeros(4, len(kinds), dtype=torch.float64)
        self._sums: dict[str, float] = {}
        self._applied: list[tuple[float, float]] = []
        self._nonfinite = 0
        self._tokens = {"tokens/policy": 0, "tokens/ptx": 0, "tokens/sequences": 0}

    def add_gap(self, micro: MicroBatch, logprobs: Tensor) -> None:
        """Add |engine - learner| log-prob of each token that the current weights drew.

        `logprobs` are the learner's, [P]. Tokens of other versions do not count. With top_p < 1 the
        engine renormalises over the nucleus, so its log-prob may exceed the learner's by up to
        -log(top_p). Only a difference beyond that counts.
        """
        mine = torch.from_numpy(micro.versions == self._version)
        above = (torch.from_numpy(micro.behavior_logprobs) - logprobs.cpu())[mine].double()
        nucleus = torch.from_numpy(micro.top_ps)[mine].double().log()
        # `nucleus` is log(top_p), at most 0: an excess of up to -log(top_p) becomes a gap of 0.
        gap = torch.maximum(-above, above + nucleus).clamp(min=0)
        kinds = torch.from_numpy(micro.kinds)[mine]
        self._gap_sum.index_add_(0, kinds, gap)
        self._gap_count.index_add_(0, kinds, torch.ones_like(gap))
        if len(gap):
            self._gap_max = max(self._gap_max, float(gap.max()))

    def mismatch_weights(
        self, micro: MicroBatch, old_logprobs: Tensor, config: MismatchConfig
    ) -> Tensor:
        """The weight of each policy token: [P]. Counted by kind, for tokens of all versions."""
        if config.correction == "none":
            return torch.ones_like(old_logprobs)
        device = old_logprobs.device
        behavior, sequence = (
            torch.from_numpy(a).to(device) for a in (micro.behavior_logprobs, micro.policy_sequence)
        )
        weights, cut = mismatch_weights(
            old_logprobs, behavior, sequence, len(micro.lengths), config
        )
        w = weights.cpu().double()
        rows = torch.stack([torch.ones_like(w), cut.cpu().double(), w, w.square()])  # [4, P]
        self._weights.index_add_(1, torch.from_numpy(micro.kinds), rows)
        return weights

    def add_update(
        self, update: Update, metrics: Mapping[str, Tensor], norm: float | None, rate: float
    ) -> None:
        """Add one update. `metrics` are this rank's shares; `norm` is None for a skipped update."""
        if norm is None:
            self._nonfinite += 1
            return
        self._applied.append((norm, rate))
        for key, value in metrics.items():
            self._sums[key] = self._sums.get(key, 0.0) + float(value)
        self._tokens["tokens/policy"] += update.num_tokens
        self._tokens["tokens/ptx"] += update.num_ptx_tokens
        self._tokens["tokens/sequences"] += update.num_sequences

    def result(self, world: int, device: torch.device) -> dict[str, float]:
        """Metrics over all ranks. Losses are means over the updates that were applied.

        Skipped updates do not count; if all were skipped, the losses are absent.
        """
        # One vector, so that the ranks need a single sum: metrics, then figures by kind.
        keys = sorted(self._sums)
        sums = torch.tensor([self._sums[k] for k in keys], dtype=torch.float64)
        sums = torch.cat([sums, self._gap_sum, self._gap_count, *self._weights]).to(device)
        largest = torch.tensor([self._gap_max], dtype=torch.float64, device=device)
        if world > 1:
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        values = sums.tolist()
        applied = len(self._applied)
        result = {key: value / applied for key, value in zip(keys, values, strict=False)}
        result |= {key: float(value) for key, value in self._tokens.items()}
        result |= {"updates": float(applied), "nonfinite": float(self._nonfinite)}
        if applied:
            result["grad_norm"] = sum(norm for norm, _ in self._applied) / applied
            result["lr"] = self._applied[-1][1]
        n = len(self._kinds)
        gaps, counts, *weights = (
            values[start : start + n] for start in range(len(keys), len(values), n)
        )
        result |= _weight_metrics(self._kinds, weights)
        if sum(counts):
            result["gap/mean"] = sum(gaps) / sum(counts)
            result["gap/max"] = float(largest)
            for kind, gap, count in zip(self._kinds, gaps, counts, strict=True):
                if count:
                    result[f"gap/{kind}"] = gap / count
        return result


def _weight_metrics(kinds: Sequence[str], sums: Sequence[Sequence[float]]) -> dict[str, float]:
    """Share of tokens with a cut weight, and effective sample size as a share of the tokens.

    `sums` has four lists by kind: tokens, tokens with a cut weight, weights, squared weights. The
    effective sample size is Kish's (sum w)^2 / (n * sum w^2): 1 if all weights are equal, 1/n if a
    single token has all the weight.
    """
    result: dict[str, float] = {}
    rows = [("mean", *map(sum, sums)), *zip(kinds, *sums, strict=True)]
    for kind, count, cut, total, squares in rows:
        if count:
            result[f"mismatch_cut/{kind}"] = cut / count
            result[f"mismatch_ess/{kind}"] = total**2 / (count * squares) if squares else 0.0
    return result
