"""What a rollout worker owns on this machine, and how all of it is removed.

A worker is several processes (Ray's actor, vLLM's engine core, its workers) that may die, hang or
be orphaned one by one, and segments of shared memory that outlive them. Every one of them carries a
mark in its environment, so that it is found whoever its parent is by now.

Run as a module, this file is the warden of a driver: it waits until the driver is gone, however it
ended, and then removes whatever still carries the driver's mark.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from conjoint.envs.marks import DRIVER_MARK, KEY, mark_environment
from conjoint.rollouts.engine.process_environment import changed_environment
from conjoint.rollouts.weights.buffer import remove_buffers

_SEGMENTS = ("psm_", "sem.mp-", "torch_", "nccl-")
"""How Python, torch and NCCL begin the names of their segments; other names may be shared with
processes that live on (Ray's object store, our buffer of weights)."""


def marked(mark: str) -> list[int]:
    """Ids of the living processes that carry the mark or an extension of it (`mark-...`)."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _carries(pid, mark)]


def _carries(pid: int, mark: str) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or it is another user's
        return False
    whole = f"{KEY}={mark}".encode()
    return any(v == whole or v.startswith(whole + b"-") for v in variables)


def segments(pids: Iterable[int]) -> set[str]:
    """Paths of the shared-memory segments that these processes have mapped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            paths = (line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/dev/shm/" in line)
            found |= {p for p in paths if p.startswith(tuple(f"/dev/shm/{s}" for s in _SEGMENTS))}
    return {path for path in found if not path.endswith(" (deleted)")}


class Belongings:
    """The processes that carry one mark, and what they were seen to hold. Methods read /proc and
    block for milliseconds, `reap` until the last process has ended."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.segments: set[str] = set()
        self._log: Path | None = None

    def processes(self) -> list[int]:
        return marked(self.mark)

    def note(self) -> list[int]:
        """Look at what there is now: who maps a segment cannot be seen once it is dead. Returns
        the processes."""
        pids = self.processes()
        self.segments |= segments(pids)
        self._log = self._log or next(filter(None, map(_log_of, pids)), None)
        return pids

    def reap(self, timeout_s: float = 20.0, *, grace_s: float = 0.0) -> list[int]:
        """SIGKILL every process that has not ended by itself after `grace_s`, wait until it has
        ended, remove the segments. Returns those that did not end in time."""
        patience = time.monotonic() + grace_s
        while self.note() and time.monotonic() < patience:
            time.sleep(0.02)
        deadline = time.monotonic() + timeout_s
        # Again until none is left: one may have been starting another.
        while (left := self.note()) and time.monotonic() < deadline:
            for pid in left:
                _kill(pid, self.mark)
            time.sleep(0.02)
        for path in self.segments:
            Path(path).unlink(missing_ok=True)
        return left

    def last_words(self, lines: int = 20) -> str:
        """The end of what the processes wrote to their log, "" if there is none on this machine."""
        if self._log is None:
            return ""
        files = [f for f in (self._log.with_suffix(".out"), self._log) if f.is_file()]
        texts = [f.read_text(encoding="utf-8", errors="replace") for f in files]
        # Ray's own lines begin with a colon.
        said = [line for text in texts for line in text.splitlines() if line[:1] not in ("", ":")]
        return "\n".join(said[-lines:])


def _log_of(pid: int) -> Path | None:
    """The file that the process writes its errors to."""
    try:
        path = Path(os.readlink(f"/proc/{pid}/fd/2"))
    except OSError:
        return None
    return path if path.suffix == ".err" and path.is_file() else None


def _kill(pid: int, mark: str) -> None:
    """By descriptor, so that a process that took the id of one which has just ended is safe."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if _carries(pid, mark):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def marked_children(mark: str = DRIVER_MARK, folder: Path | None = None) -> Iterator[None]:
    """Processes started within the block carry this driver's mark, or the extension of it that is
    given, and do not outlive the driver. Neither does `folder`, which holds their files."""
    subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "conjoint.rollouts.engine.belongings",
            str(os.getpid()),
            DRIVER_MARK,
            *([str(folder)] if folder else []),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is not for it
    )
    with changed_environment(mark_environment(mark)):
        yield


def keep_watch(driver: int, mark: str, folder: str | None = None) -> None:
    """Wait until the driver is gone, then remove what it left."""
    if os.getppid() == driver:  # else it is gone already
        descriptor = os.pidfd_open(driver)
        select.select([descriptor], [], [])
    Belongings(mark).reap()
    remove_buffers(driver)
    time.sleep(1)  # for what was starting just then
    Belongings(mark).reap()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep_watch(int(sys.argv[1]), *sys.argv[2:])
