"""A simulated clock and engines without a model, for the scheduler at any scale.

Time passes only while everything waits, so an hour of rollouts is as long as its bookkeeping; what
that costs can be measured in real seconds.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conjoint.envs.types import Completion, Message

T = TypeVar("T")
PROMPT = [7]
MARK = 1_000_000
"""The first token of an answer is this plus the answer's length."""


class SimulatedClock(selectors.SelectSelector):
    """The selector of an event loop whose time jumps to the next timer instead of passing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits and nothing is due: a deadlock")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = SimulatedClock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulate(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a simulated clock that starts at 0."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


class OneTokenRenderer:
    """Every prompt is one token; no text."""

    stop_ids = (0,)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return list(PROMPT)

    next_turn = prompt

    def text(self, tokens: Sequence[int]) -> str:
        return f"{len(tokens)} tokens"


@dataclass(slots=True, eq=False)
class _Job:
    length: int
    """Tokens of the whole answer."""
    done: int
    """Tokens of it in earlier parts."""
    most: int
    """Tokens that this call may sample."""
    ended: asyncio.Future[Completion]
    since: float = 0.0
    """When it began to run, or went on after a pause."""
    versions: list[int] = field(default_factory=list)
    """Version of each token sampled in this call."""
    timer: asyncio.TimerHandle | None = None

    @property
    def left(self) -> int:
        return min(self.length - self.done, self.most) - len(self.versions)


class SimulatedEngine:
    """`workers` engines of `slots` places; every running answer gets a token each `token_s` seconds
    (continuous batching without a limit but its places). `length_of(seed)` draws an answer's
    tokens."""

    def __init__(
        self, workers: int, slots: int, token_s: float, length_of: Callable[[int], int]
    ) -> None:
        self.capacity = workers * slots
        self.token_s = token_s
        self.version = 0
        self._counted = 0
        self._length_of = length_of
        self._running: set[_Job] = set()
        self._queue: deque[_Job] = deque()
        self._paused = False
        self._idle = asyncio.Event()

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int,
        session: str = "",
    ) -> Completion:
        begun = len(tokens) > len(PROMPT)
        length = tokens[len(PROMPT)] - MARK if begun else self._length_of(seed)
        ended = asyncio.get_running_loop().create_future()
        job = _Job(length, len(tokens) - len(PROMPT), max_tokens, ended)
        self._queue.append(job)
        self._fill()
        try:
            return await ended
        finally:
            self._leave(job)

    def _fill(self) -> None:
        while self._queue and not self._paused and len(self._running) < self.capacity:
            job = self._queue.popleft()
            if not job.ended.done():
                self._running.add(job)
                self._go(job)

    def _go(self, job: _Job) -> None:
        loop = asyncio.get_running_loop()
        job.since = loop.time()
        job.timer = loop.call_later(job.left * self.token_s, self._end, job)

    def _count(self, job: _Job, tokens: int) -> None:
        job.versions += [self.version] * tokens
        self._counted += tokens

    def _stop(self, job: _Job) -> None:
        """Freeze it with the tokens it has by now."""
        assert job.timer is not None
        job.timer.cancel()
        self._count(job, self._passed(job))

    def _passed(self, job: _Job) -> int:
        """Tokens since it began to run."""
        passed = asyncio.get_running_loop().time() - job.since
        return min(job.left, int(passed / self.token_s + 1e-9))

    @property
    def sampled(self) -> int:
        """Tokens so far."""
        return self._counted + (0 if self._paused else sum(map(self._passed, self._running)))

    def _end(self, job: _Job, stop_reason: str = "") -> None:
        if not stop_reason:
            self._count(job, job.left)
        n, done = len(job.versions), job.done + len(job.versions)
        tokens = [2] * n
        if n and not job.done:
            tokens[0] = MARK + job.length
        reason = stop_reason or ("stop" if done == job.length else "length")
        version = job.versions[-1] if n else self.version
        if not job.ended.done():
            job.ended.set_result(
                Completion(tokens, [-1.0] * n, reason, version, "simulated", job.versions)
            )

    def _leave(self, job: _Job) -> None:
        self._running.discard(job)
        if job.timer is not None:
            job.timer.cancel()
        if not self._running:
            self._idle.set()
        self._fill()

    async def pause(self, *, drain: bool = True) -> None:
        if drain:
            held, self._queue = self._queue, deque()
            while self._running:
                self._idle.clear()
                await self._idle.wait()
            self._queue = held + self._queue
        elif not self._paused:
            for job in self._running:
                self._stop(job)
        self._paused = True

    async def resume(self) -> None:
        self._paused = False
        for job in self._running:
            self._go(job)
        self._fill()

    async def abort(self) -> None:
        for job in list(self._running):
            if not self._paused:
                self._stop(job)
            self._end(job, "abort")
        for job in self._queue:
            self._end(job, "abort")

    async def load_weights(self, sent: Any, version: int) -> str:
        assert self._paused, "weights loaded while it samples"
        self.version = version
        return "checksum"

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        return [-1.0] * (len(tokens) - 1)

    def drain_metrics(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None
