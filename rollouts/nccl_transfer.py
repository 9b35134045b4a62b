"""The engine's side of weight transfer by NCCL: vLLM's own, which also digests what arrives.

Registered as "conjoint_nccl" by `rollouts/shm_transfer.py`, imported where that backend is chosen.
Written against vLLM 0.32 without a GPU: it has not been run yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from rollouts.digest import WeightDigest


@dataclass
class DigestUpdateInfo(NCCLWeightTransferUpdateInfo):
    version: int


class Tap:
    """Stands in for the model while weights arrive: digests them, then hands them on."""

    def __init__(self, model: Any, digest: WeightDigest) -> None:
        self._model = model
        self._digest = digest

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        received = list(weights)
        for name, tensor in received:
            self._digest.add(name, tensor)
        return self._model.load_weights(received)


class DigestNcclEngine(NCCLWeightTransferEngine):
    update_info_cls = DigestUpdateInfo
    receipt: dict[str, Any] | None = None
    """Version and digest of the weights last loaded to the end."""
    _pending: dict[str, Any] | None = None

    def start_weight_update(self) -> None:
        self.receipt = self._pending = None
        super().start_weight_update()

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        assert isinstance(update_info, DigestUpdateInfo)
        digest, model = WeightDigest(), self.model
        tap: Any = Tap(model, digest)
        self.model = tap
        try:
            super().receive_weights(update_info)
        finally:
            self.model = model
        self._pending = {"version": update_info.version, "checksum": digest.hexdigest()}

    def finish_weight_update(self) -> None:
        assert self._pending is not None, "finish_weight_update without update_weights"
        super().finish_weight_update()
        self.receipt = self._pending
