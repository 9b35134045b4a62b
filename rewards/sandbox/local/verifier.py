"""The verifier profile of the jail: libraries that evaluate a model's text, locked in.

A `VerifierPool` has the surface of `rewards/killable.py`'s `WorkerPool`. Its processes import their
packages once, then lock themselves in as the zygotes of programs do (same tiers, user, limits and
system-call filter), with the installed packages readable. Each call runs in a fork, so a killed one
costs a fork and not an import, and none can influence the next. Data goes in and out as plain JSON.
"""

import asyncio
import atexit
import importlib.metadata
import json
import os
import re
import shutil
import sysconfig
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from conjoint.rewards.killable import DeadlinePassed, FunctionRaised, PoolUnavailable, WorkerDied
from conjoint.rewards.sandbox.base import Ended, SandboxConfig, SandboxError, SandboxUnavailable
from conjoint.rewards.sandbox.inside import calls
from conjoint.rewards.sandbox.local import probe
from conjoint.rewards.sandbox.local.jail import LocalJail, _reachable
from conjoint.rewards.sandbox.local.worker import Worker, WorkerBroken
from conjoint.rewards.sandbox.spec import Spec

_OUTPUT_KB = 32 << 10
_PROBE_S = 30.0


class VerifierPool:
    """Runs module-level functions, called with JSON data, in warm jailed processes.

    `deadline_s` bounds one call in wall seconds; `memory_mb` is its address space, `warm` a
    module-level function that each process calls once, unjailed, to import what calls need:
    functions of other modules of this project cannot be found later. `distributions` are the
    installed projects that calls read from; they are copied where the jail's user cannot reach
    them. Starts on the first call.
    """

    def __init__(
        self,
        name: str,
        *,
        deadline_s: float,
        workers: int = 1,
        memory_mb: int = 2048,
        warm: Callable[[], object] = calls.nothing,
        distributions: tuple[str, ...] = (),
        isolation: str = "auto",
    ) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self._config = SandboxConfig(
            isolation=isolation,
            wall_s=deadline_s,
            memory_mb=memory_mb,
            output_kb=_OUTPUT_KB,
            workers=workers,
        )
        self._warm = _name_of(warm)
        self._distributions = distributions
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._jail: _VerifierJail | None = None

    @property
    def started(self) -> bool:
        return self._jail is not None

    @property
    def tier(self) -> str:
        """`namespaces` or `landlock`; empty before the start."""
        return self._jail.tier if self._jail else ""

    async def start(self) -> None:
        """Import and lock in ahead of the first call. Raises SandboxUnavailable."""
        await asyncio.wrap_future(self._submit(lambda jail: jail.start()))

    async def call(
        self, function: Callable[..., Any], *args: Any, deadline_s: float | None = None
    ) -> Any:
        """The function's value. Raises one of the four `WorkerError`s: without a tier of the jail
        on this machine nothing runs, and that is PoolUnavailable too."""
        return await asyncio.wrap_future(self._call(function, args, deadline_s))

    def call_blocking(
        self, function: Callable[..., Any], *args: Any, deadline_s: float | None = None
    ) -> Any:
        """`call` for code that runs before there is an event loop."""
        return self._call(function, args, deadline_s).result()

    def close(self) -> None:
        """End every process; a later call starts afresh."""
        with self._lock:
            jail, loop, thread = self._jail, self._loop, self._thread
            self._jail = self._loop = self._thread = None
        if jail is None or loop is None or thread is None:
            return
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(jail.wind_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _call(
        self, function: Callable[..., Any], args: tuple[Any, ...], deadline_s: float | None
    ) -> "Future[Any]":
        name, deadline = _name_of(function), self.deadline_s if deadline_s is None else deadline_s
        try:
            arguments = json.dumps(args).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise PoolUnavailable(f"the {self.name} verifier takes JSON data: {error}") from error

        async def one(jail: _VerifierJail) -> Any:
            try:
                ended, reason, reply = await jail.call(name, arguments, deadline)
            except SandboxError as error:
                raise PoolUnavailable(f"the {self.name} verifier: {error}") from error
            if ended == Ended.INFRA_ERROR:
                raise PoolUnavailable(f"the {self.name} verifier: {reason}")
            if ended == Ended.TIMEOUT:
                raise DeadlinePassed(f"took longer than {deadline:g} s")
            return _value(ended, reason, reply)

        return self._submit(one)

    def _submit(self, use: Callable[["_VerifierJail"], Coroutine[Any, Any, Any]]) -> "Future[Any]":
        """Run `use` in the pool's own loop: calls may come from any loop, one after another."""
        with self._lock:
            if self._jail is None or self._loop is None:
                self._jail = _VerifierJail(self._config, self._warm, self._distributions)
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name=f"{self.name}-verifier", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
            return asyncio.run_coroutine_threadsafe(use(self._jail), self._loop)


class _VerifierJail(LocalJail):
    """The local jail with packages to read, imported before it closes, and calls for jobs."""

    def __init__(self, config: SandboxConfig, warm: str, distributions: tuple[str, ...]) -> None:
        super().__init__(config)
        self._warm = warm
        self._distributions = distributions
        self._unavailable: SandboxUnavailable | None = None

    async def start(self) -> None:
        # Refused once, refused for good: trying every tier again would cost seconds a call.
        if self._unavailable is not None:
            raise self._unavailable
        try:
            await super().start()
        except SandboxUnavailable as error:
            self._unavailable = error
            raise

    async def call(self, function: str, arguments: bytes, wall_s: float) -> tuple[str, str, bytes]:
        """How it ended, why, the reply; one whose jail broke is made once more in another."""
        if not self._tier:
            await self.start()
        reasons = []
        for _ in range(2):
            if self._closed:
                return Ended.INFRA_ERROR, "it was closed meanwhile", b""
            try:
                return await self._leased(lambda worker: worker.call(function, arguments, wall_s))
            except WorkerBroken as broken:
                reasons.append(str(broken))
        return Ended.INFRA_ERROR, "; then ".join(reasons), b""

    async def wind_up(self) -> None:
        """Close, and answer the calls that still wait: each becomes an infrastructure error."""
        await self.close()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _prove(self, worker: Worker) -> None:
        # Installed packages are there to be read; every other door must be shut.
        source = probe.source(worker.spec.library[0])
        lines = [line for line in source.split("\n") if "site-packages" not in line]
        name, arguments = _name_of(calls.attempt), json.dumps(["\n".join(lines)]).encode()
        ended, reason, reply = await worker.call(name, arguments, _PROBE_S)
        if ended != Ended.FINISHED or _read(reply) != ["value", probe.EXPECTED.decode().strip()]:
            seen = reason or reply.decode(errors="replace")
            raise WorkerBroken(f"the attacks tried at start: {seen}")

    async def _profile(self, spec: Spec) -> Spec:
        paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        packages = tuple(dict.fromkeys(os.path.realpath(path) for path in paths))
        dropped_in_place = spec.tier == "landlock" and spec.uid is not None
        if dropped_in_place and not all(map(_reachable, packages)):
            copy = os.path.join(self._directory, "packages")
            async with self._copying:
                if not os.path.isdir(copy):
                    await asyncio.to_thread(_copy_distributions, self._distributions, copy)
            packages = (copy,)
        return replace(spec, warm=self._warm, packages=packages)


def _name_of(function: Callable[..., Any]) -> str:
    """`module:qualname`. Raises PoolUnavailable for what has no name there, such as a lambda."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<>")
    if not module or "<" in name or module == "__main__":
        raise PoolUnavailable(f"{function!r} is not a function that a module names")
    return f"{module}:{name}"


def _read(reply: bytes) -> Any:
    """The reply as JSON, None where it is none: the process that wrote it is not trusted."""
    try:
        return json.loads(reply)
    except (ValueError, RecursionError):
        return None


def _value(ended: str, reason: str, reply: bytes) -> Any:
    message = _read(reply) if ended == Ended.FINISHED else None
    if not isinstance(message, list) or len(message) != 2 or message[0] not in ("value", "raised"):
        raise WorkerDied(f"the call's process {reason or 'gave no answer'}")
    if message[0] == "raised":
        raise FunctionRaised(str(message[1]))
    return message[1]


def _copy_distributions(names: tuple[str, ...], target: str) -> None:
    """The files of installed projects and of all that they require, readable by everybody."""
    for distribution in _closure(names):
        for file in distribution.files or ():
            source, copy = str(distribution.locate_file(file)), os.path.join(target, str(file))
            if ".." in file.parts or file.suffix == ".pyc" or not os.path.isfile(source):
                continue
            os.makedirs(os.path.dirname(copy), 0o755, exist_ok=True)
            shutil.copyfile(source, copy)
            os.chmod(copy, 0o444)


def _closure(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra or another platform's
        yield found
        waiting += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in found.requires or ()]
