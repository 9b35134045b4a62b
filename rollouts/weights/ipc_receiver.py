"""The engine's side of weight transfer by CUDA IPC: vLLM's engine plus a digest of the weights.

`shm_receiver.py` registers it as "conjoint_ipc"; vLLM imports it if that backend is chosen.
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
    """vLLM's update info with the version of the weights."""

    version: int = field(kw_only=True)


class DigestIpcEngine(Digesting, IPCWeightTransferEngine):
    """vLLM's IPC engine with a receipt of the weights that it has loaded."""

    update_info_cls = DigestIpcUpdateInfo
