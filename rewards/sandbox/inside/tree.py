"""The processes of a job that may start some: what they hold in memory, and their end.

Owned by the supervisor, who is their ancestor; they are found in the machine's own /proc, which the
job itself cannot see. What loses its parent becomes the supervisor's child.
"""

import contextlib
import os
import signal
import time

from conjoint.rewards.sandbox.kernel import syscalls as kernel

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PATIENCE_S = 5.0


class Tree:
    """All that descends from the calling process. `proc` is a descriptor of /proc."""

    def __init__(self, proc: int) -> None:
        self._proc = proc
        self._root = os.readlink("self", dir_fd=proc)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)

    def resident_bytes(self) -> int:
        """Memory in sum; pages that processes share count for each."""
        return sum(self._resident(pid) for pid in self._pids())

    def kill(self) -> None:
        """End them all. In a process namespace of their own they end with the supervisor instead,
        and the numbers seen here are not those that it could signal by."""
        if os.getpid() != int(self._root):
            return
        deadline = time.monotonic() + _PATIENCE_S
        while (pids := self._pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)

    def _pids(self) -> list[str]:
        found, waiting = [], [self._root]
        while waiting:
            children = self._children(waiting.pop())
            found += children
            waiting += children
        return found

    def _children(self, pid: str) -> list[str]:
        children: list[str] = []
        try:
            tasks = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
        except FileNotFoundError:
            return children
        try:
            for task in os.listdir(tasks):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    children += self._read(f"{pid}/task/{task}/children").split()
        finally:
            os.close(tasks)
        return children

    def _resident(self, pid: str) -> int:
        try:
            return int(self._read(f"{pid}/statm").split()[1]) * _PAGE
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def _read(self, path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        with open(descriptor, encoding="ascii") as file:
            return file.read()
