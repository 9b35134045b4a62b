"""A sandbox on other machines: bounded concurrency, one more try elsewhere, a circuit breaker.

Owns what E2B and SandboxFusion have in common: the queue, the retry of a request, the verdict on
how a program ended. Where a program runs is a `Place`; whatever breaks there is `PlaceBroken`, and
after a second failure elsewhere `Ended.INFRA_ERROR`: masked, never 0. What a program did (its exit
status, the time it took, what it printed) is never a failure of the place.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from conjoint.envs.types import ConjointError
from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.base import (
    Ended,
    Program,
    Result,
    SandboxConfig,
    SandboxError,
)
from conjoint.rewards.sandbox.local.worker import encode_calls, read_answers
from conjoint.rewards.sandbox.queue_time import QueueTime
from conjoint.rewards.sandbox.remote.breaker import Breaker

_WORKERS = 16
_SIGNALS = {9: "SIGKILL", 11: "SIGSEGV", 6: "SIGABRT", 25: "SIGXFSZ", 24: "SIGXCPU"}
_PROOF = Program("def f(x):\n    return [x, x * x]", entry="f", calls=[[12]])
"""Run at the start: proves key, network, Python's version there, and the way of an answer."""


class PlaceBroken(Exception):
    """The place failed, in words that hold no key; says nothing about the program."""


class Place(Protocol):
    """Where programs run."""

    name: str
    """For `Result.tier`."""

    def check(self) -> None:
        """Raises ConjointError for settings with which nothing can be run."""
        ...

    async def run(self, program: Program, attempt: int) -> Result:
        """Run it; `attempt` above 0 must be elsewhere. Raises PlaceBroken."""
        ...

    async def close(self) -> None: ...


class RemoteSandbox:
    """`Sandbox` over a `Place`. Settings that cannot work are refused when it is made."""

    def __init__(self, config: SandboxConfig, place: Place) -> None:
        config.validate()
        place.check()
        self.config = config
        self._place = place
        self._gate = asyncio.Semaphore(config.workers or _WORKERS)
        self._breaker = Breaker(config.remote.open_after, config.remote.open_s)
        self._queue = QueueTime()
        self._started = False
        self._closed = False
        self._starting = asyncio.Lock()

    @property
    def tier(self) -> str:
        return self._place.name if self._started else ""

    async def start(self) -> None:
        """Run a program of ours. Raises SandboxError if it does not answer as it should."""
        async with self._starting:
            if self._closed:
                raise SandboxError("The sandbox is closed; make a new one.")
            if self._started:
                return
            try:
                result = await self._place.run(_PROOF, 0)
            except PlaceBroken as broken:
                raise self._unusable(str(broken)) from None
            answers = [answer.wire for answer in result.answers]
            if len(answers) != 1 or not codec.matches([12, 144], answers[0]):
                why = result.reason or "no answer"
                raise self._unusable(f"it did not run a program of ours ({why})")
            self._started = True

    def _unusable(self, why: str) -> SandboxError:
        name = self.config.backend
        return SandboxError(
            f"sandbox.backend={name} cannot be used: {why}; mend the settings under sandbox.{name} "
            "or the service, or use sandbox.backend=local."
        )

    async def run(self, program: Program) -> Result:
        """Run one program. Raises SandboxError for what this backend cannot do."""
        refuse(program, self.config.backend)
        if program.entry is not None:
            encode_calls(program.calls)
        if not self._started or self._closed:
            await self.start()
        queued = time.monotonic()
        async with self._gate:
            self._queue.waited(time.monotonic() - queued)
            return await self._run(program)

    async def _run(self, program: Program) -> Result:
        reasons: list[str] = []
        for attempt in range(2):
            if self._closed:
                reasons.append("the sandbox was closed meanwhile")
                break
            if not self._breaker.allows():
                reasons.append(f"the {self.config.backend} sandbox rests ({self._breaker.state})")
                break
            self._queue.retried += attempt
            try:
                result = await self._place.run(program, attempt)
            except PlaceBroken as broken:
                self._breaker.failed()
                reasons.append(str(broken))
                continue
            self._breaker.succeeded()
            return result
        self._queue.infra_errors += 1
        return Result(Ended.INFRA_ERROR, "; then ".join(reasons), self.tier)

    def drain_metrics(self) -> dict[str, float]:
        return self._queue.drain()

    async def close(self) -> None:
        """Give back what was rented. May be called twice."""
        self._closed = True
        await self._place.close()


def refuse(program: Program, backend: str) -> None:
    """Raises SandboxError for a program that cannot be run with the local jail's evidence there."""
    if program.language != "python":
        raise SandboxError(unfit(backend, f"language '{program.language}'"))
    if program.checker:
        raise SandboxError(unfit(backend, "tests of type 'asserts'"))


def unfit(backend: str, what: str) -> str:
    return f"sandbox.backend={backend} does not support {what}; use sandbox.backend=local"


def ended(
    program: Program,
    config: SandboxConfig,
    tier: str,
    *,
    code: int,
    overdue: bool,
    stdout: bytes,
    stderr: bytes,
    replies: bytes,
    wall_s: float,
) -> Result:
    """The result of a program that came to its end. `code` is the exit status, of a shell (128 +
    signal) or of subprocess (-signal); `overdue`: the wall clock ended it. Status 0 only says that
    nothing went wrong: what the program has to show is its output or its answers."""
    cap = config.output_kb << 10
    signal = -code if code < 0 else code - 128 if code > 128 else 0
    answers = tuple(read_answers(replies[:cap], len(program.calls))) if program.entry else ()
    ending, reason = Ended.FINISHED, ""
    if overdue:
        ending, reason = Ended.TIMEOUT, f"took longer than {config.wall_s:g} s"
    elif signal == 24:
        ending, reason = Ended.TIMEOUT, f"used more than {config.cpu_s} s of CPU"
    elif max(len(stdout), len(replies)) > cap:
        ending, reason = Ended.ERROR, f"wrote more than {config.output_kb} KiB"
    elif code:
        how = f"was ended by {_SIGNALS.get(signal, f'signal {signal}')}" if signal else ""
        ending, reason = Ended.ERROR, how or f"ended with status {code}"
        lines = stderr.decode(errors="replace").strip().splitlines()
        reason = f"{reason}: {lines[-1][:200]}" if lines else reason
    return Result(ending, reason, tier, stdout[:cap], stderr, answers, wall_s)


def resend(config: SandboxConfig, passing: Callable[[BaseException], bool]) -> Any:
    """tenacity's loop over one request: again while `passing` says that the error may pass."""
    from tenacity import (
        AsyncRetrying,
        retry_if_exception,
        stop_after_attempt,
        wait_random_exponential,
    )

    return AsyncRetrying(
        stop=stop_after_attempt(config.remote.retries + 1),
        wait=wait_random_exponential(multiplier=0.2, max=10.0),
        retry=retry_if_exception(passing),
        reraise=True,
    )


def unavailable(setting: str, why: str, do: str) -> ConjointError:
    """One sentence about a backend that cannot be used as it is set."""
    return ConjointError(f"{setting}: {why}; {do}.")
