"""Many jobs in a process of their own: `python -m tests.rewards.sandbox.soak TIER` prints what they
left behind. Beside other tests, descriptors that are not the jail's would come and go."""

import asyncio
import json
import os
import sys
import time

import psutil

from rewards.sandbox.base import Program
from rewards.sandbox.jail import LocalJail
from tests.rewards.sandbox.conftest import config

PROGRAMS = ["import threading; threading.Event().wait(0.01)", "import os; os.abort()"] * 20


async def soak(tier: str) -> dict[str, int]:
    """Descriptors opened and zygotes' children left by a second round of jobs; zygotes replaced."""
    jail = LocalJail(config(tier))
    await jail.start()

    async def round_of_jobs() -> int:
        await asyncio.gather(*(jail.run(Program(source)) for source in PROGRAMS))
        return len(os.listdir("/proc/self/fd"))

    before = await round_of_jobs()
    after = await round_of_jobs()
    children = [c for w in jail._workers for c in _children(w.process.pid)]
    restarts = jail.restarts
    await jail.close()
    return {"descriptors": after - before, "processes": len(children), "restarts": restarts}


def _children(pid: int, patience_s: float = 5.0) -> list[psutil.Process]:
    """Those that are still there a moment later: a zygote reaps after it has answered."""
    deadline = time.monotonic() + patience_s
    while (left := psutil.Process(pid).children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


if __name__ == "__main__":
    print(json.dumps(asyncio.run(soak(sys.argv[1]))))
