"""The engine's side of weight transfer by NCCL: vLLM's own, which also digests what arrives.

Registered as "conjoint_nccl" by `shm_receiver.py`, imported where that backend is chosen.
Written against vLLM 0.32 without a GPU: it has not been run yet.
"""

from dataclasses import dataclass

from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from conjoint.rollouts.weights.digest import Digesting


@dataclass
class DigestUpdateInfo(NCCLWeightTransferUpdateInfo):
    version: int


class DigestNcclEngine(Digesting, NCCLWeightTransferEngine):
    update_info_cls = DigestUpdateInfo
