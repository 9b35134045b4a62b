"""Scores -> rewards under token budgets."""

import pytest

from rl.types import Group, Score, Status, Task, Trajectory
from rollouts.budget import BudgetConfig, assign_rewards

TASK = Task.make("math", "1+1")


def answer(status: Status, *scores: Score) -> Trajectory:
    return Trajectory(status=status, scores=list(scores))


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
