"""The engine's side of weight transfer by shared memory, and our extension of vLLM's worker.

vLLM imports this module in its worker process, because `worker_extension_cls` names
`WorkerExtension`. The import registers our backends: "shm" (this file), "conjoint_nccl" and
"conjoint_ipc". The weights are loaded by vLLM's layerwise reload.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from conjoint.rollouts.weights.buffer import Receiver
from conjoint.rollouts.weights.manifest import Manifest


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """vLLM's protocol asks for this class. Shared memory needs no connection."""

    pass


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    manifest: dict[str, Any]


class ShmTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Loads all weights of a model from one shared buffer."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo
    receipt: dict[str, Any] | None = None
    """Version and checksum of the weights that were last loaded completely."""
    _receiver: Receiver | None = None
    _pending: Manifest | None = None

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        return None

    def start_weight_update(self) -> None:
        self.receipt = None

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Verify the bytes, then load them. Raises RuntimeError before the model is touched if the
        checksum does not match."""
        manifest = Manifest.from_dict(update_info.manifest)
        self._receiver = self._receiver or Receiver()
        weights = self._receiver.receive(manifest)
        model: Any = self.model
        initialize_layerwise_reload(model)
        model.load_weights(weights)
        self._pending = manifest

    def finish_weight_update(self) -> None:
        assert self._pending is not None, "finish_weight_update without update_weights"
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()
        self.receipt = {"version": self._pending.version, "checksum": self._pending.checksum}

    def _repack_tied_head(self) -> None:
        # On CPU vLLM keeps a tied head as a packed copy of the embedding, which a reload does not
        # refresh. Without this the engine would sample with the new body and the old head.
        head: Any = getattr(self.model, "lm_head", None)
        tied = getattr(self.model_config.hf_config, "tie_word_embeddings", False)
        if self.device.type == "cpu" and tied and head is not None:
            dispatch_cpu_unquantized_gemm(head, remove_weight=False)

    def shutdown(self) -> None:
        self._receiver = None


class WorkerExtension:
    """Mixin that adds two calls to vLLM's worker."""

    weight_transfer_engine: Any
    start_weight_update: Callable[[], None]
    update_weights: Callable[[dict[str, Any]], None]
    finish_weight_update: Callable[[], None]

    def load_update(self, update_info: dict[str, Any]) -> dict[str, Any] | None:
        """Make vLLM's three calls of an update in one round trip; returns the receipt."""
        self.start_weight_update()
        self.update_weights(update_info)
        self.finish_weight_update()
        return self.weight_receipt()

    def weight_receipt(self) -> dict[str, Any] | None:
        """Version and checksum of the loaded weights; None during an update or before the first."""
        return self.weight_transfer_engine.receipt


WeightTransferEngineFactory.register_engine("shm", ShmTransferEngine)
WeightTransferEngineFactory.register_engine(
    "conjoint_nccl", "conjoint.rollouts.weights.nccl_receiver", "DigestNcclEngine"
)
WeightTransferEngineFactory.register_engine(
    "conjoint_ipc", "conjoint.rollouts.weights.ipc_receiver", "DigestIpcEngine"
)
