"""The length reward's formula, and Toggle's phases, limits and state."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoint.envs.types import ConjointError
from conjoint.rewards.lengths import (
    LengthRewardConfig,
    Toggle,
    ToggleConfig,
    above_limit,
    length_rewards,
    percentile,
)

ANSWERS = st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), min_size=1)


def test_the_length_reward_by_hand():
    lengths = [100, 200, 300, 500]
    assert length_rewards(lengths, [True] * 4) == [0.5, 0.25, 0.0, -0.5]
    assert length_rewards(lengths, [False] * 4) == [0.0, 0.0, 0.0, -0.5]


@given(ANSWERS)
def test_it_lies_within_a_half_and_pays_only_the_correct(made: list[tuple[int, bool]]):
    lengths, correct = zip(*made, strict=True)
    found = length_rewards(lengths, correct)
    assert all(-0.5 <= x <= 0.5 for x in found)
    assert all(x <= 0 for x, right in zip(found, correct, strict=True) if not right)
    # Of two answers that are equally right the shorter one is never paid less.
    ranked = sorted(zip(correct, lengths, found, strict=True), key=lambda a: (a[0], a[1], -a[2]))
    for (right, _, x), (same, _, y) in pairwise(ranked):
        assert right != same or x >= y


@given(st.integers(0, 500), st.lists(st.booleans(), min_size=1))
def test_equal_lengths_pay_nothing(length: int, correct: list[bool]):
    assert length_rewards([length] * len(correct), correct) == [0.0] * len(correct)


def test_a_group_of_nobody_has_no_rewards():
    assert length_rewards([], []) == [] and above_limit([], [], 5, 0.5) == []


@pytest.mark.parametrize(
    ("share", "expected"), [(1, 10), (25, 10), (26, 20), (50, 20), (75, 30), (100, 40)]
)
def test_a_percentile_is_one_of_the_lengths(share: float, expected: int):
    assert percentile([40, 10, 30, 20], share) == expected


# Toggle.

CONFIG = ToggleConfig(every=2, kinds=["math", "code"], percentile=50, estimate_steps=3)


def test_phases_alternate_after_the_steps_that_the_limits_come_from():
    assert [Toggle(CONFIG).phase(step) for step in range(11)] == [1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert {Toggle(ToggleConfig()).phase(step) for step in range(9)} == {1}


def test_limits_are_set_once_and_bind_in_phase_0_only():
    toggle = Toggle(CONFIG)
    for step in range(3):
        assert toggle.limits_at(step) == {}
        toggle.observe({"math": [10 + step, 20, 30], "open": [5] * 9}, step)
    assert toggle.limits_at(3) == {"math": 20} == toggle.limits_at(4)
    assert toggle.limits_at(5) == {}
    toggle.observe({"math": [1] * 99}, 3)
    assert toggle.limits_at(7) == {"math": 20}
    assert toggle.metrics(5) == {"toggle/phase": 1.0, "toggle_limit/math": 20.0}
    assert Toggle(ToggleConfig()).metrics(5) == {}


def test_a_kind_with_too_few_correct_answers_waits_for_enough():
    toggle = Toggle(CONFIG)
    for step in range(4):
        toggle.observe({"code": [7]}, step)
    assert toggle.limits == {}
    toggle.observe({"code": [9] * 4}, 4)
    assert toggle.limits == {"code": 7}


def test_a_resumed_run_has_the_same_limits():
    """Stopped in every step, its state as the checkpoint stores it."""
    lengths = [{"math": [5 + step, 9], "code": [step]} for step in range(12)]
    whole = Toggle(CONFIG)
    resumed = Toggle(CONFIG)
    for step, found in enumerate(lengths):
        whole.observe(found, step)
        resumed.observe(found, step)
        state = json.loads(json.dumps(resumed.state()))
        resumed = Toggle(CONFIG)
        resumed.load_state(state)
        assert resumed.state() == whole.state()
    assert resumed.limits == whole.limits == {"math": 8, "code": 3}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ToggleConfig(kinds=["math"]), "budget.toggle.kinds=.* has no effect"),
        (ToggleConfig(percentile=30), "budget.toggle.percentile=30 has no effect"),
        (ToggleConfig(every=5), "budget.toggle.every=5 needs budget.toggle.kinds"),
        (ToggleConfig(every=-1, kinds=["math"]), "must be at least 1"),
        (ToggleConfig(every=5, kinds=["math"], estimate_steps=0), "must be at least 1"),
        (ToggleConfig(every=5, kinds=["math"], percentile=0), "above 0 and at most 100"),
        (ToggleConfig(every=5, kinds=["math"], min_score=1.1), "must be between 0 and 1"),
        (LengthRewardConfig(weight={"math": -1}), "budget.length.weight.math=-1 must be 0"),
        (LengthRewardConfig(warmup_steps=3), "warmup_steps=3 has no effect without"),
        (LengthRewardConfig(weight={"math": 1}, warmup_steps=-1), "must be 0 or more"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    config: ToggleConfig | LengthRewardConfig, message: str
):
    with pytest.raises(ConjointError, match=message):
        config.validate()
