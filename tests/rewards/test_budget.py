"""Scores -> rewards under token budgets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoint.envs.types import Completion, ConjointError, Group, Score, Status, Task, Trajectory
from conjoint.rewards.assign import assign_rewards, correct_lengths
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.lengths import LengthRewardConfig, ToggleConfig

TASK = Task.make("math", "1+1")


def answer(status: Status, *scores: Score, length: int = 0, budget: int = 64) -> Trajectory:
    t = Trajectory(status=status, scores=list(scores), budget=budget)
    t.extend_sampled(Completion([1] * length, [-1.0] * length, "stop", 0))
    return t


def scored(value: float, length: int, status: Status = Status.COMPLETED) -> Trajectory:
    return answer(status, Score.of("math", value), length=length)


def rewards(config: BudgetConfig, *trajectories: Trajectory, **weights: float):
    assign_rewards([Group(TASK, list(trajectories))], config, weights)
    return [t.reward for t in trajectories]


def test_a_truncated_answer_gets_the_penalty_even_if_it_scored():
    right = answer(Status.TRUNCATED, Score.of("math", 1.0))
    assert rewards(BudgetConfig(penalty=-0.5), right) == [-0.5]


def test_budgets_off_score_a_truncated_answer_like_any_other():
    right = answer(Status.TRUNCATED, Score.of("math", 1.0))
    assert rewards(BudgetConfig(enabled=False), right) == [1.0]


def test_infrastructure_failure_is_masked_and_never_zero():
    broken = answer(Status.COMPLETED, Score.infra_error("math", "worker died"))
    half = answer(Status.COMPLETED, Score.of("math", 1.0), Score.infra_error("style", "down"))
    failed = answer(Status.FAILED, Score.of("math", 1.0))
    cut = answer(Status.TRUNCATED, Score.infra_error("math", "worker died"))
    assert rewards(BudgetConfig(), broken, half, failed, cut) == [None] * 4


def test_an_unscored_answer_has_no_reward():
    assert rewards(BudgetConfig(), answer(Status.COMPLETED)) == [None]


def test_a_reward_that_abstains_leaves_the_answer_to_the_others():
    silent = Score.abstain("style", "nothing to say")
    graded = answer(Status.COMPLETED, Score.of("math", 1.0), silent)
    cut = answer(Status.TRUNCATED, Score.of("math", 1.0), silent)
    nobody = answer(Status.COMPLETED, silent)
    broken = answer(Status.COMPLETED, Score.infra_error("math", "died"), silent)
    weightless = answer(Status.COMPLETED, Score.of("math", 1.0), silent)
    assert rewards(BudgetConfig(penalty=-0.5), graded, cut, nobody, broken) == [1, -0.5, None, None]
    assert (graded.reward_parts, cut.reward_parts) == ({"math": 1.0}, {"math": -0.5})
    assert graded.checks == [Score.of("math", 1.0)]
    assert rewards(BudgetConfig(), weightless, math=0.0) == [None]


def test_weights_make_a_mean():
    both = answer(Status.COMPLETED, Score.of("math", 1.0), Score.of("style", 0.0))
    assert rewards(BudgetConfig(), both, math=3.0) == [0.75]


@pytest.mark.parametrize(
    ("config", "cap"),
    [
        (BudgetConfig(tokens={"math": 12}), 12),
        (BudgetConfig(default=20), 20),
        (BudgetConfig(default=900), 64),
        (BudgetConfig(enabled=False, tokens={"math": 12}), 64),
    ],
)
def test_the_cap_of_a_kind(config: BudgetConfig, cap: int):
    assert config.of("math", 64) == cap


def test_the_soft_share_takes_from_an_answer_in_a_line_up_to_the_penalty():
    config = BudgetConfig(tokens={"math": 20}, penalty=-0.5, soft_share=0.25)

    def reward(length: int, status: Status = Status.COMPLETED) -> float:
        scores = Score.of("math", 1.0), Score.of("style", 0.0)
        t = answer(status, *scores, length=length, budget=20)
        (value,) = rewards(config, t)
        parts = t.reward_parts
        assert parts["math"] - parts["style"] == (0 if status is Status.TRUNCATED else 1)
        assert value == pytest.approx((parts["math"] + parts["style"]) / 2)
        return value

    assert reward(1) == reward(15) == 0.5
    assert [reward(n) for n in (16, 18, 20)] == pytest.approx([0.4, 0.2, 0.0])
    assert reward(20, Status.TRUNCATED) == -0.5


def test_the_soft_share_is_of_the_budget_that_the_answer_had():
    """Its kind's budget may have moved since it began."""
    config = BudgetConfig(default=900, penalty=-1.0, soft_share=0.2)
    assert rewards(config, scored(1.0, 64)) == [0.0]


