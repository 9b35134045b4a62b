"""Each stop rule fires beyond its limit, not at it, and says what to do."""

import json
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rl.run.guard import LENGTH_GROUPS, LENGTH_WINDOW, Guard, GuardConfig, NonfiniteStop

NAN = float("nan")
FINE = {"loss/total": 1.0, "gap/mean": 0.001, "gap/math": 0.001}


def test_a_healthy_run_goes_on() -> None:
    guard = Guard(GuardConfig())
    for _ in range(10):
        guard.check_batch({"graded_share": 0.97, "masked/math": 0.1})
        guard.check_update(FINE)


@pytest.mark.parametrize("gap", [0.051, 3.0, float("inf")])
def test_gap_above_its_limit_stops(gap: float) -> None:
    metrics = {**FINE, "gap/mean": gap, "gap/max": 9.0, "gap/math": 0.2, "gap/code": 0.4}
    with pytest.raises(StopRun, match=r"disagree by .* most in code \(0\.4\)") as stop:
        Guard(GuardConfig()).check_update(metrics)
    assert "guard.max_gap" in str(stop.value)


def test_gap_limit_is_the_config() -> None:
    Guard(GuardConfig(max_gap=0.5)).check_update({**FINE, "gap/mean": 0.4})
    Guard(GuardConfig()).check_update({**FINE, "gap/mean": 0.05})
    with pytest.raises(StopRun):
        Guard(GuardConfig(max_gap=0.0001)).check_update(FINE)


def test_few_graded_answers_stop() -> None:
    guard = Guard(GuardConfig())
    guard.check_batch({"graded_share": 0.5})
    with pytest.raises(StopRun, match="Only 49% of the answers"):
        guard.check_batch({"graded_share": 0.49})
    Guard(GuardConfig(min_graded_share=0.0)).check_batch({"graded_share": 0.0})


def test_one_kind_that_is_masked_stops_though_the_batch_is_graded() -> None:
    metrics = {"graded_share": 0.9, "masked/math": 0.0, "masked/code": 0.75}
    with pytest.raises(StopRun, match="75% of the code answers"):
        Guard(GuardConfig()).check_batch(metrics)
    Guard(GuardConfig(max_masked_share=0.8)).check_batch(metrics)


def test_non_finite_loss_stops_at_the_third_in_a_row() -> None:
    guard = Guard(GuardConfig())
    bad = {**FINE, "loss/total": NAN}
    guard.check_update(bad)
    guard.check_update(bad)
    guard.check_update(FINE)
    guard.check_update(bad)
    guard.check_update(bad)
    with pytest.raises(StopRun, match="loss/total has not been a finite number for 3 steps"):
        guard.check_update(bad)
    with pytest.raises(StopRun, match="for 1 steps"):
        Guard(GuardConfig(max_nonfinite_steps=1)).check_update(bad)


def test_a_gap_that_is_no_number_cannot_pass_for_a_small_one() -> None:
    guard = Guard(GuardConfig(max_nonfinite_steps=2))
    guard.check_update({**FINE, "gap/mean": NAN})
    with pytest.raises(StopRun, match="gap/mean"):
        guard.check_update({**FINE, "gap/mean": NAN})


def test_skipped_updates_stop_although_they_leave_no_loss_behind() -> None:
    skipped = {"updates": 1.0, "nonfinite": 1.0, "gap/mean": 0.001}
    guard = Guard(GuardConfig(max_nonfinite_steps=2))
    guard.check_update(skipped)
    guard.check_update({**FINE, "nonfinite": 0.0})
    guard.check_update(skipped)
    with pytest.raises(NonfiniteStop, match="the loss or its gradient has not been a finite"):
        guard.check_update(skipped)


def test_a_resumed_run_goes_on_counting() -> None:
    first = Guard(GuardConfig())
    for _ in range(2):
        first.check_update({"nonfinite": 1.0})
    resumed = Guard(GuardConfig())
    resumed.load_state(first.state())
    with pytest.raises(NonfiniteStop, match="for 3 steps"):
        resumed.check_update({"nonfinite": 1.0})


def test_length_bias_needs_groups_and_not_only_a_share() -> None:
    guard = Guard(GuardConfig(max_longer_wins=0.6))
    assert guard.check_judge([1.0] * (LENGTH_GROUPS - 1)) == {}
    with pytest.raises(StopRun, match=r"wins 100% of .* over 20 groups; guard\.max_longer_wins"):
        guard.check_judge([1.0])
    mixed = Guard(GuardConfig(max_longer_wins=0.6))
    found = mixed.check_judge([1.0] * 14 + [0.0] * 6)
    assert found["judge/longer_wins_low"] < 0.6, "70 % of 20 groups is no proof of 60 %"
    with pytest.raises(StopRun, match="length bias"):
        mixed.check_judge([1.0] * 140 + [0.0] * 60)
    Guard(GuardConfig(max_longer_wins=1.0)).check_judge([1.0] * 500)
    Guard(GuardConfig()).check_judge([0.0] * 500)


def test_a_judge_that_becomes_biased_late_is_found_by_its_last_groups() -> None:
    guard = Guard(GuardConfig())
    guard.check_judge([0.5] * 5_000)
    with pytest.raises(StopRun, match=f"over {LENGTH_WINDOW} groups"):
        guard.check_judge([1.0] * LENGTH_WINDOW)


def test_a_resumed_run_remembers_the_length_bias() -> None:
    first = Guard(GuardConfig())
    first.check_judge([1.0] * 30)
    resumed = Guard(GuardConfig())
    resumed.load_state(json.loads(json.dumps(first.state())))
    with pytest.raises(StopRun, match="over 36 groups"):
        resumed.check_judge([1.0] * 6)


def test_a_critic_that_falls_below_its_start_stops_and_chance_does_not() -> None:
    start = {f"pair {i}": 1.0 for i in range(100)}
    worse = {name: float(i % 2) for i, name in enumerate(start)}
    guard = Guard(GuardConfig(max_judge_drop=0.2))
    with pytest.raises(StopRun, match=r"right on 50\.0% fewer of the 100 .*guard\.max_judge_drop"):
        guard.check_critic(start, worse)
    guard.check_critic(worse, start)
    guard.check_critic(start, {**start, **{f"pair {i}": 0.0 for i in range(22)}})  # 22 %, not sure
    guard.check_critic(start, {"another pair": 0.0})
    Guard(GuardConfig()).check_critic(start, dict.fromkeys(start, 0.0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_gap", 0.0),
        ("max_gap", NAN),
        ("min_graded_share", 1.5),
        ("max_masked_share", -0.1),
        ("max_longer_wins", 1.1),
        ("max_longer_wins", NAN),
        ("max_judge_drop", -0.1),
        ("max_nonfinite_steps", 0),
        ("dump_steps", [3, 0]),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConjointError, match=f"guard.{key}"):
        GuardConfig(**{key: value}).validate()
