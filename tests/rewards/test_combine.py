"""Combinators keep the reward contract whatever their parts do."""

import asyncio
from collections.abc import Sequence

import pytest

from conjoint.envs.types import (
    Group,
    Message,
    Outcome,
    Score,
    Status,
    StopRun,
    Task,
    Trajectory,
)
from conjoint.rewards.base import RewardContext
from conjoint.rewards.combine import each, guarded

TASK = Task.make("math", "2+2?", "4")


def group(*responses: str) -> Group:
    return Group(
        TASK,
        [Trajectory(messages=[Message(role="assistant", content=r)]) for r in responses],
    )


def run(reward, *responses: str) -> list[Score]:
    return asyncio.run(reward(group(*responses), RewardContext()))


def exact(task: Task, response: str) -> Score:
    return Score.of("exact", float(response == task.reference))


async def short(task: Task, response: str) -> Score:
    await asyncio.sleep(0)
    return Score.of("short", 1.0 if len(response) < 3 else 0.5)


def test_an_abstention_is_a_sound_score() -> None:
    silent = Score.abstain("x", "not mine")
    assert run(each("x", lambda task, response: silent), "4") == [silent]


def test_each_lifts_plain_and_async_checks_in_order() -> None:
    assert [s.value for s in run(each("exact", exact), "4", "5", "4")] == [1.0, 0.0, 1.0]
    assert [s.value for s in run(each("short", short), "4", "four")] == [1.0, 0.5]


def test_a_raising_check_masks_its_own_trajectory_only() -> None:
    def check(task: Task, response: str) -> Score:
        return Score.of("x", 1.0 / len(response))

    scores = run(each("x", check), "a", "", "b")
    assert [s.value for s in scores] == [1.0, None, 1.0]
    assert scores[1].outcome is Outcome.INFRA_ERROR
    assert "ZeroDivisionError" in scores[1].reasons[0]


@pytest.mark.parametrize(
    "result",
    [
        1.0,
        None,
        Score.of("x", float("nan")),
        Score.of("x", 1.5),
        Score.of("x", -0.1),
        Score("x", None, Outcome.FAIL),
        Score("x", 0.0, Outcome.INFRA_ERROR),
        Score("x", "1", Outcome.PASS),  # type: ignore[arg-type]
    ],
)
def test_nonsense_from_a_check_is_masked_and_never_zero(result: object) -> None:
    (score,) = run(each("x", lambda task, response: result), "a")  # type: ignore[arg-type]
    assert score.value is None and score.outcome is Outcome.INFRA_ERROR and score.reasons


def test_truncated_answers_are_checked_like_others() -> None:
    truncated = group("4")
    truncated.trajectories[0].status = Status.TRUNCATED
    (score,) = asyncio.run(each("exact", exact)(truncated, RewardContext()))
    assert score.value == 1.0


def test_cancelling_a_group_is_not_swallowed() -> None:
    async def slow(task: Task, response: str) -> Score:
        await asyncio.sleep(60)
        return Score.of("slow", 1.0)

    async def cancelled() -> None:
        await asyncio.wait_for(each("slow", slow)(group("a"), RewardContext()), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())


def test_a_reward_that_raises_or_miscounts_masks_the_group() -> None:
    async def raises(group: Group, context: RewardContext) -> Sequence[Score]:
        raise RuntimeError("down")

    async def miscounts(group: Group, context: RewardContext) -> Sequence[Score]:
        return [Score.of("m", 1.0)]

    for reward, says in ((raises, "down"), (miscounts, "1 scores for 2")):
        scores = asyncio.run(guarded("g", reward, group("a", "b"), RewardContext()))  # type: ignore
        assert [s.value for s in scores] == [None, None]
        assert says in scores[0].reasons[0]


def test_a_stop_rule_goes_through() -> None:
    async def stops(group: Group, context: RewardContext) -> Sequence[Score]:
        raise StopRun("too few graded")

    def check(task: Task, response: str) -> Score:
        raise StopRun("too few graded")

    for reward in (stops, each("x", check)):
        with pytest.raises(StopRun):
            asyncio.run(guarded("g", reward, group("a"), RewardContext()))  # type: ignore
