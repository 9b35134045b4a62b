"""The Ray actor of one rollout worker, and what its driver needs to trust it."""

from typing import Any

from conjoint.rollouts.engine.transformers_worker import TransformersWorker
from conjoint.rollouts.engine.vllm_worker import SampleRequest, VllmWorker


class WorkerError(Exception):
    """A call failed; the worker lives. The message holds the type and the words of its error."""


class EngineGone(WorkerError):
    """A call failed because vLLM's engine core or one of its workers is dead."""


class _Actor:
    """Mixed into a worker."""

    @property
    def gone(self) -> bool:
        return False

    async def call(self, method: str, *args: Any) -> Any:
        """What the method returns. Its error crosses as words: reading one of vLLM's own classes
        would import vLLM in the driver, which stops its event loop for 15 s."""
        try:
            return await getattr(self, method)(*args)
        except Exception as error:
            kind = EngineGone if self.gone else WorkerError
            raise kind(f"{type(error).__name__}: {error}") from None


class EngineActor(_Actor, VllmWorker):
    async def ready(self, stop_ids: list[int]) -> None:
        """Sample once before reporting ready: the first answer can take 20 s, which would look
        like a hang."""
        await super().ready(stop_ids)
        await self.sample([SampleRequest([0], max_tokens=2, temperature=1.0, seed=0)])

    @property
    def gone(self) -> bool:
        return self._llm.errored

    async def ping(self, idle: bool) -> None:
        """Returns only if the engine core does, and where it is idle, vLLM's workers too: a busy
        core waits for them by itself, and should not be made to wait twice."""
        await self._llm.is_paused()
        if idle:
            await self._llm.collective_rpc("weight_receipt")


class PlainActor(_Actor, TransformersWorker):
    async def ping(self, idle: bool) -> None:
        """Returns after the step in progress."""
        await self.settled()


ACTORS: dict[str, type] = {"vllm": EngineActor, "transformers": PlainActor}
"""By `rollout.backend`."""
