"""The sandbox contract: a program in, a `Result` out; untrusted code never runs in our processes.

Owns the nouns (`Program`, `Result`, `Answer`), the settings and the errors that every sandbox
shares. Standard library only. How a program is graded is `rewards/code/reward.py`'s business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from conjoint.envs.types import ConjointError

BACKENDS = ("local", "e2b", "http")
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
class RemoteConfig:
    """How patient to be with a sandbox on other machines.

    `request_s` bounds one request beyond the time of the program itself; a request that was
    refused (429, 5xx, no connection) is sent again up to `retries` times, with growing random
    pauses. After `open_after` failures in a row no program is sent for `open_s` seconds, then one
    that tries whether things are better.
    """

    request_s: float = 60.0
    retries: int = 4
    open_after: int = 8
    open_s: float = 30.0

    def validate(self) -> None:
        for key, least in (("retries", 0), ("open_after", 1)):
            if getattr(self, key) < least:
                raise ConjointError(
                    f"sandbox.remote.{key} is {getattr(self, key)}; expected at least {least}."
                )
        for key in ("request_s", "open_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConjointError(
                    f"sandbox.remote.{key} is {getattr(self, key)}; expected a number above 0."
                )


@dataclass(frozen=True, slots=True)
class E2BConfig:
    """The account's key is read from E2B_API_KEY; `domain` is a cluster of your own (else
    E2B_DOMAIN, else e2b's). `template` needs Python 3.11 and bash. A sandbox runs programs for
    `lifetime_s` seconds, then makes room for a new one."""

    domain: str = ""
    template: str = "base"
    lifetime_s: int = 900

    def validate(self) -> None:
        if self.lifetime_s < 60:
            raise ConjointError(
                f"sandbox.e2b.lifetime_s is {self.lifetime_s}; expected at least 60."
            )


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """`urls` of SandboxFusion servers, up to but without /run_code; a program that one of them
    failed goes to the next."""

    urls: list[str] = field(default_factory=list)

    def validate(self) -> None:
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ConjointError(
                    f"sandbox.http.urls holds '{url}'; expected addresses such as "
                    "http://127.0.0.1:8080."
                )


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """Where programs run, limits of one execution, and how many run at once.

    `backend` is this machine's jail (`local`), E2B (`e2b`) or a SandboxFusion server (`http`).
    `isolation` is the tier: `namespaces`, `landlock`, or `auto` (the first of them that works).
    There is no value that turns isolation off. `mode` is how Python programs start: `fork` from a
    warm interpreter, or `exec` of a fresh one, which costs three times as much. `wall_s` and
    `cpu_s` are seconds a program may take, `memory_mb` its address space, `scratch_mb` what it may
    write to its scratch directory, `output_kb` the cap on stdout and on answers. `workers` is the
    number of programs at once, 0 for four a core (most of a job is waiting for the kernel to take
    its namespaces down), or for 16 on other machines.
    """

    backend: str = "local"
    isolation: str = "auto"
    mode: str = "fork"
    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    scratch_mb: int = 32
    output_kb: int = 1024
    workers: int = 0
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    e2b: E2BConfig = field(default_factory=E2BConfig)
    http: HttpConfig = field(default_factory=HttpConfig)

    def validate(self) -> None:
        if self.backend not in BACKENDS:
            raise ConjointError(
                f"sandbox.backend is '{self.backend}'; expected one of {', '.join(BACKENDS)}."
            )
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
    alternatives: tuple[str, ...] = ()
    """In Python, sources to run instead of `source` if that does not compile, in this order."""

    @property
    def code(self) -> bytes:
        """What the jail gets: in Python a null character, which no source may hold, parts
        alternatives; one that a source does hold stays as wrong as it was."""
        texts = [self.source, *self.alternatives]
        if self.language == "python":
            texts = [text.replace("\0", "\ufffd") for text in texts]
        return "\0".join(texts).encode("utf-8", "surrogatepass")


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

    @property
    def tier(self) -> str:
        """How programs are isolated, or whose business that is; empty before the start."""
        ...

    async def start(self) -> None:
        """Prove that programs can be run. Raises ConjointError saying what is missing."""
        ...

    async def run(self, program: Program) -> Result: ...

    def drain_metrics(self) -> dict[str, float]:
        """Figures since the last call, such as how long programs waited for their turn."""
        ...

    async def close(self) -> None: ...
