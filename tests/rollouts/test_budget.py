"""Scores -> rewards under token budgets."""

import pytest

from rl.types import Completion, ConjointError, Group, Score, Status, Task, Trajectory
from rollouts.budget import BudgetConfig, assign_rewards

TASK = Task.make("math", "1+1")


def answer(status: Status, *scores: Score) -> Trajectory:
    return Trajectory(status=status, scores=list(scores))


def rewards(config: BudgetConfig, *trajectories: Trajectory, **weights: float):
    assign_rewards([Group(TASK, list(trajectories))], config, weights, max_tokens=64)
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
        t = answer(status, Score.of("math", 1.0), Score.of("style", 0.0))
        t.extend_sampled(Completion([1] * length, [-1.0] * length, "stop", 0))
        (value,) = rewards(config, t)
        parts = t.reward_parts
        assert parts["math"] - parts["style"] == (0 if status is Status.TRUNCATED else 1)
        assert value == pytest.approx((parts["math"] + parts["style"]) / 2)
        return value

    assert reward(1) == reward(15) == 0.5
    assert [reward(n) for n in (16, 18, 20)] == pytest.approx([0.4, 0.2, 0.0])
    assert reward(20, Status.TRUNCATED) == -0.5


def test_a_cap_below_the_budget_moves_the_soft_share_with_it():
    t = answer(Status.COMPLETED, Score.of("math", 1.0))
    t.extend_sampled(Completion([1] * 64, [-1.0] * 64, "stop", 0))
    assert rewards(BudgetConfig(default=900, penalty=-1.0, soft_share=0.2), t) == [0.0]


def test_a_soft_share_that_does_nothing_is_refused():
    with pytest.raises(ConjointError, match=r"budget\.soft_share=0\.2 has no effect"):
        BudgetConfig(enabled=False, soft_share=0.2).validate()
    with pytest.raises(ConjointError, match="between 0 and 1"):
        BudgetConfig(soft_share=1.5).validate()
