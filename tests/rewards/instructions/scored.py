"""The instructions reward as tests ask it: one answer, and no judge."""

import asyncio

from conjoint.envs.types import Group, Message, Score, Task, Trajectory
from conjoint.rewards.base import RewardContext
from conjoint.rewards.instructions.reward import InstructionsConfig, instructions_reward
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.judge import Judge

STRICT = InstructionsConfig()


def scored(task: Task, response: str, config: InstructionsConfig = STRICT) -> Score:
    answer = Trajectory(messages=[Message(role="assistant", content=response)])
    reward = instructions_reward(Judge(JudgeConfig()), config)
    return asyncio.run(reward(Group(task, [answer]), RewardContext()))[0]
