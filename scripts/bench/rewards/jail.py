"""The jail's part of `conjoint bench rewards`: programs a second, what one costs, what many leave
behind."""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from statistics import median
from typing import Any

from conjoint.envs.types import ConjointError
from conjoint.rewards.sandbox.base import Ended, Program, SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local.jail import LocalJail
from conjoint.scripts.bench.config import BenchConfig, Figures, Runs

_PROGRAM = Program("print(int(input()) * 2)", b"21\n")
_VARIANTS = {
    f"{mode}_{tier}": {"isolation": tier, "mode": mode}
    for mode in ("fork", "exec")
    for tier in ("namespaces", "landlock")
}
# A fork of a clean interpreter that ends at once: what no jail can be quicker than.
_FORKS = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print(time.perf_counter() - begun)
"""


def measure_jail(bench: BenchConfig, sandbox: SandboxConfig) -> tuple[Figures, dict[str, Any]]:
    """(name -> (value, raw figures), setting). A tier that this machine lacks is named there."""
    figures, setting = asyncio.run(_rates_and_overheads(bench, sandbox))
    for tier in ("namespaces", "landlock") if bench.soak else ():
        if f"fork_{tier}" in figures:
            figures |= _soaked(tier, bench.soak)
    return figures, setting


async def _rates_and_overheads(
    bench: BenchConfig, sandbox: SandboxConfig
) -> tuple[Figures, dict[str, Any]]:
    lacking: dict[str, str] = {}
    rates: Runs = {}
    alone: Runs = {"bare": []}
    async with AsyncExitStack() as stack:
        jails: dict[str, LocalJail] = {}
        for name, keys in _VARIANTS.items():
            jail = LocalJail(replace(sandbox, **keys))
            stack.push_async_callback(jail.close)
            try:
                await jail.start()
            except SandboxUnavailable as error:
                lacking[name] = str(error)
                continue
            jails[name] = jail
        # One round that is not counted: zygotes start when they are first needed.
        for number in range(bench.repeats + 1):
            counted = number > 0
            alone["bare"] += _bare_forks(bench.programs) if counted else []
            for name, jail in jails.items():
                rate = await _rate(jail, bench.programs)
                if counted:
                    rates.setdefault(name, []).append(rate)
                    if name.startswith("fork"):
                        alone.setdefault(name, []).extend(await _latencies(jail, bench.programs))
    figures: Figures = {name: (median(runs), {name: runs}) for name, runs in rates.items()}
    for name in [name for name in alone if name != "bare"]:
        overhead = 1000 * (median(alone[name]) - median(alone["bare"]))
        runs = {key: alone[key] for key in ("bare", name)}
        figures[name.replace("fork", "overhead_ms")] = (overhead, runs)
    workers = sandbox.workers or f"{4 * len(os.sched_getaffinity(0))} (four a core)"
    setting = {"programs": bench.programs, "repeats": bench.repeats, "workers": workers}
    return figures, setting | ({"not on this machine": lacking} if lacking else {})


async def _rate(jail: LocalJail, count: int) -> float:
    """Programs a second, as many at once as the jail runs."""
    begun = time.perf_counter()
    await asyncio.gather(*(_run(jail) for _ in range(count)))
    return count / (time.perf_counter() - begun)


async def _latencies(jail: LocalJail, count: int) -> list[float]:
    """Seconds of each of some programs, one after the other."""
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        await _run(jail)
        seconds.append(time.perf_counter() - begun)
    return seconds


async def _run(jail: LocalJail) -> None:
    result = await jail.run(_PROGRAM)
    if result.ended is not Ended.FINISHED or result.stdout != b"42\n":
        raise ConjointError(f"conjoint bench rewards: a program {result.reason or result.stdout!r}")


def _bare_forks(count: int) -> list[float]:
    clean = [sys.executable, "-I", "-S", "-c", _FORKS, str(count)]
    done = subprocess.run(clean, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def _soaked(tier: str, jobs: int) -> Figures:
    command = [
        sys.executable,
        "-P",
        "-m",
        "conjoint.scripts.bench.rewards.soak",
        tier,
        "fork",
        str(jobs),
    ]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    curve = {f"resident_mb_{tier}": result.pop("resident_mb")}
    growth = result.pop("growth_mb")
    left = {key: [float(value)] for key, value in result.items()}
    return {
        f"soak_left_{tier}": (sum(map(float, result.values())), left),
        f"soak_growth_mb_{tier}": (growth, curve),
    }
