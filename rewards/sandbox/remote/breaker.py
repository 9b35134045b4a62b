"""A circuit breaker: no more work for a service that has failed many times in a row."""

import time
from collections.abc import Callable


class Breaker:
    """Closed at first. `open_after` failures in a row open it for `open_s` seconds; then one piece
    of work is let through, whose outcome closes it or opens it again."""

    def __init__(
        self, open_after: int, open_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_after = open_after
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    def allows(self) -> bool:
        if self._failures < self._open_after:
            return True
        if self._clock() < self._open_until:
            return False
        # Until the outcome of this one is known, or as long again, nothing else goes through.
        self._open_until = self._clock() + self._open_s
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._open_until = self._clock() + self._open_s

    @property
    def state(self) -> str:
        """In words, for the reason of a program that was not sent."""
        left = max(0.0, self._open_until - self._clock())
        return f"{self._failures} failures in a row; tried again in {left:.0f} s"
