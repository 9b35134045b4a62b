"""The learner's side of weight transfer by NCCL, with vLLM's trainer protocol.

Learner rank 0 and all engine workers (engines * tensor_parallel) form an NCCL group. Rank 0 calls
the engines' Ray actors while it broadcasts. Written against vLLM 0.32 without a GPU: the order of
calls, rank offsets and digests are tested with fakes, the broadcast itself has not been run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from conjoint.rollouts.weights.digest import WeightDigest
from conjoint.rollouts.weights.manifest import Loaded
from conjoint.rollouts.weights.sender import WeightMeta, Weights


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` over our Ray actors: each call blocks until all engines answer.

    A call raises Ray's GetTimeoutError after `timeout_s` seconds.
    """

    def __init__(self, workers: list[Any], tensor_parallel: int, timeout_s: float) -> None:
        self._workers = workers
        self._tensor_parallel = tensor_parallel
        self._timeout_s = timeout_s
        self.version = 0
        """Version of the weights being sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the engines' side of the connection. With NCCL each engine gets its first rank in
        the group, to which vLLM adds the tensor-parallel rank of each worker."""
        first = init_info.get("rank_offset")
        ranks = [
            {} if first is None else {"rank_offset": first + i * self._tensor_parallel}
            for i in range(len(self._workers))
        ]
        self._wait(
            worker.init_transfer.remote({**init_info, **rank})
            for worker, rank in zip(self._workers, ranks, strict=True)
        )

    def start_weight_update(self) -> None:
        self._wait(worker.start_weight_update.remote() for worker in self._workers)

    def update_weights(self, update_info: Any) -> None:
        info = {**update_info, "version": self.version}
        self._wait(worker.update_weights.remote(info) for worker in self._workers)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = self.version if weight_version is None else int(weight_version)
        self._wait(worker.finish_weight_update.remote(version) for worker in self._workers)

    def _wait(self, calls: Iterator[Any]) -> None:
        # The list starts every call before the wait: a collective needs all engines at once.
        ray.get(list(calls), timeout=self._timeout_s)


class DigestSource:
    """vLLM's `WeightSource`: yields the weights to send and digests them on the way."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.digest = WeightDigest()

    def metadata(self) -> list[WeightMeta]:
        return self.weights.metadata()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for name, tensor in self.weights:
            self.digest.add(name, tensor)
            yield name, tensor


@dataclass(slots=True)
class Link:
    """An open connection to the engines."""

    client: EngineClient
    source: DigestSource
    trainer: Any


@dataclass(slots=True)
class NcclSender:
    """Sends from the process of learner rank 0. The first `send` opens the connection, which then
    lasts for the run."""

    workers: list[Any]
    """Ray handles of `conjoint.rollouts.engine.vllm_worker.VllmWorker`, one for each engine."""
    tensor_parallel: int
    """vLLM workers of one engine."""
    timeout_s: float
    """Deadline of one call to the engines, in seconds."""
    _link: Link | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def world_size(self) -> int:
        """Processes of the NCCL group: the sender and each worker of each engine."""
        return 1 + len(self.workers) * self.tensor_parallel

    def send(self, weights: Weights, version: int) -> Loaded:
        """Returns when every engine has loaded the weights. `load_weights` compares their digests
        with that of the result."""
        import torch

        link = self._link = self._link or self._open(weights)
        link.client.version = version
        link.source.weights, link.source.digest = weights, WeightDigest()
        if torch.cuda.is_available():
            # The transfer reads on other CUDA streams, so the optimizer's writes must be complete.
            torch.cuda.synchronize()
        link.trainer.send_weights()
        return Loaded(link.source.digest.hexdigest())

    def _open(self, weights: Weights) -> Link:
        from vllm.distributed.weight_transfer.nccl_engine import (
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        from conjoint.rollouts.weights.sender import free_port

        client = EngineClient(self.workers, self.tensor_parallel, self.timeout_s)
        source: Any = DigestSource(weights)
        info = NCCLTrainerInitInfo(
            ray.util.get_node_ip_address(), free_port(), self.world_size, rank=0
        )
        trainer = NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=source)
        return Link(client, source, trainer)
