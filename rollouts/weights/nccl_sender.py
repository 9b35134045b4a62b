"""Learner -> engines by NCCL, with vLLM's own trainer protocol; sibling of `SharedMemorySender`.

Learner rank 0 and the engines * tensor_parallel vLLM workers form a group of their own; rank 0
drives the engines' Ray actors while it broadcasts. Written against vLLM 0.32 without a GPU: order
of calls, rank offsets and digests are tested with fakes, the broadcast itself has not been run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from conjoint.rollouts.weights.digest import WeightDigest
from conjoint.rollouts.weights.manifest import Loaded
from conjoint.rollouts.weights.sender import WeightMeta, Weights


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` over our Ray actors: blocking calls that all engines answer."""

    def __init__(self, workers: list[Any], tensor_parallel: int, timeout_s: float) -> None:
        self._workers = workers
        self._tensor_parallel = tensor_parallel
        self._timeout_s = timeout_s
        self.version = 0
        """Of the weights being sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """With NCCL each engine starts at a rank of its own; vLLM adds the tensor-parallel rank."""
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
        # A list: every call must have left before the first answer is waited for.
        ray.get(list(calls), timeout=self._timeout_s)


class DigestSource:
    """vLLM's `WeightSource`: the weights as they are sent, digested on the way."""

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
    """Runs beside rank 0's weights. The first `send` connects; the connection lasts for the run."""

    workers: list[Any]
    """Ray handles of `conjoint.rollouts.engine.vllm_worker.VllmWorker`, one for each engine."""
    tensor_parallel: int
    timeout_s: float
    """Deadline of one call to the engines."""
    _link: Link | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def world_size(self) -> int:
        """The sender and every worker of every engine."""
        return 1 + len(self.workers) * self.tensor_parallel

    def send(self, weights: Weights, version: int) -> Loaded:
        """Returns when every engine has loaded the weights; what they received is asked later."""
        import torch

        link = self._link = self._link or self._open(weights)
        link.client.version = version
        link.source.weights, link.source.digest = weights, WeightDigest()
        if torch.cuda.is_available():
            # The transfer reads on streams of its own: the optimizer's writes must have landed.
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
