"""Environments that are programs: an agent that speaks OpenAI's API plays an episode by itself.

It is given a base URL and a task, asks the policy there as often as it likes, and its end ends the
episode. Agents run with the rights and the environment of the run: what the *policy* writes and an
agent executes belongs in a sandbox (`rewards/sandbox/`).
"""

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from conjoint.envs.marks import DRIVER_MARK, mark_environment
from conjoint.envs.text import plain, sound, to_json
from conjoint.envs.types import ConjointError, Task

_DEADLINE_S = 600.0
_CONCURRENCY = 16
_TAIL = 2000
"""Bytes of what a command printed last that an error quotes."""
_PARENT = str(Path(__file__).with_name("agent_process.py"))
_MARKED = ("env", *(f"{k}={v}" for k, v in mark_environment(f"{DRIVER_MARK}-agent").items()))
"""Marks the command and not its parent: should that one be killed, what is left is found."""
_END_S = 10.0
"""Seconds in which everything that an agent started must have been killed."""
_FUNCTION = re.compile(r"[\w./-]+:[A-Za-z_]\w*")


class AgentError(Exception):
    """The agent broke, hung or never asked the policy: not the policy's doing."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Who plays the tasks of a kind."""

    run: str = ""
    """`module:function` or `path/to/file.py:function`, an async function of (base_url, task), or a
    command; "" answers each task with a single turn."""
    deadline_s: float = _DEADLINE_S
    """Seconds that an agent may take for one episode, its waits for the policy not counted."""
    concurrency: int = _CONCURRENCY
    """Agents of this kind that run at the same time."""
    columns: list[str] = field(default_factory=list)
    """Further columns of the rows (the task's `meta`) that the agent is given. Others may hold the
    reference, as verl's extra_info.answer does, and stay with the verifiers."""

    def validate(self, key: str) -> None:
        """Raises ConjointError naming a key under `key`."""
        if self.deadline_s <= 0:
            raise ConjointError(f"{key}.deadline_s={self.deadline_s:g} must be above 0")
        if self.concurrency < 1:
            raise ConjointError(f"{key}.concurrency={self.concurrency} must be at least 1")
        if not self.run and self != AgentConfig():
            raise ConjointError(f"{key} has settings but no agent; set {key}.run")


class Agent(Protocol):
    """Plays one episode against the policy at `base_url`. Cancelled, it leaves nothing running."""

    @property
    def deadline_s(self) -> float: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def columns(self) -> Sequence[str]:
        """Keys of the task's meta that the agent may see."""
        ...

    async def __call__(self, base_url: str, task: Task) -> None: ...


@dataclass(frozen=True, slots=True)
class FunctionAgent:
    """An async function in the driver's own loop: it must not block."""

    function: Callable[[str, Task], Awaitable[Any]]
    deadline_s: float = _DEADLINE_S
    concurrency: int = _CONCURRENCY
    columns: tuple[str, ...] = ()

    async def __call__(self, base_url: str, task: Task) -> None:
        await self.function(base_url, task)


@dataclass(frozen=True, slots=True)
class CommandAgent:
    """A program. It finds the policy in OPENAI_BASE_URL and the task as JSON on its standard input
    (id, kind, messages, meta). When it ends, or the episode or the run does, everything that it
    started is killed (`agent_process.py`)."""

    words: tuple[str, ...]
    deadline_s: float = _DEADLINE_S
    concurrency: int = _CONCURRENCY
    columns: tuple[str, ...] = ()

    async def __call__(self, base_url: str, task: Task) -> None:
        # Files and no pipes: a child that it leaves behind would hold a pipe open.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
            given.write(_plain(task))
            given.seek(0)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _PARENT, str(os.getpid())),
                *_MARKED,
                *self.words,
                stdin=given,
                stdout=printed,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                # The client asks for a key, and would send a real one of the user's.
                env=os.environ | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"},
            )
            try:
                code = await process.wait()
            finally:
                await _end(process)
            if code:
                printed.seek(max(0, printed.seek(0, os.SEEK_END) - _TAIL))
                words = printed.read().decode("utf-8", "replace").strip()
                raise AgentError(f"{self.words[0]} ended with code {code}: {words}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have the agent's parent end it with all that it started, and wait until it has."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:  # stopped, or its processes cannot be killed
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def load_agent(config: AgentConfig, key: str) -> Agent:
    """The agent that `config.run` names. Raises ConjointError naming `key` if it cannot be."""
    if _FUNCTION.fullmatch(config.run):
        function = _function(config.run, key)
        return FunctionAgent(function, config.deadline_s, config.concurrency, tuple(config.columns))
    try:
        words = tuple(shlex.split(config.run))
    except ValueError as error:
        raise ConjointError(f"{key}.run={config.run!r} cannot be read: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise ConjointError(
            f"{key}.run={config.run!r} is neither module:function, path/to/file.py:function nor a "
            "command that can be found"
        )
    return CommandAgent(words, config.deadline_s, config.concurrency, tuple(config.columns))


def _function(spec: str, key: str) -> Callable[[str, Task], Awaitable[Any]]:
    source, _, name = spec.rpartition(":")
    try:
        function = getattr(_module(source), name, None)
    except Exception as error:  # the user's module may raise anything
        raise ConjointError(f"{key}.run={spec!r} cannot be imported: {error!r}") from error
    if not callable(function):
        raise ConjointError(f"{key}.run={spec!r}: {source} has no function {name}")
    if not inspect.iscoroutinefunction(function):
        raise ConjointError(
            f"{key}.run={spec!r} is not an async function; one that blocks would hold up the run: "
            'make it async, or give a command that runs it, such as "python my_agent.py"'
        )
    try:
        inspect.signature(function).bind("base_url", "task")
    except TypeError as error:
        raise ConjointError(f"{key}.run={spec!r} must take (base_url, task): {error}") from error
    return function


def _module(source: str) -> Any:
    """Its own folder (or the working directory) is importable too, after everything else: a user's
    json.py must not stand in for the standard library's, here or in a process that starts later."""
    file = Path(source).resolve()
    folder = str(file.parent if source.endswith(".py") else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    if not source.endswith(".py"):
        return importlib.import_module(source)
    found = importlib.util.spec_from_file_location(f"agent_{file.stem}", file)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def _plain(task: Task) -> bytes:
    fields = {"id": task.id, "kind": task.kind, "messages": task.messages, "meta": task.meta}
    return f"{to_json(sound(plain(fields)))}\n".encode()
