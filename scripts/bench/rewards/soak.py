"""Many jobs in one jail, and what they leave behind:
`python -m conjoint.scripts.bench.rewards.soak TIER MODE JOBS`.

A process of its own: beside other work, descriptors and memory that are not the jail's would come
and go. Half of the programs misbehave in ways that leave things behind where nobody clears up.
"""

import asyncio
import glob
import json
import os
import sys
import tempfile
import time
from statistics import linear_regression
from typing import Any

from conjoint.rewards.sandbox.base import Program, SandboxConfig
from conjoint.rewards.sandbox.local import languages
from conjoint.rewards.sandbox.local.jail import LocalJail

_PROGRAMS = (
    Program("print(int(input()) * 2)", b"21\n"),
    Program("def f(x):\n    return [x] * 100", entry="f", calls=[[1], [2]]),
    Program("import threading; threading.Event().wait(0.01)"),
    Program("import os; os.abort()"),
    Program("import os\nopen('a', 'w').write('x' * 99999); os.mkdir('d'); os.symlink('/', 'd/l')"),
    Program("import os\nfor n in range(99): os.write(1, b'x' * 65536)"),
    Program("import os\nif os.fork() == 0: os.setsid()"),
    Program("x = bytearray(1 << 40)"),
)
_DAEMON = Program("sleep 600 & echo 42", language="bash")
_SAMPLES = 50
_PATIENCE_S = 10.0


async def soak(config: SandboxConfig, jobs: int) -> dict[str, Any]:
    """{"processes", "files", "segments", "descriptors", "restarts": how many were left or needed,
    "growth_mb": by how much the memory of driver and zygotes rose over the second half of the jobs,
    "resident_mb": the curve}."""
    segments = _segments()
    jail = LocalJail(config)
    await jail.start()
    tree = jail.tier == "namespaces" and not languages.missing("bash")
    programs = [*_PROGRAMS, _DAEMON] if tree else list(_PROGRAMS)

    async def run_some(count: int) -> None:
        await asyncio.gather(*(jail.run(programs[n % len(programs)]) for n in range(count)))

    # Every zygote starts, and every kind of program is run once by each.
    await run_some(2 * len(programs) * jail.size)
    descriptors, curve = len(os.listdir("/proc/self/fd")), []
    samples = min(_SAMPLES, max(4, jobs))
    for _ in range(samples):
        await run_some(max(1, jobs // samples))
        curve.append(_resident_mb(jail.pids))
    children = [pid for zygote in jail.pids for pid in _children_left(zygote)]
    left = len(os.listdir("/proc/self/fd")) - descriptors
    files, restarts = _files("/slot-*/*"), jail.restarts
    await jail.close()
    half = curve[len(curve) // 2 :]
    slope = linear_regression(range(len(half)), half).slope
    return {
        "processes": len(children) + len(_children(os.getpid())),
        "files": files + _files(),
        "segments": _segments() - segments,
        "descriptors": left,
        "restarts": restarts,
        "growth_mb": slope * len(half),
        "resident_mb": [round(value, 2) for value in curve],
    }


def _files(inside: str = "") -> int:
    """The jail's own directories, or what lies in its slots' scratch directories."""
    places = {"/dev/shm", tempfile.gettempdir()}
    return sum(len(glob.glob(f"{p}/conjoint-jail-{os.getpid()}-*{inside}")) for p in places)


def _segments() -> int:
    try:
        with open("/proc/sysvipc/shm", encoding="ascii") as file:
            return sum(1 for _ in file) - 1
    except FileNotFoundError:
        return 0


def _resident_mb(pids: list[int]) -> float:
    """What driver and zygotes hold for themselves; pages shared between them are left out."""
    total = 0
    for pid in (os.getpid(), *pids):
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            _, resident, shared, *_ = map(int, file.read().split())
        total += resident - shared
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def _children_left(pid: int) -> list[int]:
    """Those that are still there a moment later: a zygote reaps after it has answered."""
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _children(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _children(pid: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(name))
    return found


if __name__ == "__main__":
    tier, mode, jobs = sys.argv[1:]
    chosen = SandboxConfig(isolation=tier, mode=mode, workers=2)
    print(json.dumps(asyncio.run(soak(chosen, int(jobs)))))
