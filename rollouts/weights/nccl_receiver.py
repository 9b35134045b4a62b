"""The engine's side of weight transfer by NCCL: vLLM's engine plus a digest of the weights.

`shm_receiver.py` registers it as "conjoint_nccl"; vLLM imports it if that backend is chosen.
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
    """vLLM's update info with the version of the weights."""

    version: int


class DigestNcclEngine(Digesting, NCCLWeightTransferEngine):
    """vLLM's NCCL engine with a receipt of the weights that it has loaded."""

    update_info_cls = DigestUpdateInfo
