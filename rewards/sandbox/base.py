"""The sandbox contract: a program in, a `Result` out; untrusted code never runs in our processes.

Owns the nouns (`Program`, `Result`, `Answer`), the settings and the errors that every sandbox
shares. Standard library only. How a program is graded is `rewards/code.py`'s business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from rl.types import ConjointError

ISOLATIONS = ("auto", "namespaces", "landlock")
MODES = ("fork", "exec")
LANGUAGES = ("python", "cpp", "bash")


class SandboxError(ConjointError):
    """The sandbox cannot do what was asked of it; no program ran unprotected."""


class SandboxUnavailable(SandboxError):
    """No tier works on this machine. `probes` says, for each tier tried, what was refused."""

    def __init__(self, probes: dict[str, str], hint: str) -> None:
        self.probes = probes
        self.hint = hint
        tried = "; ".join(f"{tier}: {why}" for tier, why in probes.items())
        super().__init__(f"No sandbox works on this machine ({tried}). {hint}")


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """Limits of one execution, and how many run at once.

    `isolation` is the tier: `namespaces`, `landlock`, or `auto` (the first of them that works).
    There is no value that turns isolation off. `mode` is how Python programs start: `fork` from a
    warm interpreter, or `exec` of a fresh one, which costs three times as much. `wall_s` and
    `cpu_s` are seconds a program may take, `memory_mb` its address space, `scratch_mb` what it may
    write to its scratch directory, `output_kb` the cap on stdout and on answers. `workers` is the
    number of programs at once, 0 for four a core (most of a job is waiting for the kernel to take
    its namespaces down).
    """

    isolation: str = "auto"
    mode: str = "fork"
    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    scratch_mb: int = 32
    output_kb: int = 1024
    workers: int = 0

    def __post_init__(self) -> None:
        if self.isolation not in ISOLATIONS:
            raise ConjointError(
                f"sandbox.isolation is '{self.isolation}'; expected one of {', '.join(ISOLATIONS)}."
            )
        if self.mode not in MODES:
            raise ConjointError(
                f"sandbox.mode is '{self.mode}'; expected one of {', '.join(MODES)}."
            )
        for key, least in (("cpu_s", 1), ("memory_mb", 128), ("scratch_mb", 1), ("output_kb", 1)):
            if getattr(self, key) < least:
                raise ConjointError(
                    f"sandbox.{key} is {getattr(self, key)}; expected at least {least}."
                )
        if not 0 < self.wall_s < float("inf"):
            raise ConjointError(f"sandbox.wall_s is {self.wall_s}; expected a number above 0.")
        if self.workers < 0:
            raise ConjointError(
                f"sandbox.workers is {self.workers}; expected 0 (four a core) or more."
            )


@dataclass(frozen=True, slots=True)
class Call:
    """One call with keyword arguments; `Call.of` reads what `Program.calls` holds."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(entry: "Sequence[Any] | Call") -> "Call":
        return entry if isinstance(entry, Call) else Call(entry)


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: source, and either text for stdin or, in Python, calls of one of its functions.

    With `entry`, the source is a module and `entry` is called once with each entry of `calls` (its
    positional arguments, or a `Call`), all in one fresh process. Without it, the source is a script
    that reads `stdin`. Nothing of all this is hidden from the code that runs, so no expected value
    belongs here.
    """

    source: str
    stdin: bytes = b""
    entry: str | None = None
    calls: Sequence[Sequence[Any] | Call] = ()
    language: str = "python"
    """One of LANGUAGES."""
    checker: str = ""
    """Test code that makes the calls of `entry` instead. It runs in a jail of its own and is the
    one part that the source never sees: see `Result.passed`."""
    every_case: bool = False
    """Whether the test code goes on after a statement of it that failed, for `Result.cases`."""


class Ended(StrEnum):
    """How an execution ended. FINISHED says nothing about whether the output is right."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    ERROR = "error"
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave: `wire` (codec form) if it returned plain data, else `problem` in words.

    `raised` tells an exception from a value that may not leave the jail.
    """

    wire: Any = None
    problem: str = ""
    raised: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One execution. `answers` may be shorter than the calls: the rest were never answered."""

    ended: Ended
    reason: str = ""
    tier: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    answers: tuple[Answer, ...] = ()
    wall_s: float = 0.0
    cpu_s: float = 0.0
    passed: bool | None = None
    """With a checker: whether its tests pass; None where no tests were run."""
    cases: tuple[int, int] = (0, 0)
    """With a checker: its statements that passed, and all that test something."""


class Sandbox(Protocol):
    """Runs untrusted programs. `run` never raises for what a program does, or for a broken jail:
    the latter is `Ended.INFRA_ERROR`. It raises SandboxUnavailable when no jail can be built."""

    async def run(self, program: Program) -> Result: ...

    async def close(self) -> None: ...
