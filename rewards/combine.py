"""Combinators: a plain check lifted to a group, and a reward whose failures are contained.

Both keep the contract of `rewards/base.py` whatever the parts do: one score a trajectory, values in
[0, 1], and anything our side broke is `infra_error` for exactly the trajectories it touched.
"""

import asyncio
import inspect

from conjoint.envs.types import Group, Outcome, Score, StopRun, Task
from conjoint.rewards.base import Check, RewardContext, RewardFn
from conjoint.rewards.killable import describe


def each(name: str, check: Check) -> RewardFn:
    """A reward that runs `check(task, response)`, plain or async, on every trajectory by itself.

    A check that raises, or that returns something that is not a score, masks its own trajectory
    only. Truncated answers are checked like the others: their penalty is the budget's business.
    """

    async def reward(group: Group, context: RewardContext) -> list[Score]:
        return list(
            await asyncio.gather(
                *(_checked(name, check, group.task, t.response) for t in group.trajectories)
            )
        )

    return reward


async def guarded(name: str, fn: RewardFn, group: Group, context: RewardContext) -> list[Score]:
    """The scores of `fn`, or `infra_error` for the whole group if it raises or miscounts.

    A stop rule (StopRun) is no failure of one group: it goes through.
    """
    try:
        scores = await fn(group, context)
    except StopRun:
        raise
    except Exception as error:
        return [Score.infra_error(name, f"the reward raised {describe(error)}")] * len(
            group.trajectories
        )
    if len(scores) != len(group.trajectories):
        reason = f"the reward gave {len(scores)} scores for {len(group.trajectories)} answers"
        return [Score.infra_error(name, reason)] * len(group.trajectories)
    return [_sound(name, score) for score in scores]


async def _checked(name: str, check: Check, task: Task, response: str) -> Score:
    try:
        result = check(task, response)
        score = await result if inspect.isawaitable(result) else result
    except StopRun:
        raise
    except Exception as error:
        return Score.infra_error(name, f"the check raised {describe(error)}")
    return _sound(name, score)


def _sound(name: str, score: object) -> Score:
    """The score itself if it keeps the contract, else an `infra_error` that says why not."""
    if not isinstance(score, Score):
        return Score.infra_error(name, f"the check returned {type(score).__name__}, not a Score")
    if score.value is None:
        if score.outcome in (Outcome.INFRA_ERROR, Outcome.ABSTAIN):
            return score
        return Score.infra_error(name, "the check returned a score without a value")
    number = isinstance(score.value, (int, float))
    if (
        score.outcome in (Outcome.INFRA_ERROR, Outcome.ABSTAIN)
        or not number
        or not 0.0 <= score.value <= 1.0
    ):
        reason = f"the check returned {score.value} as {score.outcome}, expected 0 to 1"
        return Score.infra_error(name, reason, *score.reasons)
    return score
