"""The learner's side of weight transfer by CUDA IPC, with vLLM's trainer protocol.

For one GPU that the learner's only rank shares with the engines. The engines map the learner's
memory and copy the weights out of it, about 1 GiB at a time. Written against vLLM 0.32 without a
GPU: the order of calls and the digests are tested with fakes, the mapping itself has not been run.
"""

from dataclasses import dataclass

from conjoint.rollouts.weights.nccl_sender import DigestSource, EngineClient, Link, NcclSender
from conjoint.rollouts.weights.sender import Weights


@dataclass(slots=True)
class IpcSender(NcclSender):
    """An `NcclSender` with a connection by CUDA IPC."""

    def _open(self, weights: Weights) -> Link:
        from vllm.distributed.weight_transfer.ipc_engine import (
            IPCTrainerInitInfo,
            IPCTrainerWeightTransferEngine,
        )

        client = EngineClient(self.workers, self.tensor_parallel, self.timeout_s)
        source = DigestSource(weights)
        trainer = IPCTrainerWeightTransferEngine.trainer_init(
            IPCTrainerInitInfo(rank=0, packed=True),
            client=client,  # pyright: ignore[reportArgumentType] - fits as NcclSender's does
            source=source,  # pyright: ignore[reportArgumentType]
        )
        return Link(client, source, trainer)
