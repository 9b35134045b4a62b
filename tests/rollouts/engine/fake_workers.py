"""Rollout workers without Ray: each answers, hangs or dies as a test tells it."""

import asyncio
from typing import Any

from ray.exceptions import RayActorError

from conjoint.rollouts.engine.admission import Load
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.engine.vllm_worker import Sampled, SampleResult
from conjoint.rollouts.engine.worker_set import EngineWorker, WorkerSet

CONFIG: dict[str, Any] = {"heartbeat_s": 0.01, "hang_timeout_s": 0.05, "engines": 2}


class FakeActor:
    """What `worker.handle.call.remote(method, ...)` reaches."""

    def __init__(self, fakes: "Fakes", slot: int) -> None:
        self.fakes = fakes
        self.slot = slot
        self.calls: list[tuple[Any, ...]] = []
        self.samples: list[Any] = []
        """Requests of all `sample` calls, answered or not."""
        self.version: int | None = None
        self.receipts = fakes.receipts
        self.load = Load(1, 1, 0.0, 0, 0, 0)
        """What its next answers report."""
        self.hangs = False
        self._ended, self._thawed = asyncio.Event(), asyncio.Event()
        self._thawed.set()
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if fakes.dies_at_start(slot):
            self.die("no memory left")

    @property
    def call(self) -> "FakeActor":
        return self

    async def remote(self, method: str, *args: Any) -> Any:
        self.calls.append((method, *args))
        work = asyncio.ensure_future(self._answer(method, args))
        await asyncio.wait({work, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            work.cancel()
            self._gone.result()
        return work.result()

    async def _answer(self, method: str, args: tuple[Any, ...]) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        if method == "ready":
            await self.fakes.start_gate.wait()
        if method == "sample":
            return await self._sample(args[0])
        if method == "pause" and not args[0]:
            self._thawed.clear()
        if method == "resume":
            self._thawed.set()
        if method == "abort":
            self._ended.set()
            self._ended = asyncio.Event()
        if method == "load_weights":
            self.version = args[1]
            return self.receipts or [{"version": args[1], "checksum": args[0]["sum"]}]
        return None

    async def _sample(self, requests: list[Any]) -> Sampled:
        """Ends when the gate is open and the worker is not frozen, or when it is aborted."""
        self.samples += requests

        async def drawn() -> None:
            await self.fakes.sample_gate.wait()
            await self._thawed.wait()

        work, ended = asyncio.ensure_future(drawn()), asyncio.ensure_future(self._ended.wait())
        await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
        stop = "stop" if work.done() else "abort"
        work.cancel()
        ended.cancel()
        return Sampled([SampleResult([r.seed], [-1.0], stop, []) for r in requests], self.load)

    @property
    def dead(self) -> bool:
        return self.hangs or self._gone.done()

    def die(self, words: str = "killed") -> None:
        if not self._gone.done():
            self._gone.set_exception(RayActorError(error_msg=words))
            self._gone.exception()


class FakeBelongings:
    def __init__(self) -> None:
        self.reaped = 0

    def note(self) -> list[int]:
        return []

    def reap(self, timeout_s: float = 0, *, grace_s: float = 0) -> list[int]:
        self.reaped += 1
        return []

    def last_words(self, lines: int = 0) -> str:
        return "Traceback: the core's own"


class Sent:
    def __init__(self, version: int) -> None:
        self.checksum = f"sum of {version}"

    def update_info(self) -> dict[str, Any]:
        return {"sum": self.checksum}


class Fakes:
    """The engine over fake workers, and every worker that was launched for it."""

    def __init__(self, *, replace: bool = True, **keys: Any) -> None:
        self.launched: list[FakeActor] = []
        self.belongings: list[FakeBelongings] = []
        self.receipts: list[Any] = []
        """What workers launched from now on answer to a load; empty: the truth."""
        self.start_gate, self.sample_gate = asyncio.Event(), asyncio.Event()
        self.start_gate.set()
        self.sample_gate.set()
        self.doomed: set[int] = set()
        """Slots whose workers die as they start."""
        self.cfg = RolloutConfig(**CONFIG | keys)
        self.set = WorkerSet(self._launch, self.cfg, replace=replace, backoff_s=0.001)
        self.engine = VllmEngine(self.set, self.cfg)

    def dies_at_start(self, slot: int) -> bool:
        return slot in self.doomed

    def _launch(self, slot: int) -> EngineWorker:
        actor, owned = FakeActor(self, slot), FakeBelongings()
        self.launched.append(actor)
        self.belongings.append(owned)
        return EngineWorker(slot, actor, owned, lambda: actor.die("killed by its driver"))  # type: ignore[arg-type]

    async def ready(self, version: int | None = 0) -> "Fakes":
        """Up, and with weights unless `version` is None."""
        await self.engine.ready([1], 5)
        if version is not None:
            await self.sync(version)
        return self

    async def sync(self, version: int) -> None:
        await self.engine.pause()
        await self.engine.load_weights(Sent(version), version)
        await self.engine.resume()

    def ask(self, session: str, *seeds: int) -> list["asyncio.Task[Any]"]:
        """Requests of one session made in one tick; each is answered with its seed."""
        return [
            asyncio.ensure_future(
                self.engine([5], max_tokens=4, temperature=1.0, seed=seed, session=session)
            )
            for seed in seeds
        ]

    async def healed(self) -> None:
        """Every death so far is found and mended."""
        async with asyncio.timeout(5):
            while not all(w.up and not w.handle.dead for w in self.set.slots):
                await asyncio.sleep(0.002)


async def settled() -> None:
    """After everything that can happen now has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


class InProcess:
    """A Ray handle to an actor that runs in this event loop; `engine` is an engine over it."""

    def __init__(self, actor: Any, cfg: RolloutConfig) -> None:
        self.call = self
        self._actor = actor
        worker = EngineWorker(0, self, FakeBelongings(), lambda: None, cfg.backend)  # type: ignore[arg-type]
        self.engine = VllmEngine(WorkerSet(lambda slot: worker, cfg), cfg)

    def remote(self, method: str, *args: Any) -> "asyncio.Future[Any]":
        return asyncio.ensure_future(self._actor.call(method, *args))
