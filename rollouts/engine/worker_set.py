"""The rollout workers of a run: which are up, who serves a session, who is dead and replaced.

A worker is dead when its process or its engine is gone, and when it hangs: a call that reaches its
engine core (`ping`, each `rollout.heartbeat_s`) has not returned within `rollout.hang_timeout_s`.
Everything it owns is then removed, every call that waits for it ends with `WorkerDied`, and another
takes its slot. Who joins while weights are in motion would load half of them: the set is held from
pause to resume, and a replacement joins, with the current weights, only while it is not.

More than `rollout.max_deaths` deaths of one slot in a row, without an answer between them, end the
run: from then on `check` raises StopRun, and so does everything that asks for a worker.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from conjoint.envs.types import StopRun
from conjoint.rollouts.engine.actor import EngineGone
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.belongings import Belongings

_LOG = logging.getLogger(__name__)
_SESSIONS = 65_536
"""How many sessions are remembered, the last used ones."""
_MAX_BACKOFF_S = 60.0
_GRACE_S = 3.0
"""That Ray has to end a worker; one that is stopped takes longer and is killed."""


class WorkerDied(Exception):
    """The worker that was asked is dead; ask another."""


@dataclass(eq=False)
class EngineWorker:
    """One worker from its launch to its death; a replacement is another object in its slot."""

    slot: int
    handle: Any
    """Handle of the Ray actor."""
    belongings: Belongings
    kill: Callable[[], None]
    """Tells Ray, which on another machine is the only one that can."""
    backend: str = "vllm"
    up: bool = False
    load: int = 0
    """Requests it was given and has not answered."""
    words: str = ""
    """Why it is dead; "" while it is not."""
    waits: set["asyncio.Future[Any]"] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.backend}-{self.slot}"


class WorkerSet:
    def __init__(
        self,
        launch: Callable[[int], EngineWorker],
        cfg: RolloutConfig,
        *,
        replace: bool = True,
        backoff_s: float = 1.0,
    ) -> None:
        """`launch` starts the worker of a slot without waiting for it. `replace`: whether another
        worker may take a dead one's place; otherwise a death ends the run."""
        self._launch = launch
        self._cfg = cfg
        self._replaces = replace
        self._backoff_s = backoff_s
        self.slots = [launch(slot) for slot in range(cfg.engines)]
        self._gate = asyncio.Lock()
        self._held = False
        self.join: Callable[[EngineWorker], Awaitable[None]] = _nothing
        """What brings a replacement to where the others are; called while the set is not held."""
        self.deaths = 0
        self._in_a_row = [0] * cfg.engines
        self._stop: StopRun | None = None
        self._started = False
        self._stop_ids: list[int] = []
        self._homes: OrderedDict[str, EngineWorker] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def start(self, stop_ids: Sequence[int], timeout_s: float) -> None:
        """Wait until all are up. Before that a death is not mended but told: nothing is lost yet,
        and what a worker cannot start with is most often its configuration."""
        self._stop_ids = list(stop_ids)
        try:
            await asyncio.gather(*(self._start(worker, timeout_s) for worker in self.slots))
        except WorkerDied:
            self.check()
            raise
        self._started = True

    @property
    def up(self) -> list[EngineWorker]:
        return [worker for worker in self.slots if worker.up]

    def check(self) -> None:
        if self._stop is not None:
            raise self._stop

    def route(self, session: str) -> EngineWorker | None:
        """The worker that has served this session, else the least loaded one; None if none is up.
        "" is no session."""
        self.check()
        home = self._homes.get(session)
        if home is None or not home.up:
            home = min(self.up, key=lambda worker: worker.load, default=None)
        if home is not None and session:
            self._homes[session] = home
            self._homes.move_to_end(session)
            if len(self._homes) > _SESSIONS:
                self._homes.popitem(last=False)
        return home

    async def someone(self) -> None:
        """Returns when a worker is up."""
        while not self.up:
            self.check()
            self._changed.clear()
            await self._changed.wait()
        self.check()

    async def hold(self) -> None:
        """From now until `release` no replacement joins, for weights are in motion."""
        if not self._held:
            await self._gate.acquire()
            self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._gate.release()

    async def sample(self, worker: EngineWorker, requests: list[Any]) -> Any:
        """Without a deadline: an answer may take long, and the heartbeat sees a hang."""
        worker.load += len(requests)
        try:
            results = await self.call(worker, "sample", requests, stage="sample")
        finally:
            worker.load -= len(requests)
        self._in_a_row[worker.slot] = 0
        return results

    async def call(
        self, worker: EngineWorker, method: str, *args: Any, stage: str, timeout: float = 0
    ) -> Any:
        """What one worker answers. Raises WorkerDied if it is dead, dies, or misses the deadline
        (0: none), StopRun if it refuses."""
        if worker.words:
            raise WorkerDied(worker.words)
        wait: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        worker.waits.add(wait)
        answer = asyncio.ensure_future(worker.handle.call.remote(method, *args))
        answer.add_done_callback(lambda done: _pass_on(done, wait))
        try:
            async with asyncio.timeout(timeout or None):
                return await wait
        except TimeoutError:
            self.bury(worker, f"it did not {stage} within {timeout:g} s")
            raise WorkerDied(worker.words) from None
        except (RayActorError, EngineGone) as error:
            self.bury(worker, f"it died during: {stage}. {_words(error)}")
            raise WorkerDied(worker.words) from error
        finally:
            worker.waits.discard(wait)

    async def all(self, method: str, *args: Any, stage: str) -> list[Any]:
        """What each worker that is up, and lives to answer, answers."""
        self.check()
        timeout = self._cfg.request_timeout_s
        calls = (self.call(w, method, *args, stage=stage, timeout=timeout) for w in self.up)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        self.check()
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, WorkerDied):
                raise StopRun(f"a rollout worker did not {stage}: {_words(answer)}") from answer
        return [answer for answer in answers if not isinstance(answer, WorkerDied)]

    def bury(self, worker: EngineWorker, words: str) -> None:
        """This worker is dead: end what waits for it and have another take its slot."""
        if worker.words:
            return
        self._end(worker, words)
        self.deaths += 1
        self._in_a_row[worker.slot] += 1
        self._stop = self._stop or self._verdict(worker)
        if self._stop is None:
            _LOG.warning("%s is dead and will be replaced: %s", worker.name, words.split("\n")[0])
        self._spawn(self._replace(worker))
        self._changed.set()

    def _end(self, worker: EngineWorker, words: str) -> None:
        worker.up, worker.words = False, worker.words or words
        for wait in worker.waits:
            if not wait.done():
                wait.set_exception(WorkerDied(words))

    def _verdict(self, worker: EngineWorker) -> StopRun | None:
        """Why the run cannot go on after this death, if it cannot."""
        said = worker.belongings.last_words()
        words = worker.words + (f"\nThe end of its log:\n{said}" if said else "")
        row, limit = self._in_a_row[worker.slot], self._cfg.max_deaths
        if not self._started:
            return StopRun(f"rollout worker {worker.name} did not start: {words}")
        if not self._replaces:
            return StopRun(
                f"rollout worker {worker.name} is dead, and only with weight_sync.backend=shm can "
                "another be given the weights of the others: go on from the last checkpoint with "
                f"conjoint train resume=RUN_DIR. {words}"
            )
        if row > limit:
            return StopRun(
                f"rollout worker {worker.name} died {row} times in a row without an answer between "
                f"(rollout.max_deaths={limit}). The last time {words}"
            )
        return None

    async def _replace(self, dead: EngineWorker) -> None:
        await self._remove(dead)
        if self._stop is not None:
            return
        row = self._in_a_row[dead.slot]
        if row > 1:
            await asyncio.sleep(min(self._backoff_s * 2 ** (row - 2), _MAX_BACKOFF_S))
        worker = self.slots[dead.slot] = self._launch(dead.slot)
        with contextlib.suppress(WorkerDied):  # which has its own replacement
            await self._start(worker, self._cfg.start_timeout_s)

    async def _start(self, worker: EngineWorker, timeout_s: float) -> None:
        noting = self._spawn(self._note(worker))
        try:
            await self.call(worker, "ready", self._stop_ids, stage="start", timeout=timeout_s)
            async with self._gate:
                await self.join(worker)
                worker.up = not worker.words
        except Exception as error:
            self.bury(worker, f"it did not start: {_words(error)}")
            raise WorkerDied(worker.words) from error
        finally:
            noting.cancel()
        await asyncio.to_thread(worker.belongings.note)
        self._spawn(self._heartbeat(worker))
        self._changed.set()

    async def _note(self, worker: EngineWorker) -> None:
        """While it starts, so that one that dies then leaves nothing unseen."""
        while not worker.words:
            await asyncio.to_thread(worker.belongings.note)
            await asyncio.sleep(self._cfg.heartbeat_s)

    async def _heartbeat(self, worker: EngineWorker) -> None:
        while worker.up:
            await asyncio.sleep(self._cfg.heartbeat_s)
            if self._gate.locked():
                continue  # a core that loads weights answers late; that call has its own deadline
            deadline = self._cfg.hang_timeout_s
            try:
                await self.call(
                    worker, "ping", not worker.load, stage="answer a heartbeat", timeout=deadline
                )
            except WorkerDied:
                return
            except Exception as error:
                self.bury(worker, f"its heartbeat failed: {_words(error)}")

    async def _remove(self, worker: EngineWorker) -> None:
        # What it holds can be seen only now. Ray is let end it, or it tells the user of a worker
        # that died.
        await asyncio.to_thread(worker.belongings.note)
        worker.kill()
        await asyncio.to_thread(worker.belongings.reap, grace_s=_GRACE_S)

    async def close(self) -> None:
        """End every worker and what it started."""
        self._stop = self._stop or StopRun("the rollout engine is closed")
        for worker in self.slots:
            self._end(worker, "the rollout engine is closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._remove, self.slots))
        self._changed.set()

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _pass_on(done: "asyncio.Future[Any]", wait: "asyncio.Future[Any]") -> None:
    """Give the outcome to who waits, unless the worker was given up meanwhile."""
    error = None if done.cancelled() else done.exception()
    if wait.done():
        return
    if done.cancelled():
        wait.cancel()
    elif error is not None:
        wait.set_exception(error)
    else:
        wait.set_result(done.result())


def _words(error: BaseException) -> str:
    """What was raised, without Ray's traceback around it."""
    return str(error.cause if isinstance(error, RayTaskError) else error)


async def _nothing(worker: EngineWorker) -> None:
    return None
