"""A warm pool of processes that can be killed: the one place where verifiers that may hang run.

Owns start, deadline, memory limit, death with the parent, and the words for what went wrong. The
pool starts on the first call, so a run that never needs it never pays for it. Workers are spawned,
not forked: a fork of a process that holds torch, Ray or a GPU inherits its locks and its memory.
"""

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_PR_SET_PDEATHSIG = 1
_MAX_TEXT = 500
_RESTART_S = 15.0
"""Allowed for replacing a killed worker, imports included (sympy alone takes 1-2 s)."""


class WorkerError(Exception):
    """A call that gave no answer; its subclasses say whose doing it was."""


class DeadlinePassed(WorkerError):
    """The function ran past its deadline and its worker was killed."""


class WorkerDied(WorkerError):
    """The worker process ended while the function ran (crash, out of memory, a kill)."""


class FunctionRaised(WorkerError):
    """The function raised; the text is "Type: message"."""


class PoolUnavailable(WorkerError):
    """No worker could be started or reached: our machinery, never the response's doing."""


def describe(error: BaseException) -> str:
    """ "Type: message" of at most 500 characters, safe to print and to write as UTF-8."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # a hostile __str__ must not take the report down with it
        text = type(error).__name__
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()


def _initialise(parent: int, memory_mb: int, warm: Callable[[], object] | None) -> None:
    """Make this worker killable at once, mortal with its parent and bounded in memory."""
    # Python-level handlers wait for the interpreter; 10**10**9 never returns to it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if warm is not None:
        warm()
    if memory_mb:
        limit = memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _guarded(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    """Runs in the worker: (True, value) or (False, what was raised).

    Exceptions are turned into text here, so that a TimeoutError of the function is not taken for
    its deadline, and so that no exception object of foreign code is unpickled by the trainer.
    """
    try:
        return True, function(*args)
    except BaseException as error:
        return False, describe(error)


class WorkerPool:
    """Runs module-level functions of picklable arguments in killable processes.

    `deadline_s` bounds one call in wall seconds, counted from the moment a worker takes it;
    `memory_mb` bounds the address space of a worker (0: unbounded); `warm` runs once in each new
    worker, outside any deadline.
    """

    def __init__(
        self,
        name: str,
        *,
        deadline_s: float,
        workers: int = 1,
        memory_mb: int = 4096,
        warm: Callable[[], object] | None = None,
        start_s: float = 60.0,
    ) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self._workers = workers
        self._memory_mb = memory_mb
        self._warm = warm
        self._start_s = start_s
        self._pending = 0
        self._lock = threading.Lock()
        self._pool: Any = None  # a pebble.ProcessPool, imported late
        self._stop = threading.Event()

    @property
    def started(self) -> bool:
        return self._pool is not None

    async def call(
        self, function: Callable[..., Any], *args: Any, deadline_s: float | None = None
    ) -> Any:
        """The function's value. Raises one of the four `WorkerError`s.

        A pool that broke before it took the call (a worker killed while idle) is rebuilt once.
        """
        deadline = self.deadline_s if deadline_s is None else deadline_s
        for attempt in (0, 1):
            try:
                return await self._call_once(function, args, deadline)
            except BrokenProcessPool as error:
                if attempt:
                    raise PoolUnavailable(
                        f"the {self.name} worker pool did not start ({describe(error)})"
                    ) from error
        raise AssertionError("unreachable")

    def call_blocking(
        self, function: Callable[..., Any], *args: Any, deadline_s: float | None = None
    ) -> Any:
        """`call` for code that runs before there is an event loop."""
        return asyncio.run(self.call(function, *args, deadline_s=deadline_s))

    def close(self) -> None:
        """Kill every worker; a later call starts afresh."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        pool, self._pool = self._pool, None
        self._stop.set()
        if pool is not None:
            pool.stop()
            pool.join()

    async def _call_once(
        self, function: Callable[..., Any], args: tuple[Any, ...], deadline_s: float
    ) -> Any:
        future = await asyncio.to_thread(self._schedule, function, args, deadline_s)
        self._pending += 1
        ahead = self._pending // self._workers + 1
        wait_s = self._start_s + ahead * (deadline_s + _RESTART_S)
        try:
            ok, value = await asyncio.wait_for(asyncio.wrap_future(future), wait_s)
        except BrokenProcessPool:
            raise
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise DeadlinePassed(f"took longer than {deadline_s:g} s") from error
            raise PoolUnavailable(
                f"the {self.name} worker pool gave no answer within {wait_s:g} s"
            ) from error
        except Exception as error:  # pebble's ProcessExpired, or arguments that do not pickle
            code = getattr(error, "exitcode", None)
            if code is None:
                raise PoolUnavailable(f"the {self.name} worker pool: {describe(error)}") from error
            raise WorkerDied(f"the worker process ended with code {code}") from error
        finally:
            self._pending -= 1
        if not ok:
            raise FunctionRaised(value)
        return value

    def _schedule(
        self, function: Callable[..., Any], args: tuple[Any, ...], deadline_s: float
    ) -> "Future[tuple[bool, Any]]":
        with self._lock:
            if self._pool is not None and not self._pool.active:
                self._discard()
            pool = self._pool or self._start()
            try:
                return pool.schedule(_guarded, args=(function, args), timeout=deadline_s)
            except RuntimeError as error:  # it broke between the two lines
                raise BrokenProcessPool(str(error)) from error

    def _start(self) -> Any:
        """Start the pool from a thread of its own that lives as long as the pool.

        The death signal of a worker is tied to the *thread* that started it: a thread of an event
        loop's executor may end before the pool does.
        """
        from pebble import ProcessPool

        pool = ProcessPool(
            max_workers=self._workers,
            context=multiprocessing.get_context("spawn"),
            initializer=_initialise,
            initargs=(os.getpid(), self._memory_mb, self._warm),
        )
        ready, stop = threading.Event(), threading.Event()

        def hold() -> None:
            _ = pool.active  # starts the workers
            ready.set()
            stop.wait()

        threading.Thread(target=hold, name=f"{self.name}-pool", daemon=True).start()
        if not ready.wait(self._start_s):
            stop.set()
            raise BrokenProcessPool(f"no worker process within {self._start_s:g} s")
        self._pool, self._stop = pool, stop
        return pool
