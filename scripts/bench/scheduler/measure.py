"""`conjoint bench scheduler`: what it costs and what it fills, on a simulated clock.

The real class with collector, episodes and token records; only time and the engines are made up
(`scripts/bench/scheduler/simulation.py`).
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from conjoint.envs.base import SingleTurn
from conjoint.envs.types import Group, Task
from conjoint.rl.run.cycle_collector import collecting_less
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.scheduler import Hooks, Scheduler
from conjoint.scripts.bench.config import BenchRun, against_targets
from conjoint.scripts.bench.scheduler.simulation import OneTokenRenderer, SimulatedEngine, simulate

WORKERS = (64, 256, 1024, 4096)
SLOTS = 8
"""Answers at once on each."""
STEPS = 4
AHEAD = 2


def measure(cfg: BenchRun) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes a minute or two."""
    costs: dict[str, list[float]] = {f"{workers} workers": [] for workers in WORKERS}
    with collecting_less():  # as in a run
        for _ in range(cfg.bench.repeats):
            for workers in WORKERS:
                costs[f"{workers} workers"].append(controller_us(workers))
    filled = {f"{n} ahead": [occupancy(n)] for n in (0, 1, 2, 4)}
    figures = {
        "controller_us": (max(map(median, costs.values())), costs),
        "occupancy": (filled["4 ahead"][0], filled),
    }
    return {
        "ratios": against_targets(figures, cfg.bench.targets),
        "setting": {
            "controller_us": f"CPU microseconds of the whole process for an answer, {SLOTS} places "
            "a worker",
            "occupancy": "512 answers a step, lognormal lengths up to 16,000 tokens, 64 places",
        },
    }


def controller_us(workers: int) -> float:
    """CPU microseconds an answer over `STEPS` steps in which every worker has its places full; the
    simulated engine's share included."""
    cfg = RolloutConfig(
        groups_per_step=workers,
        group_size=SLOTS,
        max_tokens=64,
        max_model_len=128,
        max_staleness=AHEAD,
    )
    begun = time.process_time()
    simulate(_steps(cfg, SimulatedEngine(workers, SLOTS, 1.0, long_tailed(2.5, 0.8, 64)), 20.0))
    return 1e6 * (time.process_time() - begun) / (workers * SLOTS * STEPS)


def occupancy(max_staleness: int, slots: int = 64, train_s: float = 500.0) -> float:
    """Share of an engine's places that are taken while a run of 512 answers a step with lognormal
    lengths up to 16,000 tokens is in full swing; all places taken is the bound of continuous
    batching."""
    cfg = RolloutConfig(
        groups_per_step=64,
        group_size=8,
        max_tokens=16_000,
        max_model_len=17_000,
        max_staleness=max_staleness,
    )
    engine = SimulatedEngine(1, slots, 1.0, long_tailed(6.0, 1.2, 16_000))
    marks = simulate(_steps(cfg, engine, train_s, STEPS + max_staleness))
    # From the first batch on and before the last waves run out of successors.
    (begin, first), (end, last) = marks[0], marks[STEPS - 1]
    return (last - first) / ((end - begin) * slots)


def long_tailed(mean: float, deviation: float, cap: int) -> Callable[[int], int]:
    """Lognormal lengths: `mean` and `deviation` are those of the logarithm."""

    def length(seed: int) -> int:
        return min(cap, 1 + round(math.exp(random.Random(seed).gauss(mean, deviation))))

    return length


async def _steps(
    cfg: RolloutConfig, engine: SimulatedEngine, train_s: float, steps: int = STEPS
) -> list[tuple[float, int]]:
    """(time, tokens sampled so far) as each batch was there."""
    limits = EpisodeLimits(cfg.max_tokens, cfg.max_model_len, 1, 1.0)
    renderer = OneTokenRenderer()
    collector = Collector(engine, renderer, SingleTurn, 0)  # type: ignore[arg-type]
    hooks = Hooks(_tasks, lambda task: limits, _unscored, lambda group: False)
    scheduler = Scheduler(cfg, engine, collector, hooks)
    marks = []
    for step in range(steps):
        await scheduler.sampled(step, steps)
        await scheduler.batch(step)
        marks.append((asyncio.get_running_loop().time(), engine.sampled))
        await asyncio.sleep(train_s)
        await engine.pause(drain=False)
        await engine.load_weights(None, step + 1)
        await engine.resume()
        scheduler.advance(step + 1)
    await scheduler.close()
    return marks


def _tasks(count: int) -> list[Task]:
    return [Task.make("math", str(i)) for i in range(count)]


async def _unscored(group: Group, wave: int) -> Group:
    return group