# A schedule.

SHRINKING = BudgetConfig(
    schedule="linear", default=60, tokens={"math": 40}, end_default=20, end_tokens={"code": 30}
)


def test_a_schedule_moves_each_kind_from_its_start_to_its_end():
    def at(kind: str, cap: int = 64) -> list[int]:
        return [SHRINKING.of(kind, cap, x) for x in (0.0, 0.5, 1.0)]

    assert at("math") == [40, 30, 20] and at("code") == [60, 45, 30] and at("open") == [60, 40, 20]
    assert at("open", cap=50) == [50, 40, 20] and SHRINKING.largest("open", 50) == 50
    one = BudgetConfig(schedule="cosine", default=40, end_tokens={"math": 80})
    assert [one.of("math", 99, x) for x in (0.0, 0.25, 1.0)] == [40, 46, 80]
    assert one.of("code", 99, 1.0) == 40 and one.largest("math", 99) == 80


@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(1, 40_000),
    st.integers(1, 40_000),
    st.integers(2, 60),
)
def test_a_scheduled_budget_never_turns_back(shape: str, start: int, end: int, steps: int):
    config = BudgetConfig(schedule=shape, default=start, end_default=end)
    budgets = [config.of("math", 10**6, step / (steps - 1)) for step in range(steps)]
    assert (budgets[0], budgets[-1]) == (start, end)
    assert budgets == sorted(budgets, reverse=end < start)


# Toggle.

TOGGLE = BudgetConfig(toggle=ToggleConfig(every=2, kinds=["math"], min_score=0.5))


def toggled(config: BudgetConfig, *trajectories: Trajectory, limits: dict[str, int]):
    assign_rewards([Group(TASK, list(trajectories))], config, {}, 0, limits)
    return [t.reward for t in trajectories]


def test_above_the_limit_a_score_is_not_paid_once_the_group_is_good_enough():
    good = [scored(1.0, 10), scored(1.0, 11), scored(0.0, 30), scored(0.0, 5)]
    assert toggled(TOGGLE, *good, limits={"math": 10}) == [1.0, 0.0, 0.0, 0.0]
    assert [t.metrics["above_limit"] for t in good] == [0, 1, 1, 0]
    weak = [scored(1.0, 11), scored(0.0, 30), scored(0.0, 5)]
    assert toggled(TOGGLE, *weak, limits={"math": 10}) == [1.0, 0.0, 0.0]
    assert toggled(TOGGLE, *good, limits={"code": 1}) == [1.0, 1.0, 0.0, 0.0]


def test_rewards_can_be_assigned_again_under_other_rules():
    """A group is looked at when it is scored, and again in the step that trains it."""
    long = scored(1.0, 11)
    assert toggled(TOGGLE, long, limits={"math": 10}) == [0.0]
    assert toggled(TOGGLE, long, limits={}) == [1.0] and long.metrics == {}


def test_the_mean_of_a_group_counts_what_was_cut_off_and_not_what_was_masked():
    cut = scored(1.0, 64, Status.TRUNCATED)
    broken = answer(Status.COMPLETED, Score.infra_error("math"), length=9)
    assert toggled(TOGGLE, scored(1.0, 11), cut, broken, limits={"math": 10}) == [0.0, -0.5, None]
    assert toggled(TOGGLE, scored(1.0, 11), cut, cut, limits={"math": 10}) == [1.0, -0.5, -0.5]


