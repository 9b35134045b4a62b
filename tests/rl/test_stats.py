"""Intervals cover what they promise, and differences are paired."""

import numpy as np
import pytest

from rl.stats import mean_interval, paired_difference, pooled_difference


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
