"""Driver side of the vLLM workers: a `RolloutEngine` over one or more Ray actors.

Who waits for whom: `sample` waits until the engine is open (between `resume` and `pause`) and its
weights are confirmed; `pause` waits until every call in flight has ended; `load_weights` may only
be called while paused. Every wait has `request_timeout_s` and says what it waited for.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl.types import Completion, StopRun, derive_seed
from rollouts.engine import RolloutConfig
from rollouts.vllm_worker import SampleRequest, SampleResult, VllmWorker, engine_environment
from rollouts.weights import Sent

T = TypeVar("T")
_Waiting = list[tuple[SampleRequest, "asyncio.Future[Completion]"]]


class VllmEngine:
    """Routes a session to one worker and sends calls of one session and tick in one Ray call."""

    def __init__(self, workers: list[Any], cfg: RolloutConfig) -> None:
        self._workers = workers
        self._timeout = cfg.request_timeout_s
        self._max_num_seqs = cfg.max_num_seqs
        self._pids: list[int] = []
        self._waiting: dict[str, _Waiting] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.version = 0
        self._confirmed = -1  # nothing is sampled before the first sync

    @property
    def workers(self) -> list[Any]:
        """Ray handles, for a weight sender that talks to the engines itself."""
        return self._workers

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
        actor = ray.remote(VllmWorker)
        options = {
            "num_cpus": 0,
            "num_gpus": cfg.gpus_per_engine,
            "runtime_env": {"env_vars": engine_environment(cfg)},
            "max_concurrency": 4096,
        }
        workers = [
            actor.options(
                scheduling_strategy=(
                    PlacementGroupSchedulingStrategy(placement, first_bundle + i)
                    if placement is not None
                    else None
                ),
                **options,
            ).remote(model, cfg, derive_seed(seed, "engine", i), backend)
            for i in range(cfg.engines)
        ]
        return VllmEngine(workers, cfg)

    async def ready(self, stop_ids: Sequence[int], timeout_s: float) -> None:
        pids = await self._all("ready", list(stop_ids), stage="start", timeout=timeout_s)
        self._pids = [pid for worker in pids for pid in worker]

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
        seed: int,
        session: str = "",
    ) -> Completion:
        await self._open.wait()
        if self._confirmed != self.version:
            raise StopRun(
                f"the engine was given weights {self.version} but confirmed {self._confirmed}; "
                "it must not sample"
            )
        request = SampleRequest(list(tokens), max_tokens, temperature, seed)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion] = loop.create_future()
        waiting = self._waiting.setdefault(session, [])
        waiting.append((request, future))
        if len(waiting) == 1:
            # Runs after every call already scheduled for this tick: they travel together.
            loop.call_soon(self._send, session)
        return await future

    def _send(self, session: str) -> None:
        task = asyncio.ensure_future(self._sample(session, self._waiting.pop(session)))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _sample(self, session: str, waiting: _Waiting) -> None:
        index = derive_seed(session) % len(self._workers)
        try:
            results: list[SampleResult] = await self._wait(
                self._workers[index].sample.remote([request for request, _ in waiting]),
                f"sample {len(waiting)} answers of session {session}",
            )
        except BaseException as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(
                        error if isinstance(error, Exception) else asyncio.CancelledError()
                    )
            return
        for (_, future), result in zip(waiting, results, strict=True):
            if not future.done():
                future.set_result(self._completion(result, f"vllm-{index}"))

    def _completion(self, result: SampleResult, engine: str) -> Completion:
        version = result.versions[-1] if result.versions else self.version
        return Completion(
            result.tokens, result.logprobs, result.stop_reason, version, engine, result.versions
        )

    @property
    def capacity(self) -> int:
        return self._max_num_seqs * len(self._workers)

    async def pause(self, *, drain: bool = True) -> None:
        self._open.clear()
        while drain and self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._timeout)
        await self._all("pause", drain, stage="pause")

    async def abort(self) -> None:
        await self._all("abort", stage="abort")

    def drain_metrics(self) -> dict[str, float]:
        return {}

    async def resume(self) -> None:
        await self._all("resume", stage="resume")
        self._open.set()

    async def load_weights(self, sent: Sent, version: int) -> str:
        """Give all workers new weights, if the sender did not. Returns the checksum they agree on;
        raises StopRun if one answers with another version or checksum than was sent."""
        self.version = version
        answers = await self._all("load_weights", sent.update_info(), version, stage="load weights")
        for receipt in (r for worker in answers for r in worker):
            if receipt != {"version": version, "checksum": sent.checksum}:
                raise StopRun(
                    f"an engine answered the weight sync with {receipt}, expected version "
                    f"{version} and checksum {sent.checksum}"
                )
        self._confirmed = version
        return sent.checksum

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        return (await self._all("prompt_logprobs", tokens, stage="probe"))[0]

    async def close(self) -> None:
        """Stop every worker and what it started; nothing is left behind."""
        self._open.clear()
        with contextlib.suppress(Exception):
            await self._all("shutdown", stage="shut down", timeout=20)
        for worker in self._workers:
            ray.kill(worker)
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _all(self, method: str, *args: Any, stage: str, timeout: float = 0) -> list[Any]:
        calls = (
            self._wait(getattr(worker, method).remote(*args), stage, timeout)
            for worker in self._workers
        )
        return list(await asyncio.gather(*calls))

    async def _wait(self, call: Awaitable[T], stage: str, timeout: float = 0) -> T:
        limit = timeout or self._timeout
        try:
            return await asyncio.wait_for(call, limit)
        except TimeoutError:
            raise StopRun(f"the rollout engine did not {stage} within {limit:.0f} s") from None
        except RayActorError as error:
            raise StopRun(f"a rollout engine died during: {stage}. {error}") from error