def test_a_penalty_is_not_mended_by_the_limit():
    """Zero is more than the penalty: what is cut off must not gain by being long as well."""
    config = BudgetConfig(soft_share=0.5, toggle=TOGGLE.toggle)
    late = scored(1.0, 64)
    cut = scored(1.0, 64, Status.TRUNCATED)
    assert toggled(config, scored(1.0, 5), late, cut, limits={"math": 10}) == [1.0, -0.5, -0.5]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 64)), min_size=2))
def test_without_limits_toggle_changes_nothing(made: list[tuple[float, int]]):
    answers = [scored(*one) for one in made]
    assert toggled(TOGGLE, *answers, limits={}) == rewards(BudgetConfig(), *answers)


def test_correct_answers_are_those_that_every_check_paid():
    half = answer(Status.COMPLETED, Score.of("math", 1.0), Score.of("style", 0.5), length=4)
    cut, failed = scored(1.0, 64, Status.TRUNCATED), scored(1.0, 6, Status.FAILED)
    broken = answer(Status.COMPLETED, Score.infra_error("math"), length=5)
    group = Group(TASK, [half, cut, failed, broken, scored(1.0, 7), scored(0.0, 8)])
    assert correct_lengths([group], BudgetConfig(), {}) == {"math": [7]}
    assert correct_lengths([group], BudgetConfig(enabled=False), {}) == {"math": [64, 7]}


# The length reward.

LENGTH = BudgetConfig(length=LengthRewardConfig(weight={"math": 0.4}, warmup_steps=3))


def at_step(step: int, *trajectories: Trajectory, kind: str = "math") -> list[float | None]:
    assign_rewards([Group(Task.make(kind, "1+1"), list(trajectories))], LENGTH, {}, step)
    return [t.reward for t in trajectories]


def test_the_length_reward_is_added_with_its_weight_after_the_warm_up():
    def answers() -> list[Trajectory]:
        return [scored(1.0, 10), scored(1.0, 20), scored(0.0, 10), scored(0.0, 30)]

    assert at_step(2, *answers()) == [1.0, 1.0, 0.0, 0.0]
    made = answers()
    assert at_step(3, *made) == pytest.approx([1.2, 1.0, 0.0, -0.2])
    assert [t.metrics["length_reward"] for t in made] == pytest.approx([0.2, 0, 0, -0.2])
    assert at_step(3, *answers(), kind="code") == [1.0, 1.0, 0.0, 0.0]


def test_what_was_cut_off_is_as_long_as_it_was_and_gets_its_penalty_alone():
    cut = scored(1.0, 64, Status.TRUNCATED)
    masked = answer(Status.COMPLETED, Score.infra_error("math"), length=400)
    assert at_step(3, scored(1.0, 10), scored(1.0, 64), cut, masked) == pytest.approx(
        [1.2, 0.8, -0.5, None]
    )


def test_an_answer_above_the_limit_is_no_correct_one_for_the_length_reward():
    config = BudgetConfig(toggle=TOGGLE.toggle, length=LengthRewardConfig(weight={"math": 1.0}))
    made = [scored(1.0, 12), scored(1.0, 11), scored(1.0, 13)]
    assert toggled(config, *made, limits={"math": 11}) == [0.0, 1.5, -0.5]


def test_parts_stay_the_weighted_mean_of_the_reward():
    t = answer(Status.COMPLETED, Score.of("math", 1.0), Score.of("style", 0.0), length=8)
    long = answer(Status.COMPLETED, Score.of("math", 1.0), Score.of("style", 1.0), length=60)
    config = BudgetConfig(
        soft_share=0.5, toggle=TOGGLE.toggle, length=LengthRewardConfig(weight={"math": 0.3})
    )
    for limits in ({}, {"math": 20}):
        for member, value in zip((t, long), toggled(config, t, long, limits=limits), strict=True):
            assert value is not None
            assert math.isclose(value, sum(member.reward_parts.values()) / 2)


def test_a_soft_share_that_does_nothing_is_refused():
    with pytest.raises(ConjointError, match=r"budget\.soft_share=0\.2 has no effect"):
        BudgetConfig(enabled=False, soft_share=0.2).validate()
    with pytest.raises(ConjointError, match="between 0 and 1"):
        BudgetConfig(soft_share=1.5).validate()
