"""What a tool that asks models runs in: a signal stops it, and nothing that it started stays."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from conjoint.rl.run.interrupt import Interrupt, kill_all, own_processes


def supervised(work: Callable[[Interrupt], Coroutine[Any, Any, None]]) -> int:
    """Run `work` to its end, or until a signal cancels it; 0, or 128 + the signal."""

    async def run() -> int:
        interrupt = Interrupt()
        try:
            await interrupt.until_stopped(work(interrupt))
        finally:
            kill_all(own_processes())
        return 0 if interrupt.signal is None else 128 + interrupt.signal

    return asyncio.run(run())


def say(words: str) -> None:
    """A word on what takes long."""
    print(words, flush=True)
