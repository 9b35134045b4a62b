"""Driver side of the vLLM workers: a `RolloutEngine` over one or more Ray actors.

Who waits for whom: `sample` waits until the engine is open (between `resume` and `pause`) and its
weights are confirmed; `pause` waits until every call in flight has ended; `load_weights` may only
be called while paused. A call whose worker dies goes, unchanged, to another or to the replacement.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from conjoint.envs.marks import DRIVER_MARK, mark_environment
from conjoint.envs.types import Completion, StopRun, derive_seed
from conjoint.rollouts.engine.actor import ACTORS
from conjoint.rollouts.engine.admission import Admission
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.belongings import Belongings
from conjoint.rollouts.engine.vllm_worker import SampleRequest, SampleResult, engine_environment
from conjoint.rollouts.engine.worker_set import EngineWorker, WorkerDied, WorkerSet
from conjoint.rollouts.weights.manifest import Sent

_Waiting = list[tuple[SampleRequest, "asyncio.Future[Completion]"]]


class VllmEngine:
    """Sends calls of one session and tick to one worker in one Ray call."""

    def __init__(self, workers: WorkerSet, cfg: RolloutConfig) -> None:
        self._set = workers
        self._set.join = self._join
        self._admission = Admission(cfg.engines, cfg.max_num_seqs)
        self._request_timeout = cfg.request_timeout_s
        self._waiting: dict[str, _Waiting] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._parked: dict[asyncio.Task[None], _Waiting] = {}
        """In-flight calls not yet assigned to a worker."""
        self._open = asyncio.Event()
        """New calls are taken."""
        self._flowing = asyncio.Event()
        """Calls that were taken are given to workers."""
        self._open.set()
        self._flowing.set()
        self._requeued = 0
        self._deaths_drained = 0
        self._sent: Sent | None = None
        """The weights that a replacement must load; None: those of the folder."""
        self.version = 0
        self._confirmed = -1  # nothing is sampled before the first sync

    @property
    def workers(self) -> list[Any]:
        """Ray handles, for a weight sender that talks to the engines itself."""
        return [worker.handle for worker in self._set.slots]

    @staticmethod
    def launch(
        model: str,
        cfg: RolloutConfig,
        seed: int,
        backend: str,
        placement: PlacementGroup | None = None,
        first_bundle: int = 0,
    ) -> "VllmEngine":
        """Start the workers without waiting for them; `ready` waits. Engine i gets the bundle
        `first_bundle + i` of a placement group."""

        def start(slot: int) -> EngineWorker:
            mark = f"{DRIVER_MARK}-{uuid4().hex}"
            handle: Any = (
                ray.remote(ACTORS[cfg.backend])
                .options(
                    num_cpus=0,
                    num_gpus=cfg.gpus_per_engine,
                    runtime_env={
                        "env_vars": engine_environment(cfg, backend) | mark_environment(mark)
                    },
                    max_concurrency=4096,
                    scheduling_strategy=(
                        PlacementGroupSchedulingStrategy(placement, first_bundle + slot)
                        if placement is not None
                        else None
                    ),
                )
                .remote(model, cfg, derive_seed(seed, "engine", slot), backend)
            )
            return EngineWorker(
                slot, handle, Belongings(mark), lambda: ray.kill(handle), cfg.backend
            )

        return VllmEngine(WorkerSet(start, cfg, replace=backend == "shm"), cfg)

    async def ready(self, stop_ids: Sequence[int], timeout_s: float) -> None:
        try:
            await self._set.start(stop_ids, timeout_s)
        except BaseException:
            await self.close()
            raise

    def use_loaded_weights(self) -> None:
        """Sample from the weights of the model's folder, which the workers loaded themselves: for
        evaluation, where no learner sends any."""
        self._confirmed = self.version

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int,
        session: str = "",
    ) -> Completion:
        self._set.check()
        await self._open.wait()
        self._check_confirmed()
        request = SampleRequest(list(tokens), max_tokens, temperature, seed, top_p)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion] = loop.create_future()
        waiting = self._waiting.setdefault(session, [])
        waiting.append((request, future))
        if len(waiting) == 1:
            # Runs after every call already scheduled for this tick: they travel together.
            loop.call_soon(self._send, session)
        return await future

    def _check_confirmed(self) -> None:
        if self._confirmed != self.version:
            raise StopRun(
                f"the engine was given weights {self.version} but confirmed {self._confirmed}; "
                "it must not sample"
            )

    def _send(self, session: str) -> None:
        task = asyncio.ensure_future(self._sample(session, self._waiting.pop(session)))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _sample(self, session: str, waiting: _Waiting) -> None:
        try:
            worker, results = await self._answers(session, waiting)
        except BaseException as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(
                        error if isinstance(error, Exception) else asyncio.CancelledError()
                    )
            return
        for (_, future), result in zip(waiting, results, strict=True):
            if not future.done():
                future.set_result(self._completion(result, worker.name))

    async def _answers(
        self, session: str, waiting: _Waiting
    ) -> tuple[EngineWorker, list[SampleResult]]:
        """Answers from the first worker that survives the call. Tokens sampled by a dead worker
        are lost, so the requests are repeated whole, seeds included."""
        while True:
            worker = await self._worker(session, waiting)
            try:
                requests = [request for request, _ in waiting]
                sampled = await self._set.sample(worker, requests)
                self._admission.observe(worker.slot, sampled.load)
                return worker, sampled.results
            except WorkerDied:
                self._requeued += len(waiting)

    async def _worker(self, session: str, waiting: _Waiting) -> EngineWorker:
        task = asyncio.current_task()
        assert task is not None
        while True:
            if self._flowing.is_set() and (worker := self._set.route(session)) is not None:
                return worker
            self._parked[task] = waiting
            try:
                await self._flowing.wait()
                await self._set.someone()
            finally:
                del self._parked[task]

    def _completion(self, result: SampleResult, engine: str) -> Completion:
        version = result.versions[-1] if result.versions else self.version
        return Completion(
            result.tokens, result.logprobs, result.stop_reason, version, engine, result.versions
        )

    @property
    def capacity(self) -> int:
        return self._admission.capacity([worker.slot for worker in self._set.up])

    async def pause(self, *, drain: bool = True) -> None:
        if drain and self._in_flight and not self._flowing.is_set():
            await self.resume()  # what an earlier pause froze must go on to its end
        self._open.clear()
        while drain and (self._in_flight or self._waiting):
            # A replacement may join here: what is drained may have to be sampled on it.
            await (asyncio.wait(self._in_flight) if self._in_flight else asyncio.sleep(0))
        self._flowing.clear()
        await self._set.hold()
        await self._set.all("pause", drain, stage="pause")

    async def sleep(self) -> None:
        """Paused, and out of the GPU's memory until it is given new weights and resumed."""
        await self.pause()
        self._confirmed = -1
        await self._set.all("sleep", stage="sleep")

    async def abort(self) -> None:
        self._set.check()
        await asyncio.sleep(0)  # what was asked for in this tick is sent
        asked = set(self._in_flight)
        while asked := asked & self._in_flight:
            for task, waiting in list(self._parked.items()):
                for _, future in waiting:
                    if not future.done():
                        future.set_result(Completion([], [], "abort", self.version))
                task.cancel()
            await self._set.all("abort", stage="abort")
            # Again for a call that reached its worker after this, or went to another.
            await asyncio.wait(asked, timeout=0.5)

    def drain_metrics(self) -> dict[str, float]:
        """Counts since the last call."""
        deaths, requeued = self._set.deaths - self._deaths_drained, self._requeued
        self._deaths_drained, self._requeued = self._set.deaths, 0
        return {
            "engine/deaths": float(deaths),
            "engine/requeued": float(requeued),
            "engine/capacity": float(self.capacity),
            **self._admission.drain_metrics(),
        }

    async def resume(self) -> None:
        if self._in_flight:  # frozen calls, which would go on with these weights
            self._check_confirmed()
        await self._set.all("resume", stage="resume")
        self._set.release()
        self._flowing.set()
        self._open.set()

    async def load_weights(self, sent: Sent, version: int) -> str:
        """Give all workers new weights, if the sender did not. Returns the checksum they agree on;
        raises StopRun if one answers with another version or checksum than was sent."""
        self.version, self._sent, self._confirmed = version, sent, -1
        answers = await self._set.all(
            "load_weights", sent.update_info(), version, stage="load weights"
        )
        for receipts in answers:
            self._check_receipts(receipts)
        self._confirmed = version
        return sent.checksum

    def _check_receipts(self, receipts: list[Any]) -> None:
        assert self._sent is not None
        expected = {"version": self.version, "checksum": self._sent.checksum}
        for receipt in receipts:
            if receipt != expected:
                raise StopRun(
                    f"an engine answered the weight sync with {receipt}, expected version "
                    f"{self.version} and checksum {self._sent.checksum}"
                )

    async def _join(self, worker: EngineWorker) -> None:
        """What a worker must hold before it is up; no sync is between pause and resume here."""
        self._admission.replaced(worker.slot)
        if self._sent is None:
            return
        self._check_receipts(
            await self._set.call(
                worker,
                "load_weights",
                self._sent.update_info(),
                self.version,
                stage="load weights",
                timeout=self._request_timeout,
            )
        )

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        while True:
            await self._set.someone()
            if answers := await self._set.all("prompt_logprobs", tokens, stage="probe"):
                return answers[0]

    async def close(self) -> None:
        """Stop every worker and what it started; nothing is left behind."""
        self._open.clear()
        await self._set.close()
        self._flowing.set()  # whoever waits for a worker hears that none will come
        await asyncio.gather(*self._in_flight, return_exceptions=True)
