from statistics import stdev

import pytest

from conjoint.envs.types import ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.advantages import ESTIMATORS, AdvantageConfig, GroupRewards, assign_advantages


def group(rewards: list[float | None], index: int = 0) -> Group:
    members = [Trajectory(reward=r, status=Status.COMPLETED) for r in rewards]
    return Group(Task.make("math", f"task {index}"), members, index)


def parts_group(parts: dict[str, list[float]], index: int = 0) -> Group:
    """Members whose reward is the plain mean of their parts."""
    rows = list(zip(*parts.values(), strict=True))
    g = group([sum(row) / len(row) for row in rows], index)
    for t, row in zip(g.trajectories, rows, strict=True):
        t.reward_parts = dict(zip(parts, row, strict=True))
    return g


def estimate(name: str, *groups: list[float]) -> list[list[float]]:
    return ESTIMATORS[name]([GroupRewards(g, {"r": g}) for g in groups], {})


def advantages(g: Group) -> list[float | None]:
    return [t.advantage for t in g.trajectories]


def test_mean_baseline_is_reward_minus_mean() -> None:
    g = group([1.0, 0.0, 0.5, 0.5])
    assign_advantages([g], AdvantageConfig(), seed=0)
    assert advantages(g) == pytest.approx([0.5, -0.5, 0.0, 0.0])


def test_group_std_has_unit_sample_variance() -> None:
    (out,) = estimate("group_std", [1.0, 0.0, 0.0, 1.0])
    assert sum(a * a for a in out) / 3 == pytest.approx(1.0, abs=1e-5)


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    rewards = [1.0, 0.25, 0.0]
    (out,) = estimate("leave_one_out", rewards)
    assert out == pytest.approx([1 - 0.125, 0.25 - 0.5, 0 - 0.625])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_rewards_give_zero_advantage(name: str) -> None:
    assert estimate(name, [0.5, 0.5, 0.5]) == [pytest.approx([0, 0, 0])]
    mixed = estimate(name, [0.1, 0.1, 0.1], [1.0, 0.0])
    assert mixed[0] == pytest.approx([0, 0, 0], abs=1e-9) and mixed[1][0] > 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_batch_without_a_group_to_compare_has_no_advantage(name: str) -> None:
    g, empty = group([1.0, None]), group([])
    assign_advantages([g, empty], AdvantageConfig(estimator=name), seed=0)
    assert advantages(g) == [None, None]


def test_batch_std_keeps_the_size_of_groups_against_each_other() -> None:
    easy, even = [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]
    out = estimate("batch_std", easy, even)
    assert stdev(out[0] + out[1]) == pytest.approx(1, abs=1e-4)
    assert sum(out[0]) == pytest.approx(0) and sum(out[1]) == pytest.approx(0)
    # r - mean is 0.75 for the one failure in the easy group and 0.5 in the even one.
    assert out[0][3] / out[1][3] == pytest.approx(1.5)


def test_gdpo_tells_apart_answers_whose_parts_differ_and_sums_do_not() -> None:
    """The example of the paper: a rare reward counts for more than a common one."""
    parts = {"right": [1.0, 0.0, 0.0, 0.0], "short": [0.0, 1.0, 1.0, 0.0]}
    g = parts_group(parts)
    config = AdvantageConfig(estimator="gdpo")
    assign_advantages([g], config, seed=0)
    a = [x or 0.0 for x in advantages(g)]
    right = [(x - 0.25) / stdev(parts["right"]) for x in parts["right"]]
    short = [(x - 0.5) / stdev(parts["short"]) for x in parts["short"]]
    total = [x + y for x, y in zip(right, short, strict=True)]
    assert a == pytest.approx([x / stdev(total) for x in total], abs=1e-4)
    assert a[0] > a[1] == a[2] > a[3], "equal rewards: 1/2 for each of the first three"
    assign_advantages([g], config, seed=0, weights={"right": 0.0})
    assert advantages(g)[0] == pytest.approx(advantages(g)[3]), "a weight of 0 takes a part out"


def test_gdpo_scales_over_the_batch_and_leaves_masked_members_out() -> None:
    g = parts_group({"right": [1.0, 0.0, 1.0], "short": [0.0, 0.0, 1.0]})
    h = parts_group({"style": [0.2, 0.8]}, index=1)
    g.trajectories[2].status = Status.FAILED
    assign_advantages([g, h], AdvantageConfig(estimator="gdpo"), seed=0)
    first, second, failed = advantages(g)
    assert failed is None and first is not None and second is not None
    assert first == pytest.approx(-second) and first == pytest.approx(advantages(h)[1], abs=1e-4)
    values = [x for x in advantages(g) + advantages(h) if x is not None]
    assert stdev(values) == pytest.approx(1, abs=1e-4)


def test_gdpo_shuffles_the_parts_together_with_the_reward() -> None:
    parts = {"a": [i / 7 for i in range(8)], "b": [(i * i) / 49 for i in range(8)]}
    g = parts_group(parts)
    assign_advantages([g], AdvantageConfig(estimator="gdpo", shuffle_rewards=True), seed=1)
    used = [t.metrics["shuffled_reward"] for t in g.trajectories]
    assert used != sorted(used)
    by_reward = sorted(zip(used, advantages(g), strict=True))
    # Both parts grow with the reward, so the advantages must too, whoever got which.
    assert [a for _, a in by_reward] == sorted(a for _, a in by_reward if a is not None)


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


def test_gdpo_leaves_out_a_score_where_it_abstained() -> None:
    rewards = [1.0, 0.0, 1.0]
    whole = GroupRewards(rewards, {"a": [1.0, 0.0, 1.0]})
    part = GroupRewards(rewards, {"a": [1.0, 0.0, 1.0], "b": [None, 0.5, None]})
    assert ESTIMATORS["gdpo"]([part], {}) == ESTIMATORS["gdpo"]([whole], {})
    both = GroupRewards([0.5, 0.5, 1.0], {"a": [1.0, 0.0, 1.0], "b": [0.0, 1.0, None]})
    first, second, third = ESTIMATORS["gdpo"]([both], {"a": 0.0})[0]
    assert first == pytest.approx(-second) and third == 0
