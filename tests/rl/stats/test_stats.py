"""Intervals cover what they promise, and differences are paired."""

import itertools
from dataclasses import astuple

import numpy as np
import pytest

from conjoint.rl.stats.intervals import (
    Interval,
    clustered_interval,
    mean_interval,
    mean_of_intervals,
    paired_difference,
    pass_at_k,
    pooled_difference,
)


def test_wilson_interval_of_a_known_case() -> None:
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662.
    interval = mean_interval([1.0] * 81 + [0.0] * 182)
    assert interval.mean == pytest.approx(81 / 263)
    assert interval.lo == pytest.approx(0.2553, abs=1e-4)
    assert interval.hi == pytest.approx(0.3662, abs=1e-4)
    assert interval.n == 263


def test_all_right_is_not_certainty() -> None:
    interval = mean_interval([1.0] * 8)
    assert interval.mean == interval.hi == 1.0
    assert 0.6 < interval.lo < 0.75


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
def test_mean_interval_covers_the_truth(p: float) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        interval = mean_interval(list((rng.random(60) < p).astype(float)))
        hits += interval.lo <= p <= interval.hi
    assert hits / 400 > 0.92


@pytest.mark.parametrize("values", [[], [0.5, 1.2], [-0.1], [float("nan")]])
def test_no_interval_of_what_is_not_a_score(values: list[float]) -> None:
    with pytest.raises(ValueError):
        mean_interval(values)


def test_paired_difference_sees_what_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    start = (rng.random(1000) < 0.5).astype(float)
    end = start.copy()
    end[np.flatnonzero(start == 0)[:20]] = 1.0
    before, after = mean_interval(list(start)), mean_interval(list(end))
    assert after.lo < before.hi
    difference = paired_difference(list(start), list(end))
    assert difference.mean == pytest.approx(0.02)
    assert 0 < difference.lo < 0.02 < difference.hi


def test_paired_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        start = (rng.random(200) < 0.4).astype(float)
        end = (rng.random(200) < 0.5).astype(float)
        interval = paired_difference(list(start), list(end))
        hits += interval.lo <= 0.1 <= interval.hi
    assert 0.90 < hits / 200 < 0.99


def test_no_change_is_no_rise() -> None:
    scores = [0.0, 1.0, 0.5] * 50
    difference = paired_difference(scores, scores)
    assert (difference.mean, difference.lo, difference.hi) == (0.0, 0.0, 0.0)


def test_same_input_same_interval() -> None:
    start, end = [0.0, 1.0, 0.0, 0.25] * 30, [1.0, 1.0, 0.0, 0.5] * 30
    assert paired_difference(start, end) == paired_difference(start, end)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 scores at start but 1 at end"):
        paired_difference([0.0, 1.0], [1.0])
    with pytest.raises(ValueError):
        paired_difference([], [])


def test_seeds_of_one_task_are_not_independent() -> None:
    rng = np.random.default_rng(4)
    start = {str(i): float(rng.random() < 0.4) for i in range(300)}
    end = {task: float(rng.random() < 0.5) for task in start}
    tasks = sorted(start)
    one = paired_difference([start[t] for t in tasks], [end[t] for t in tasks])
    twice = pooled_difference([(start, end), (start, end)])
    assert twice.n == 300
    assert twice.mean == pytest.approx(one.mean)
    # The same answers counted twice must not narrow the interval.
    assert twice.hi - twice.lo == pytest.approx(one.hi - one.lo, rel=0.1)


def test_pooling_takes_only_tasks_scored_on_both_sides() -> None:
    pooled = pooled_difference([({"a": 0.0, "b": 0.0}, {"a": 1.0}), ({"c": 1.0}, {"c": 1.0})])
    assert (pooled.n, pooled.mean) == (2, 0.5)
    with pytest.raises(ValueError, match="no task"):
        pooled_difference([({"a": 0.0}, {"b": 1.0})])


# -- several answers a task ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [[1.0, 0.0, 0.0], [1.0] * 8, [0.0] * 5, [1.0] * 81 + [0.0] * 182]
)
def test_one_answer_a_task_gives_wilsons_interval(values: list[float]) -> None:
    assert clustered_interval(values, 1) == mean_interval(values)


def test_equal_answers_to_each_task_count_once_and_independent_ones_count_each() -> None:
    # 10 tasks, 4 answers: all four alike is 10 observations; two of four everywhere is 40.
    alike = clustered_interval([1.0] * 5 + [0.0] * 5, 4)
    assert (alike.lo, alike.hi) == pytest.approx((0.236593, 0.763407), abs=1e-6)  # 5 of 10
    apart = clustered_interval([0.5] * 10, 4)
    assert (apart.lo, apart.hi) == pytest.approx((0.351990, 0.648010), abs=1e-5)  # 20 of 40
    assert alike.n == apart.n == 10
    assert clustered_interval([1.0] * 10, 4) == mean_interval([1.0] * 10)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 0.3), (8.0, 2.0)])
def test_clustered_interval_covers_the_truth(a: float, b: float) -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        right = rng.binomial(5, rng.beta(a, b, size=60))
        interval = clustered_interval(list(right / 5), 5)
        hits += interval.lo <= a / (a + b) <= interval.hi
    assert hits / 400 > 0.92


def test_mean_of_intervals_is_square_and_add() -> None:
    parts = [Interval(0.5, 0.4, 0.7, 10), Interval(0.1, 0.06, 0.3, 20)]
    mean = mean_of_intervals(parts)
    assert mean.mean == pytest.approx(0.3) and mean.n == 30
    assert mean.lo == pytest.approx(0.3 - np.hypot(0.1, 0.04) / 2)
    assert mean.hi == pytest.approx(0.3 + np.hypot(0.2, 0.2) / 2)
    assert astuple(mean_of_intervals(parts[:1])) == pytest.approx(astuple(parts[0]))


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
            share = sum(map(any, draws)) / len(draws)
            assert pass_at_k(n, c, k) == pytest.approx(share), (n, c, k)


def test_pass_at_k_of_the_papers_own_form() -> None:
    # Chen et al. 2021, figure 3: 1 - prod(1 - k / i) for i in n-c+1 ... n.
    product = np.prod(1.0 - 100 / np.arange(200 - 13 + 1, 200 + 1))
    assert pass_at_k(200, 13, 100) == pytest.approx(1.0 - product)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4), (0, 0, 1)])
def test_pass_at_k_of_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)
