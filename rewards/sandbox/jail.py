"""The local jail: a pool of zygotes on this machine, its tier proved at start, never without one.

Owns the choice of tier, the directories, the users given to slots, replacement of broken zygotes
and the one retry of a job whose jail broke. Lives in one asyncio loop; runs no untrusted code, and
starts processes by exec only.
"""

import asyncio
import contextlib
import fcntl
import glob
import itertools
import os
import shutil
import sys
import sysconfig
import tempfile

from rewards.sandbox import codec, probe, scratch
from rewards.sandbox.base import (
    Ended,
    Program,
    Result,
    SandboxConfig,
    SandboxError,
    SandboxUnavailable,
)
from rewards.sandbox.spec import Layers, Spec
from rewards.sandbox.worker import Worker, WorkerBroken

_HINT = (
    "The namespaces tier needs user namespaces (a container without CAP_SYS_ADMIN, or "
    "kernel.apparmor_restrict_unprivileged_userns=1, refuses them); the landlock tier needs Linux "
    "5.13 or newer as root, 6.7 or newer otherwise, on x86_64 or aarch64."
)
_PREFIX = "conjoint-jail-"
_ALL = Layers()
_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3",
             "tkinter", "turtledemo", "pydoc_data", "distutils", "config-*", "*.opt-?.pyc")  # fmt: skip # noqa: E501


