"""What holds answers back: how many run at once, and how far each goes under one version."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from conjoint.rollouts.episode import Pace

_NO_BOUND = 1 << 30


class Places:
    """Lets groups in while fewer answers than `capacity()` run, earlier waves first. What is in is
    never put out again, so what was begun goes before what was not.

    A group comes in whole, so the last one may be over by its size: the engine queues that much.
    """

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        self._taken = 0
        self._order = itertools.count()
        self._waiting: list[tuple[tuple[int, int], int, int, asyncio.Future[None]]] = []

    async def take(self, size: int, rank: tuple[int, int]) -> None:
        """Wait for `size` places; of those who wait the lowest rank goes first. Each answer gives
        its own back: `leave`."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), size, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in at the same moment
                for _ in range(size):
                    self.leave()
            raise

    def leave(self, ended: object = None) -> None:
        """One answer has ended. (A task's done callback; it hands itself over.)"""
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < max(1, self._capacity()):
            _, _, size, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._taken += size
                turn.set_result(None)


class Shares:
    """A share of tokens for each answer and version of the weights (the token budget of an
    iteration in Kimi K1.5, arXiv 2501.12599, 2.6.2), and a door that can be shut on all of them.

    Answers of the due wave have no share: the step waits for their end.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._version = 0
        self._due = 0
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Event()
        self._calls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def renew(self, version: int) -> None:
        """New weights: everyone has a new share."""
        self._version = version
        self._wake()

    def free(self, wave: int) -> None:
        """Waves up to this one are due."""
        self._due = wave
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def shut(self) -> None:
        """No further call begins."""
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def quiet(self) -> None:
        """Wait until no call is under way."""
        await self._quiet.wait()

    def pace(self, wave: int) -> Pace:
        """The pace of one answer of a wave."""
        version, base = self._version, 0

        @asynccontextmanager
        async def call(sampled: int) -> AsyncIterator[int]:
            nonlocal version, base
            while True:
                await self._open.wait()
                if not self._tokens or wave <= self._due:
                    left = _NO_BOUND
                    break
                if version != self._version:
                    version, base = self._version, sampled
                if (left := self._tokens - (sampled - base)) > 0:
                    break
                await self._changed.wait()
            self._calls += 1
            self._quiet.clear()
            try:
                yield left
            finally:
                self._calls -= 1
                if not self._calls:
                    self._quiet.set()

        return call
