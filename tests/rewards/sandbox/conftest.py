"""One started jail a tier for the whole folder, driven from plain tests through one event loop."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from conjoint.envs.types import Score, Task
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.sandbox.base import Program, Result, SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local.jail import LocalJail
from conjoint.rewards.sandbox.spec import Layers

# Wall time is generous: a loaded machine must not turn an error into a timeout.
LIMITS = {"wall_s": 12.0, "cpu_s": 1, "memory_mb": 256, "scratch_mb": 16, "workers": 2}

CANARY_SOCKET = f"sbx-canary-{os.getpid()}"
"""An abstract name, of which the machine has one set: processes of pytest must not share it."""


def config(tier: str, **limits: Any) -> SandboxConfig:
    return SandboxConfig(isolation=tier, **{**LIMITS, **limits})


class Driver:
    """A jail and a loop to run it in, with blocking calls."""

    def __init__(self, jail: LocalJail) -> None:
        self.jail = jail
        self.loop = asyncio.Runner()
        self.loop.run(jail.start())

    def script(self, source: str, stdin: bytes = b"") -> Result:
        return self.loop.run(self.jail.run(Program(source, stdin)))

    def call(self, source: str, *args: Any, entry: str = "f") -> Result:
        return self.loop.run(self.jail.run(Program(source, entry=entry, calls=[args])))

    def scripts(self, sources: Sequence[str]) -> list[Result]:
        async def all_of_them() -> list[Result]:
            return await asyncio.gather(*(self.jail.run(Program(s)) for s in sources))

        return self.loop.run(all_of_them())

    def grade(self, tests: dict[str, Any], response: str) -> Score:
        task = Task.make("code", "?", {"language": "python", "tests": tests})
        return self.loop.run(CodeReward(self.jail).check(task, response))

    def close(self) -> None:
        self.loop.run(self.jail.close())
        self.loop.close()


@pytest.fixture(scope="session", autouse=True)
def canaries() -> Iterator[None]:
    """What no program may reach: values in our environment, an abstract socket of the host."""
    os.environ["SBX_CANARY"] = os.environ["E2B_API_KEY"] = "canary-5b1"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + CANARY_SOCKET)
        listener.listen()
        yield
    del os.environ["SBX_CANARY"], os.environ["E2B_API_KEY"]


Start = Callable[..., Driver]


@pytest.fixture(scope="session")
def start() -> Start:
    """Start a jail, or skip where this machine lacks the tier."""

    def start_one(tier: str, layers: Layers | None = None, **limits: Any) -> Driver:
        try:
            return Driver(LocalJail(config(tier, **limits), layers or Layers()))
        except SandboxUnavailable as error:
            pytest.skip(f"no {tier} tier here: {error}")

    return start_one


@pytest.fixture(scope="session", params=["namespaces", "landlock"])
def driver(request: pytest.FixtureRequest, start: Start) -> Iterator[Driver]:
    """The jail in each tier that this machine has."""
    started = start(request.param)
    yield started
    started.close()


@pytest.fixture(scope="session")
def blocked() -> Callable[[str], str]:
    return _blocked


def _blocked(attempt: str) -> str:
    """A script that prints BLOCKED if `attempt` raises, else ESCAPED."""
    body = "\n".join("    " + line for line in attempt.strip().splitlines())
    return (
        "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"try:\n{body}\nexcept (Exception, SystemExit) as e:\n    print('BLOCKED')\n"
        "else:\n    print('ESCAPED')\n"
    )
