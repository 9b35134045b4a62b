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
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from conjoint.rewards.sandbox.base import (
    LANGUAGES,
    Ended,
    Program,
    Result,
    SandboxConfig,
    SandboxError,
    SandboxUnavailable,
)
from conjoint.rewards.sandbox.inside import scratch, starts
from conjoint.rewards.sandbox.local import languages, probe, relay
from conjoint.rewards.sandbox.local.worker import Worker, WorkerBroken, encode_calls
from conjoint.rewards.sandbox.queue_time import QueueTime
from conjoint.rewards.sandbox.spec import Layers, Spec

_HINT = (
    "The namespaces tier needs user namespaces (a container without CAP_SYS_ADMIN, or "
    "kernel.apparmor_restrict_unprivileged_userns=1, refuses them); the landlock tier needs Linux "
    "5.13 or newer as root, 6.7 or newer otherwise, on x86_64 or aarch64."
)
_PREFIX = "conjoint-jail-"
_ALL = Layers()
_HOW = {"python": starts.PYTHON, "bash": starts.BASH}
_CACHED, _CACHED_BYTES = 64, 1 << 20
"""Compiled programs that are kept: how many, and the largest."""
_T = TypeVar("_T")
_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3",
             "tkinter", "turtledemo", "pydoc_data", "distutils", "config-*", "*.opt-?.pyc")  # fmt: skip # noqa: E501