class LocalJail:
    """`Sandbox` on this machine. Starts on the first `run`; `start` tells trouble early.

    `layers` is for tests that try one layer by itself; the proof at start is then left out.
    """

    def __init__(self, config: SandboxConfig, layers: Layers = _ALL) -> None:
        self.config = config
        self._layers = layers
        self._tier = ""
        self._directory = ""
        self._lock: int | None = None
        self._slots = itertools.count()
        self._idle: asyncio.Queue[Worker | None] = asyncio.Queue()
        self._workers: set[Worker] = set()
        self._starting = asyncio.Lock()
        self._copying = asyncio.Lock()
        self._closed = False
        self.restarts = 0

    @property
    def tier(self) -> str:
        """`namespaces` or `landlock`; empty before the start."""
        return self._tier

    async def start(self) -> None:
        """Choose and prove a tier, start the zygotes. Raises SandboxUnavailable if none holds."""
        async with self._starting:
            if self._closed:
                raise SandboxError("The sandbox is closed; make a new one.")
            if self._tier:
                return
            self._make_directory()
            try:
                first = await self._first_worker()
                self._tier = first.spec.tier
                self._idle.put_nowait(first)
                # The rest start when they are first needed.
                for _ in range(self._size() - 1):
                    self._idle.put_nowait(None)
            except BaseException:
                await self._clear()
                raise

    def _size(self) -> int:
        return self.config.workers or 4 * len(os.sched_getaffinity(0))

    async def run(self, program: Program) -> Result:
        """Run one program; one whose jail broke is run once more, in another zygote."""
        if program.entry is not None:
            for call in program.calls:
                codec.encode(list(call))
        if not self._tier or self._closed:
            await self.start()
        reasons = []
        for _ in range(2):
            if self._closed:
                return Result(Ended.INFRA_ERROR, "the sandbox was closed meanwhile", self._tier)
            try:
                return await self._run_once(program)
            except WorkerBroken as broken:
                reasons.append(str(broken))
        return Result(Ended.INFRA_ERROR, "; then ".join(reasons), self._tier)

    async def _run_once(self, program: Program) -> Result:
        worker = await self._idle.get()
        try:
            if worker is None:
                worker = await self._start_worker(self._tier)
            result = await worker.run(program)
        except BaseException:
            # Also when cancelled: what the zygote is doing belongs to nobody any more.
            self._idle.put_nowait(None)
            if worker is not None:
                self.restarts += 1
                await self._retire(worker)
            raise
        self._idle.put_nowait(worker)
        return result

    async def close(self) -> None:
        """End every zygote and all they run, and remove the directories. May be called twice."""
        self._closed = True
        async with self._starting:
            await self._clear()

    async def _clear(self) -> None:
        await asyncio.gather(*(worker.end() for worker in self._workers))
        self._workers.clear()
        if self._directory:
            scratch.remove(self._directory)
            self._directory = ""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _retire(self, worker: Worker) -> None:
        self._workers.discard(worker)
        await worker.end(0.0)
        with contextlib.suppress(OSError):
            # What is left goes with the pool's directory.
            scratch.remove(worker.spec.directory)

    async def _first_worker(self) -> Worker:
        wanted = self.config.isolation
        probes: dict[str, str] = {}
        for tier in ("namespaces", "landlock") if wanted == "auto" else (wanted,):
            try:
                return await self._proved_worker(tier)
            except WorkerBroken as broken:
                probes[tier] = str(broken)
        raise SandboxUnavailable(probes, _HINT)

    async def _proved_worker(self, tier: str) -> Worker:
        worker = await self._start_worker(tier)
        if self._layers != _ALL:
            return worker
        try:
            result = await worker.run(Program(probe.source(worker.spec.library[0])))
            if result.ended is not Ended.FINISHED or result.stdout != probe.EXPECTED:
                seen = result.stdout.decode(errors="replace").strip()
                raise WorkerBroken(f"the attacks tried at start: {result.reason or seen}")
        except BaseException:
            await self._retire(worker)
            raise
        return worker

    async def _start_worker(self, tier: str) -> Worker:
        slot = next(self._slots)
        uid = self._uid(slot) if os.geteuid() == 0 and self._layers.uid_drop else None
        async with self._copying:
            home, library = await self._find_library(tier, uid)
        directory = os.path.join(self._directory, f"slot-{slot}")
        config = self.config
        spec = Spec(
            tier,
            directory,
            uid,
            home,
            library,
            config.wall_s,
            config.cpu_s,
            config.memory_mb,
            config.scratch_mb,
            config.output_kb,
            self._layers,
        )
        try:
            os.mkdir(directory, 0o700)
            worker = await Worker.start(spec)
        except OSError as error:
            raise WorkerBroken(f"no zygote could be started: {error}") from None
        self._workers.add(worker)
        return worker

    def _uid(self, slot: int) -> int:
        """A user for this slot: no two live zygotes of one pool share one, and pools rarely do."""
        base, span = (200_000, 64_000_000) if _uid_exists(200_000) else (10_000, 50_000)
        return base + (os.getpid() * 1024 + slot % 1024) % span

    async def _find_library(self, tier: str, uid: int | None) -> tuple[str, tuple[str, ...]]:
        """PYTHONHOME ("" for the usual one) and Python's library directories.

        Where the slot's user could not reach the library (a Python in root's home) and no mount
        can bring it, it is a copy.
        """
        paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
        library = tuple(dict.fromkeys(os.path.realpath(path) for path in paths))
        if tier == "namespaces" or uid is None or all(map(_reachable, library)):
            return "", library
        home = os.path.join(self._directory, "python")
        copies = []
        for path in library:
            copy = os.path.join(home, os.path.relpath(path, os.path.realpath(sys.base_prefix)))
            copies.append(copy)
            if not os.path.isdir(copy):
                skip = shutil.ignore_patterns(*_LEFT_OUT)
                await asyncio.to_thread(shutil.copytree, path, copy, ignore=skip)
        return home, tuple(copies)

    def _make_directory(self) -> None:
        shared = "/dev/shm"
        parent = shared if os.access(shared, os.W_OK) else tempfile.gettempdir()
        for stale in glob.glob(os.path.join(parent, _PREFIX + "*")):
            _remove_stale(stale)
        self._directory = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        os.chmod(self._directory, 0o711)
        self._lock = os.open(os.path.join(self._directory, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)


def _remove_stale(directory: str) -> None:
    """Remove the directory of a pool that was killed: its lock, which dies with it, is free."""
    try:
        if os.lstat(directory).st_uid != os.geteuid():
            return
        lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.remove(directory)
    except OSError:
        pass
    finally:
        os.close(lock)


def _reachable(path: str) -> bool:
    """Whether a user without rights of its own can read `path`: every step is open to all."""
    steps = [path]
    while os.path.dirname(steps[-1]) != steps[-1]:
        steps.append(os.path.dirname(steps[-1]))
    return all(os.stat(step).st_mode & 0o001 for step in steps) and bool(
        os.stat(path).st_mode & 0o004
    )


def _uid_exists(uid: int) -> bool:
    """Whether this user namespace knows `uid` (containers may map a short range only)."""
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        ranges = [tuple(map(int, line.split())) for line in lines]
    return any(first <= uid < first + count for first, _, count in ranges)
