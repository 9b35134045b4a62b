"""The Ray actor around a plain transformers model: what a `VllmWorker` answers, without vLLM.

For debugging and for machines that vLLM does not run on. The calls of one session are one batch;
sessions take turns, so which answers share a batch depends on nothing but the session, and equal
seeds give equal answers. The driver's side is `rollouts/engine/driver.py`, as for vLLM.

Who waits for whom: a batch goes on while the worker is not frozen, and asks so before each step;
`pause` returns when the step in progress has ended; loading and log-probs run between two steps.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from conjoint.rollouts.engine.admission import Load
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.vllm_worker import Sampled, SampleRequest
from conjoint.rollouts.weights.manifest import Manifest

if TYPE_CHECKING:
    from conjoint.rollouts.engine.decoding import Batch

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call:
    """One `sample`, from its arrival to its answer."""

    beside: int
    """Answers that the worker held when it came, its own included."""
    aborted: bool = False


class TransformersWorker:
    """Async methods only; made a Ray actor by `rollouts/engine/actor.py`."""

    def __init__(self, model: str, cfg: RolloutConfig, seed: int, backend: str) -> None:
        """`seed` is not used: every request brings its own. `backend` is shm."""
        import torch

        from conjoint.rollouts.engine.decoding import Decoder

        self._decoder = Decoder(model, cfg)
        self._largest_batch = cfg.max_num_seqs
        # One thread: steps, loads and probes exclude each other, and the actor keeps answering.
        threads = partial(torch.set_num_threads, cfg.threads)
        self._thread = ThreadPoolExecutor(1, initializer=threads)
        self._turn = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._frozen = False
        self._calls: set[_Call] = set()
        self._held = 0
        """Answers asked for and not given."""
        self._receipt: dict[str, Any] | None = None

    async def ready(self, stop_ids: list[int]) -> None:
        self._decoder.stop_ids = frozenset(stop_ids)

    async def sample(self, requests: list[SampleRequest]) -> Sampled:
        """Answers all requests of one session; returns when the last has ended."""
        self._held += len(requests)
        call = _Call(self._held)
        self._calls.add(call)
        try:
            async with self._turn:
                size = self._largest_batch
                parts = [requests[i : i + size] for i in range(0, len(requests), size)]
                batches = [self._decoder.batch(part) for part in parts]
                for batch in batches:
                    await self._decode(batch, call)
        finally:
            self._calls.remove(call)
            self._held -= len(requests)
            await self._notify()
        results = [row.result() for batch in batches for row in batch.rows]
        prompts = sum(len(request.tokens) for request in requests)
        return Sampled(results, Load(len(results), call.beside, 0.0, 0, prompts, 0))

    async def _decode(self, batch: "Batch", call: _Call) -> None:
        while batch.running:
            async with self._changed:
                await self._changed.wait_for(lambda: call.aborted or not self._frozen)
            if call.aborted:
                return
            await self._run(batch.step)

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        """log p(tokens[i] | tokens[:i]) at temperature 1, for i >= 1."""
        return await self._run(self._decoder.prompt_logprobs, tokens)

    async def pause(self, drain: bool) -> None:
        if drain:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._calls)
        self._frozen = True
        await self.settled()

    async def settled(self) -> None:
        """Returns when the step in progress has ended."""
        await self._run(lambda: None)

    async def resume(self) -> None:
        self._frozen = False
        await self._notify()

    async def abort(self) -> None:
        """Each running request returns what it has."""
        for call in self._calls:
            call.aborted = True
        await self._notify()

    async def load_weights(self, update_info: dict[str, Any] | None, version: int) -> list[Any]:
        """Load what was sent; returns what was received."""
        if update_info is not None:
            self._receipt = None
            manifest = Manifest.from_dict(update_info["manifest"])
            self._receipt = await self._run(self._decoder.load, manifest)
        return [self._receipt]

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