class LocalJail:
    """`Sandbox` on this machine. Starts on the first `run`; `start` tells trouble early.

    `layers` is for tests that try one layer by itself; the proof at start is then left out.
    """

    def __init__(self, config: SandboxConfig, layers: Layers = _ALL) -> None:
        config.validate()  # an unknown tier must not pass for a weaker one
        self.config = config
        self._layers = layers
        self._tier = ""
        self._directory = ""
        self._lock: int | None = None
        self._slots = itertools.count()
        self._idle: asyncio.Queue[dict[str, Worker]] = asyncio.Queue()
        self._proved: set[str] = set()
        self._compiled: OrderedDict[str, tuple[Result, bytes]] = OrderedDict()
        self._workers: set[Worker] = set()
        self._starting = asyncio.Lock()
        self._copying = asyncio.Lock()
        self._closed = False
        self._checkers: LocalJail | None = None
        self._queue = QueueTime()
        self.restarts = 0

    @property
    def tier(self) -> str:
        """`namespaces` or `landlock`; empty before the start."""
        return self._tier

    @property
    def pids(self) -> list[int]:
        """The zygotes' process ids."""
        return [worker.process.pid for worker in self._workers]

    async def start(self) -> None:
        """Choose and prove a tier, start the zygotes. Raises SandboxUnavailable if none holds."""
        async with self._starting:
            if self._closed:
                raise SandboxError("The sandbox is closed; make a new one.")
            if self._tier:
                return
            self._make_directory()
            try:
                kind = languages.kind(Program(""), self.config.mode)
                first = await self._first_worker(kind)
                self._tier = first.spec.tier
                self._idle.put_nowait({kind: first})
                # The rest start when they are first needed.
                for _ in range(self.size - 1):
                    self._idle.put_nowait({})
            except BaseException:
                await self._clear()
                raise

    @property
    def size(self) -> int:
        """How many programs run at once."""
        return self.config.workers or 4 * len(os.sched_getaffinity(0))

    async def run(self, program: Program) -> Result:
        """Run one program; one whose jail broke is run once more, in another zygote. Raises
        SandboxError for a Program that makes no sense, CodecError for arguments that cannot cross.
        """
        _check(program)
        if not self._tier or self._closed:
            await self.start()
        if why := languages.missing(program.language):
            return Result(Ended.INFRA_ERROR, why, self._tier)
        reasons = []
        for _ in range(2):
            if self._closed:
                return Result(Ended.INFRA_ERROR, "the sandbox was closed meanwhile", self._tier)
            try:
                return await self._run_once(program)
            except WorkerBroken as broken:
                self._queue.retried += not reasons
                reasons.append(str(broken))
        self._queue.infra_errors += 1
        return Result(Ended.INFRA_ERROR, "; then ".join(reasons), self._tier)

    def drain_metrics(self) -> dict[str, float]:
        return self._queue.drain()

    async def _run_once(self, program: Program) -> Result:
        kind = languages.kind(program, self.config.mode)
        if program.language == "cpp":
            result, binary = await self._compile(program.source)
            if not binary:
                return result
            return await self._leased(lambda w: w.run(program, starts.BINARY, binary), kind)
        how = starts.FORK if kind == languages.FORK else _HOW[program.language]
        if program.checker:
            return await self._run_tests(program, kind, how)
        return await self._leased(lambda worker: worker.run(program, how), kind)

    async def _run_tests(self, program: Program, kind: str, how: str) -> Result:
        """The checker has zygotes of its own: if each of many programs held one and waited for a
        second of the same queue, all could wait for ever."""
        if self._checkers is None:
            config = replace(self.config, isolation=self._tier, mode="fork")
            self._checkers = LocalJail(config, self._layers)
            self._checkers._slots = self._slots  # and with them users: no two share one
        checkers = self._checkers
        await checkers.start()

        async def run(worker: Worker) -> Result:
            return await checkers._leased(
                lambda checker: relay.run_tests(program, worker, how, checker)
            )

        return await self._leased(run, kind)

    async def _compile(self, source: str) -> tuple[Result, bytes]:
        """A program's binary, compiled once for all its cases; else why there is none."""
        if source in self._compiled:
            self._compiled.move_to_end(source)
            return self._compiled[source]
        found = await self._leased(lambda worker: worker.compile(source), languages.SYSTEM)
        if found[0].ended is not Ended.TIMEOUT and len(found[1]) <= _CACHED_BYTES:
            self._compiled[source] = found
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return found

    async def _leased(
        self, use: Callable[[Worker], Awaitable[_T]], kind: str = languages.FORK
    ) -> _T:
        """What `use` makes of a free worker of that kind. One with which it fails is retired."""
        queued = time.monotonic()
        slot = await self._idle.get()
        self._queue.waited(time.monotonic() - queued)
        try:
            if kind not in slot:
                slot[kind] = await self._proved_worker(self._tier, kind)
            return await use(slot[kind])
        except BaseException:
            # Also when cancelled: what the zygote is doing belongs to nobody any more.
            if (worker := slot.pop(kind, None)) is not None:
                self.restarts += 1
                await self._retire(worker)
            raise
        finally:
            self._idle.put_nowait(slot)

    async def close(self) -> None:
        """End every zygote and all they run, and remove the directories. May be called twice."""
        self._closed = True
        if self._checkers is not None:
            await self._checkers.close()
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

    async def _first_worker(self, kind: str) -> Worker:
        wanted = self.config.isolation
        probes: dict[str, str] = {}
        for tier in ("namespaces", "landlock") if wanted == "auto" else (wanted,):
            try:
                return await self._proved_worker(tier, kind)
            except WorkerBroken as broken:
                probes[tier] = str(broken)
        raise SandboxUnavailable(probes, _HINT)

    async def _proved_worker(self, tier: str, kind: str) -> Worker:
        """A new worker. The first of its kind must prove that it holds."""
        worker = await self._start_worker(tier, kind)
        if self._layers != _ALL or kind in self._proved:
            return worker
        try:
            await self._prove(worker)
        except BaseException:
            await self._retire(worker)
            raise
        self._proved.add(kind)
        return worker

    async def _prove(self, worker: Worker) -> None:
        """Raises WorkerBroken unless the attacks of `probe` all fail in this worker."""
        how = starts.PYTHON if worker.spec.system else starts.FORK
        result = await worker.run(Program(probe.source(worker.spec.library[0])), how)
        if result.ended is not Ended.FINISHED or result.stdout != probe.EXPECTED:
            seen = result.stdout.decode(errors="replace").strip()
            raise WorkerBroken(f"the attacks tried at start: {result.reason or seen}")

    async def _profile(self, spec: Spec) -> Spec:
        """The spec of another profile than that of programs; see local/verifier.py."""
        return spec

    async def _start_worker(self, tier: str, kind: str) -> Worker:
        slot = next(self._slots)
        uid = self._uid(slot) if os.geteuid() == 0 and self._layers.uid_drop else None
        async with self._copying:
            home, library, interpreter, shared = await self._find_python(tier, uid)
        directory = os.path.join(self._directory, f"slot-{slot}")
        config, system = self.config, kind == languages.SYSTEM
        spec = Spec(
            tier=tier,
            directory=directory,
            uid=uid,
            home=home,
            library=library,
            wall_s=config.wall_s,
            cpu_s=config.cpu_s,
            memory_mb=config.memory_mb,
            scratch_mb=config.scratch_mb,
            output_kb=config.output_kb,
            system=languages.system_paths() if system else (),
            interpreter=interpreter if system else "",
            shared=shared if system else (),
            layers=self._layers,
        )
        try:
            os.mkdir(directory, 0o700)
            worker = await Worker.start(await self._profile(spec))
        except OSError as error:
            raise WorkerBroken(f"no zygote could be started: {error}") from None
        self._workers.add(worker)
        return worker

    def _uid(self, slot: int) -> int:
        """A user for this slot: no two live zygotes of one pool share one, and pools rarely do."""
        base, span = (200_000, 64_000_000) if _uid_exists(200_000) else (10_000, 50_000)
        return base + (os.getpid() * 1024 + slot % 1024) % span

    async def _find_python(
        self, tier: str, uid: int | None
    ) -> tuple[str, tuple[str, ...], str, tuple[str, ...]]:
        """PYTHONHOME ("" for the usual one), Python's library directories, the interpreter, and
        its shared library where it has one of its own.

        Where the slot's user could not reach them (a Python in root's home) and no mount can bring
        them, they are copies.
        """
        own = {"platbase": sys.base_exec_prefix}  # not that of a virtual environment
        paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib", vars=own)]
        library = tuple(dict.fromkeys(os.path.realpath(path) for path in paths))
        interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        shared = languages.shared_library()
        reached = all(map(_reachable, (*library, interpreter, *shared)))
        if tier == "namespaces" or uid is None or reached:
            return "", library, interpreter, shared
        home = os.path.join(self._directory, "python")
        base = os.path.realpath(sys.base_prefix)
        copies = {p: os.path.join(home, os.path.relpath(p, base)) for p in library}
        files = {p: os.path.join(home, "bin", os.path.basename(p)) for p in (interpreter, *shared)}
        if not os.path.isdir(home):
            await asyncio.to_thread(_copy_python, copies, files)
        return home, tuple(copies.values()), files[interpreter], tuple(files[p] for p in shared)

    def _make_directory(self) -> None:
        shared = "/dev/shm"
        parent = shared if os.access(shared, os.W_OK) else tempfile.gettempdir()
        for stale in glob.glob(os.path.join(parent, _PREFIX + "*")):
            _remove_stale(stale)
        self._directory = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
        os.chmod(self._directory, 0o711)
        self._lock = os.open(os.path.join(self._directory, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)


def tier_here(config: SandboxConfig) -> str:
    """The tier that a jail of this config takes here; for code outside of an event loop. Raises
    SandboxUnavailable."""

    async def start() -> str:
        jail = LocalJail(config)
        try:
            await jail.start()
            return jail.tier
        finally:
            await jail.close()

    return asyncio.run(start())


def _check(program: Program) -> None:
    if program.language not in LANGUAGES:
        raise SandboxError(
            f"the program's language is {program.language!r}; expected {', '.join(LANGUAGES)}"
        )
    if program.entry is None:
        if program.checker:
            raise SandboxError("the program has a checker and no entry for it to call")
        return
    if program.language != "python":
        raise SandboxError(f"a function can be called in python, not in {program.language}")
    encode_calls(program.calls)


def _copy_python(directories: Mapping[str, str], files: Mapping[str, str]) -> None:
    skip = shutil.ignore_patterns(*_LEFT_OUT)
    for path, copy in directories.items():
        shutil.copytree(path, copy, ignore=skip)
    for path, copy in files.items():
        os.makedirs(os.path.dirname(copy), 0o755, exist_ok=True)
        shutil.copy(path, copy)


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
