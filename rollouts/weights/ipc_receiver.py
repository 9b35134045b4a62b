"""The engine's side of weight transfer by CUDA IPC: vLLM's own, which also digests what arrives.

Registered as "conjoint_ipc" by `shm_receiver.py`, imported where that backend is chosen.
Written against vLLM 0.32 without a GPU: it has not been run yet.
"""

from dataclasses import dataclass, field

from vllm.distributed.weight_transfer.ipc_engine import (
    IPCWeightTransferEngine,
    IPCWeightTransferUpdateInfo,
)

from conjoint.rollouts.weights.digest import Digesting


@dataclass
class DigestIpcUpdateInfo(IPCWeightTransferUpdateInfo):
    version: int = field(kw_only=True)


class DigestIpcEngine(Digesting, IPCWeightTransferEngine):
    update_info_cls = DigestIpcUpdateInfo
