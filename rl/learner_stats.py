"""Metrics of one learner step, summed over micro-batches and ranks. Heavy: torch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rl.batch import MicroBatch, Update


class StepStats:
    """Collects additive metrics and the engine/learner gap, then reduces them once."""

    def __init__(self, kinds: Sequence[str], version: int) -> None:
        self._kinds = list(kinds)
        self._version = version
        self._gap_sum = torch.zeros(len(kinds), dtype=torch.float64)
        self._gap_count = torch.zeros(len(kinds), dtype=torch.float64)
        self._gap_max = 0.0
        self._sums: dict[str, float] = {}
        self._applied: list[tuple[float, float]] = []
        self._nonfinite = 0
        self._tokens = {"tokens/policy": 0, "tokens/ptx": 0, "tokens/sequences": 0}

    def add_gap(self, micro: MicroBatch, logprobs: Tensor) -> None:
        """|engine - learner| log-prob at equal weights: tokens of other versions do not count."""
        mine = torch.from_numpy(micro.versions == self._version)
        gap = (torch.from_numpy(micro.behavior_logprobs) - logprobs.cpu()).abs()[mine].double()
        kinds = torch.from_numpy(micro.kinds)[mine]
        self._gap_sum.index_add_(0, kinds, gap)
        self._gap_count.index_add_(0, kinds, torch.ones_like(gap))
        if len(gap):
            self._gap_max = max(self._gap_max, float(gap.max()))

    def add_update(
        self, update: Update, metrics: Mapping[str, Tensor], norm: float | None, rate: float
    ) -> None:
        """`metrics` are this rank's shares; `norm` None means that the update was skipped."""
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
        """Global metrics; losses are means over the updates that were applied.

        A skipped update leaves no loss behind; if all were skipped those keys are absent.
        """
        keys = sorted(self._sums)
        sums = torch.tensor([self._sums[k] for k in keys], dtype=torch.float64)
        sums = torch.cat([sums, self._gap_sum, self._gap_count]).to(device)
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
        gaps, counts = values[len(keys) : len(keys) + n], values[len(keys) + n :]
        if sum(counts):
            result["gap/mean"] = sum(gaps) / sum(counts)
            result["gap/max"] = float(largest)
            for kind, gap, count in zip(self._kinds, gaps, counts, strict=True):
                if count:
                    result[f"gap/{kind}"] = gap / count
        return result
