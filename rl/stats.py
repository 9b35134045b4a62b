"""Means with 95 % intervals: of scores, of paired differences, and pooled over seeds.

`mean_interval` is Wilson's score interval (Wilson 1927): never of zero width, so eight right
answers out of eight do not read as certainty. For fractional scores it is conservative, because
the variance of a value in [0, 1] is at most p(1 - p). Differences use the paired percentile
bootstrap (Efron 1979) over tasks with a fixed seed, so a report can be rebuilt to the last digit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
RESAMPLES = 4000
SEED = 20250729

Scores = Mapping[str, float]
"""Task id -> score in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, its 95 % interval, and the number of tasks behind it."""

    mean: float
    lo: float
    hi: float
    n: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Wilson's interval of the mean of scores in [0, 1]. Raises ValueError for others or none."""
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if not all(0.0 <= v <= 1.0 for v in values):
        raise ValueError("scores must lie in [0, 1]")
    mean = math.fsum(values) / n
    center = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    # min and max: at mean 0 and 1 the formula ends there, which rounding would miss.
    return Interval(mean, min(center - half, mean), max(center + half, mean), n)


def paired_difference(start: Sequence[float], end: Sequence[float]) -> Interval:
    """Mean of end - start over the same tasks in the same order, with a paired bootstrap interval.

    Raises ValueError if the lengths differ or are 0.
    """
    if len(start) != len(end):
        raise ValueError(f"{len(start)} scores at start but {len(end)} at end")
    if not start:
        raise ValueError("a difference needs at least one pair")
    return _bootstrap(np.asarray(end, dtype=float) - np.asarray(start, dtype=float))


def pooled_difference(runs: Iterable[tuple[Scores, Scores]]) -> Interval:
    """Mean of end - start over several seeds, each a (start, end) pair of per-task scores.

    The task is what is resampled: a task's differences are averaged over seeds first, because
    answers to one task are not independent. The interval covers the choice of tasks, not of seeds.
    """
    by_task: dict[str, list[float]] = {}
    for start, end in runs:
        for task in start.keys() & end.keys():
            by_task.setdefault(task, []).append(end[task] - start[task])
    if not by_task:
        raise ValueError("no task was scored both at start and at end")
    return _bootstrap(np.array([np.mean(by_task[task]) for task in sorted(by_task)]))


def _bootstrap(differences: np.ndarray) -> Interval:
    """Percentile bootstrap of the mean of `differences` [n].

    Resampling n values with replacement is one multinomial draw over the distinct values, and
    scores have few of them.
    """
    n = len(differences)
    values, counts = np.unique(differences, return_counts=True)
    rng = np.random.default_rng(SEED)
    means = rng.multinomial(n, counts / n, size=RESAMPLES) @ values / n
    lo, hi = np.quantile(means, (0.025, 0.975))
    return Interval(float(differences.mean()), float(lo), float(hi), n)
