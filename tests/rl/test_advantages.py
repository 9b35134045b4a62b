import pytest

from rl.advantages import ESTIMATORS, AdvantageConfig, assign_advantages
from rl.types import ConjointError, Group, Status, Task, Trajectory


def group(rewards: list[float | None], index: int = 0) -> Group:
    members = [Trajectory(reward=r, status=Status.COMPLETED) for r in rewards]
    return Group(Task.make("math", f"task {index}"), members, index)


def advantages(g: Group) -> list[float | None]:
    return [t.advantage for t in g.trajectories]


def test_mean_baseline_is_reward_minus_mean() -> None:
    g = group([1.0, 0.0, 0.5, 0.5])
    assign_advantages([g], AdvantageConfig(), seed=0)
    assert advantages(g) == pytest.approx([0.5, -0.5, 0.0, 0.0])


def test_group_std_has_unit_sample_variance() -> None:
    out = ESTIMATORS["group_std"]([1.0, 0.0, 0.0, 1.0])
    assert sum(a * a for a in out) / 3 == pytest.approx(1.0, abs=1e-5)


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    rewards = [1.0, 0.25, 0.0]
    out = ESTIMATORS["leave_one_out"](rewards)
    assert out == pytest.approx([1 - 0.125, 0.25 - 0.5, 0 - 0.625])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_rewards_give_zero_advantage(name: str) -> None:
    assert ESTIMATORS[name]([0.5, 0.5, 0.5]) == pytest.approx([0, 0, 0])


def test_scale_is_a_factor_on_one_kind_only() -> None:
    g, h = group([1.0, 0.0]), group([1.0, 0.0], 1)
    h.task = Task.make("critic", "which is correct?")
    assign_advantages([g, h], AdvantageConfig(scale={"critic": 0.25}), seed=0)
    assert advantages(g) == [0.5, -0.5] and advantages(h) == [0.125, -0.125]
    with pytest.raises(ConjointError, match=r"advantage\.scale\.critic"):
        AdvantageConfig(scale={"critic": -1.0}).validate()


def test_masked_member_gets_none_and_does_not_move_the_mean() -> None:
    g = group([1.0, None, 0.0])
    assign_advantages([g], AdvantageConfig(), seed=0)
    assert advantages(g) == [0.5, None, -0.5]


def test_failed_member_is_left_out_even_with_a_reward() -> None:
    g = group([1.0, 0.0, 0.0])
    g.trajectories[2].status = Status.FAILED
    assign_advantages([g], AdvantageConfig(), seed=0)
    assert advantages(g) == [0.5, -0.5, None]


def test_group_with_one_graded_member_gets_no_advantage() -> None:
    g = group([1.0, None, None])
    g.trajectories[0].advantage = 3.0
    metrics = assign_advantages([g], AdvantageConfig(), seed=0)
    assert advantages(g) == [None, None, None]
    assert metrics["advantage/groups_without"] == 1.0
    assert metrics["advantage/graded_share"] == pytest.approx(1 / 3)


def test_shuffled_rewards_permute_inside_the_group_only_and_are_recorded() -> None:
    rewards: list[float | None] = [i / 16 for i in range(16)]
    g = group(rewards)
    metrics = assign_advantages([g], AdvantageConfig(shuffle_rewards=True), seed=1)
    used = [t.metrics["shuffled_reward"] for t in g.trajectories]
    assert used != rewards
    assert sorted(used) == rewards
    assert [t.reward for t in g.trajectories] == rewards, "the report shows the true reward"
    assert advantages(g) == pytest.approx([u - 7.5 / 16 for u in used])
    assert metrics["advantage/shuffled"] == 1.0


def test_shuffle_depends_on_seed_and_group_and_repeats() -> None:
    def run(seed: int, index: int) -> list[float | None]:
        g = group([i / 16 for i in range(16)], index)
        assign_advantages([g], AdvantageConfig(shuffle_rewards=True), seed)
        return advantages(g)

    assert run(1, 0) == run(1, 0)
    assert run(1, 0) != run(2, 0)
    assert run(1, 0) != run(1, 1)


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(ConjointError, match="leave_one_out"):
        AdvantageConfig(estimator="median").validate()
