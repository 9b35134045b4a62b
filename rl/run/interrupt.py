"""Ctrl-C, SIGTERM, and what a run leaves running.

The first signal asks the run to stop at the next safe point; a second one, a moment later, ends it
at once (a moment, because a launcher may send one signal to the process and to its group).
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import psutil

from conjoint.envs.marks import DRIVER_MARK
from conjoint.rollouts.engine.belongings import Belongings

T = TypeVar("T")


class Interrupt:
    """Turns signals into a request to stop, which `until_stopped` answers by cancelling."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self.signal: int | None = None
        self._since = 0.0
        self.install()

    def install(self) -> None:
        """Take the signals; again after anything that takes them for itself, as `ray.init` does."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self.signal is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > 1.0:
            kill_all(own_processes())
            os._exit(128 + number)
        self.signal = number
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self.signal is not None

    async def until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None if a signal came first and `work` was cancelled."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        finally:
            stop.cancel()
            task.cancel()


def own_processes() -> list[psutil.Process]:
    """Everything this process started, directly or not, that is still in its tree.

    Take it before the run is shut down: a process whose parent is dead has left the tree.
    """
    return psutil.Process().children(recursive=True)


def kill_all(processes: list[psutil.Process]) -> None:
    """SIGKILL those that still run, and before them whatever carries this driver's mark, with its
    shared memory. psutil compares start times, so a reused id is safe."""
    Belongings(DRIVER_MARK).reap(timeout_s=5)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)
