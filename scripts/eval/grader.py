"""K answers to each of many tasks, scored while others are still being sampled."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from conjoint.envs.confidence import asking
from conjoint.envs.types import (
    ConjointError,
    Group,
    Message,
    Status,
    StopRun,
    Task,
    Trajectory,
    derive_seed,
)
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.killable import describe
from conjoint.rewards.registry import (
    REWARDS,
    OwnRewards,
    Parts,
    RewardConfig,
    default_kinds,
    reward_table,
)
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rewards.sandbox.backend import make_sandbox, unfit
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rewards.scoring import Scorer
from conjoint.rl.critic.context import check_judge, judge_endpoint
from conjoint.rollouts.chat import ChatPolicy
from conjoint.rollouts.collector import as_they_end

TOO_LONG = "too_long"
"""Metric of a trajectory whose prompt left no room for an answer."""


@dataclass(frozen=True, slots=True)
class Sampling:
    k: int
    max_tokens: int
    temperature: float
    seed: int
    concurrency: int
    """Answers in flight; a group is never split, so at least one group is."""
    confidence: bool = False
    """Ask for one."""


class GradingConfig(Protocol):
    """What a grader needs of a command's config."""

    @property
    def sandbox(self) -> SandboxConfig: ...
    @property
    def seed(self) -> int: ...


class Grader:
    """The rewards of training for some task kinds, or those that `reward` and `own` name.

    Starts a sandbox only if a kind runs programs, and asks a judge only if `judge` names one.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        cfg: GradingConfig,
        reward: RewardConfig | None = None,
        judge: JudgeConfig | None = None,
        own: OwnRewards | None = None,
        *,
        confidence: bool = False,
    ) -> None:
        reward = reward or RewardConfig(kinds={kind: default_kinds()[kind] for kind in kinds})
        judge = judge or JudgeConfig()
        self._config = cfg.sandbox
        self._sandbox = make_sandbox(cfg.sandbox)
        self._runs_programs = any(
            name in REWARDS and REWARDS[name].fits_sandbox
            for kind in kinds
            for name in reward.kinds[kind]
        )
        self._endpoint = judge_endpoint(judge)
        self._own = own or OwnRewards({})
        judged = any("rubric" in names for names in reward.kinds.values())
        rubrics = load_rubrics(reward.rubrics) if judged else []
        parts = Parts(reward, self._sandbox, Judge(judge), rubrics, cfg.sandbox.isolation)
        table = reward_table(parts, self._own)
        context = RewardContext(seed=cfg.seed, judge=self._endpoint)
        self._scorer = Scorer(table, context, kinds if confidence else ())

    def check(self, tasks: Iterable[Task]) -> None:
        """Raises ConjointError for a program task that the chosen sandbox cannot grade."""
        for task in tasks:
            if task.kind == "code" and (why := unfit(self._config, task.reference)):
                raise ConjointError(f"task {task.id}: {why}")

    async def start(self) -> None:
        """Raises SandboxError where programs cannot be run safely, ConjointError where the
        judge cannot be reached."""
        if self._endpoint is not None:
            await check_judge(self._endpoint)
        if self._runs_programs:
            await self._sandbox.start()

    async def score(self, group: Group, seed: int = 0) -> Group:
        return await self._scorer.score(group, seed)

    async def close(self) -> None:
        await self._sandbox.close()
        await self._own.close()
        if self._endpoint is not None:
            await self._endpoint.close()


async def scored_groups(
    policy: ChatPolicy, grader: Grader, tasks: Sequence[Task], sampling: Sampling, tag: str
) -> AsyncIterator[Group]:
    """Each task's group as it is scored. Seeds derive from (seed, tag, task id, sample), so an
    answer does not change with the other tasks. If the consumer stops, what runs is cancelled."""
    gate = asyncio.Semaphore(max(1, sampling.concurrency // sampling.k))

    async def finished(index: int, task: Task) -> Group:
        async with gate:
            answers = (_answer(policy, task, sampling, k, tag) for k in range(sampling.k))
            group = Group(task, list(await asyncio.gather(*answers)), index)
        return await grader.score(group)

    ending = as_they_end(finished(i, task) for i, task in enumerate(tasks))
    async with aclosing(ending):
        async for group in ending:
            yield group


async def _answer(
    policy: ChatPolicy, task: Task, sampling: Sampling, k: int, tag: str
) -> Trajectory:
    """One answer as a trajectory without tokens: its number of tokens is a metric. What breaks is
    our machinery's and FAILED; a stop rule goes through."""
    prompt = asking(task.messages) if sampling.confidence else list(task.messages)
    trajectory = Trajectory(temperature=sampling.temperature, messages=prompt)
    try:
        answer = await policy.chat(
            tuple(prompt),
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=derive_seed(sampling.seed, tag, task.id, k),
            session=f"{tag}/{task.id}",
        )
    except StopRun:
        raise
    except Exception as error:
        trajectory.status = Status.FAILED
        trajectory.messages.append(Message(role="assistant", content=f"[{describe(error)}]"))
        return trajectory
    ended = answer.stop_reason == "stop"
    trajectory.status = Status.COMPLETED if ended else Status.TRUNCATED
    trajectory.metrics["tokens"] = float(answer.tokens)
    trajectory.metrics["prompt_tokens"] = float(answer.prompt_tokens)
    if answer.stop_reason == "too_long":
        trajectory.metrics[TOO_LONG] = 1.0
    trajectory.messages.append(Message(role="assistant", content=answer.text))
    return trajectory
