"""Limits on sampling: how many answers run at once, and how far each goes under one version."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from conjoint.rollouts.episode import Pace

_NO_BOUND = 1 << 30
"""More tokens than any answer can have."""


class Places:
    """Admits groups while fewer than `capacity()` answers run, earlier waves first.

    Admitted groups are never evicted. A group is admitted whole, so the last one may exceed the
    capacity by up to its size; the engine queues those answers.
    """

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        self._taken = 0
        self._order = itertools.count()
        self._waiting: list[tuple[tuple[int, int], int, int, asyncio.Future[None]]] = []

    async def take(self, size: int, rank: tuple[int, int]) -> None:
        """Wait until a group of `size` answers is admitted; the lowest `rank` goes first.

        `rank` is (wave, index in the wave). Each answer gives its place back with `leave`.
        """
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), size, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Admitted in the same tick as cancelled: no answer will run and give places back.
                for _ in range(size):
                    self.leave()
            raise

    def leave(self, ended: object = None) -> None:
        """Give back the place of one answer. The argument is unused: as a done callback of an
        asyncio task it is given the task."""
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < max(1, self._capacity()):
            _, _, size, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._taken += size
                turn.set_result(None)


class Shares:
    """Bounds the tokens that an answer samples under one version of the weights.

    This share is the per-iteration token budget of Kimi K1.5 (arXiv 2501.12599, section 2.6.2).
    Answers of the due wave have no bound, because the step waits for them. `shut` and `open` hold
    back all calls to the engine, whatever their shares.
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
        """The weights have a new version, so each answer gets a new share."""
        self._version = version
        self._wake()

    def free(self, wave: int) -> None:
        """Waves up to `wave` are due: their answers have no bound from now on."""
        self._due = wave
        self._wake()

    def _wake(self) -> None:
        # Waiters hold the old event. A new one makes the next round wait again.
        self._changed.set()
        self._changed = asyncio.Event()

    def shut(self) -> None:
        """Begin no further call to the engine until `open`."""
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def quiet(self) -> None:
        """Wait until no call is in flight."""
        await self._quiet.wait()

    def pace(self, wave: int) -> Pace:
        """The `Pace` of one answer of `wave`."""
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
                    # The first call under new weights: the share counts from here.
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
