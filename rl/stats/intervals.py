"""Means with 95 % intervals: of scores, of paired differences, and pooled over seeds.

`mean_interval` is Wilson's score interval (Wilson 1927): never of zero width, so eight right
answers out of eight do not read as certainty. For fractional scores it is conservative, because
the variance of a value in [0, 1] is at most p(1 - p). `clustered_interval` is the same for several
answers a task. Differences use the paired percentile bootstrap (Efron 1979) over tasks with a fixed
seed, so a report can be rebuilt to the last digit.
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
    return _wilson(math.fsum(values) / n, n, n)


def clustered_interval(means: Sequence[float], answers: int) -> Interval:
    """Interval of the mean over tasks of `means`, each the mean of up to `answers` answers' scores.

    Answers to one task are not independent, so tasks are what is counted. Wilson's interval at the
    effective sample size n p (1 - p) / var(means) (Korn and Graubard 1998, for proportions in
    clustered samples): between the number of tasks, as if all answers to a task were equal, and
    that of answers, as if they were independent. With one answer a task it is `mean_interval` to
    the digit. Raises ValueError for scores outside [0, 1] or none.
    """
    plain, n = mean_interval(means), len(means)
    variance = math.fsum((m - plain.mean) ** 2 for m in means) / n
    spread = plain.mean * (1 - plain.mean)
    effective = n * answers if variance * answers <= spread else n * spread / variance
    # All right or all wrong says nothing about how alike the answers to one task are.
    return _wilson(plain.mean, n, max(n, effective) if spread else n)


def mean_of_intervals(parts: Sequence[Interval]) -> Interval:
    """The unweighted mean of independent means, with the square-and-add interval (MOVER: Zou and
    Donner 2008), which keeps the parts' asymmetry. Raises ValueError for none."""
    if not parts:
        raise ValueError("a mean needs at least one part")
    count = len(parts)
    mean = math.fsum(p.mean for p in parts) / count
    below = math.sqrt(math.fsum((p.mean - p.lo) ** 2 for p in parts)) / count
    above = math.sqrt(math.fsum((p.hi - p.mean) ** 2 for p in parts)) / count
    return Interval(mean, mean - below, mean + above, sum(p.n for p in parts))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k answers is right, from c right ones of n:
    1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374). Raises ValueError unless
    0 <= c <= n and 1 <= k <= n."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} cannot be estimated from {c} right answers of {n}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def _wilson(mean: float, tasks: int, n: float) -> Interval:
    """Wilson's interval of `mean` at the sample size `n`, of so many tasks."""
    center = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    # min and max: at mean 0 and 1 the formula ends there, which rounding would miss.
    return Interval(mean, min(center - half, mean), max(center + half, mean), tasks)


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


def resampled_counts(counts: np.ndarray) -> np.ndarray:
    """[RESAMPLES, n]: how often each of n distinct values, `counts` times in the data, is drawn in
    each bootstrap sample."""
    n = counts.sum()
    return np.random.default_rng(SEED).multinomial(n, counts / n, size=RESAMPLES)


def bootstrap_interval(mean: float, resampled: np.ndarray, n: int) -> Interval:
    """The percentile interval of a figure of n tasks from its resampled values; a sample in which
    it cannot be had (NaN) is left out."""
    lo, hi = np.nanquantile(resampled, (0.025, 0.975))
    return Interval(mean, float(lo), float(hi), n)


def _bootstrap(differences: np.ndarray) -> Interval:
    """Percentile bootstrap of the mean of `differences` [n].

    Resampling n values with replacement is one multinomial draw over the distinct values, and
    scores have few of them.
    """
    n = len(differences)
    values, counts = np.unique(differences, return_counts=True)
    means = resampled_counts(counts) @ values / n
    return bootstrap_interval(float(differences.mean()), means, n)
