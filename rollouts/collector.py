"""Plays groups: K episodes a task. When which group is played is the scheduler's to say."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from conjoint.envs.base import Env
from conjoint.envs.types import Group, Sampler, Status, StopRun, Task, Trajectory, derive_seed
from conjoint.rollouts.episode import Episode, EpisodeLimits, Pace, unpaced
from conjoint.rollouts.gateway.play import Agents
from conjoint.rollouts.renderer import Renderer

T = TypeVar("T")
LimitsOf = Callable[[Task], EpisodeLimits]
"""Budget, context and temperature of a task."""


class Collector:
    """Runs episodes against a sampler. Knows no Ray, no vLLM and no reward."""

    def __init__(
        self,
        sampler: Sampler,
        renderer: Renderer,
        make_env: Callable[[Task], Env],
        seed: int,
        agents: Agents | None = None,
    ) -> None:
        """`agents` play the tasks of their kinds instead of an environment."""
        self._sampler = sampler
        self._renderer = renderer
        self._make_env = make_env
        self._seed = seed
        self._agents = agents

    def episodes(
        self,
        task: Task,
        group_size: int,
        limits: EpisodeLimits,
        place: Sequence[object],
        session: str,
        pace: Callable[[], Pace] = lambda: unpaced,
    ) -> list[Episode]:
        """The episodes of one group, not yet played. Seeds derive from (run seed, task id, place,
        sample): `place` is what tells this asking of the task from every other."""
        return [
            Episode(
                self._sampler,
                self._renderer,
                limits,
                derive_seed(self._seed, task.id, *place, k),
                session,
                pace(),
            )
            for k in range(group_size)
        ]

    async def play(
        self,
        task: Task,
        episodes: Sequence[Episode],
        begun: Sequence[Trajectory | None] = (),
        ended: Callable[[object], None] = lambda _: None,
    ) -> list[Trajectory]:
        """Play them side by side, each from its start or from where `begun` left it; `ended` is
        called for each. What an environment or the engine breaks is FAILED; a stop rule goes
        through."""
        firsts = begun or [None] * len(episodes)
        playing = [
            asyncio.create_task(self._one(task, *each))
            for each in zip(episodes, firsts, strict=True)
        ]
        for each in playing:
            each.add_done_callback(ended)
        try:
            return list(await asyncio.gather(*playing))
        finally:
            for each in playing:
                each.cancel()

    async def _one(self, task: Task, episode: Episode, begun: Trajectory | None) -> Trajectory:
        if begun is not None and begun.status is not Status.RUNNING:
            return begun
        try:
            if self._agents is not None and self._agents.plays(task):
                return await episode.play_by(partial(self._agents.episode, task))
            return await episode.play(self._make_env(task), begun)
        except StopRun:
            raise
        except Exception as error:  # an environment's fault masks its own trajectory only
            failed = Trajectory(temperature=episode.trajectory.temperature, status=Status.FAILED)
            failed.messages.append({"role": "assistant", "content": f"[{error!r}]"})
            return failed

    async def stream(
        self,
        tasks: Sequence[Task],
        group_size: int,
        limits: LimitsOf,
        tag: object,
        tasks_a_session: int = 1,
    ) -> AsyncIterator[Group]:
        """Start every group in task order, yield each as it ends. A session is one group unless
        `tasks_a_session` is higher. If the consumer stops early, what still runs is cancelled."""

        async def group(index: int, task: Task) -> Group:
            session = f"{tag}/{index // tasks_a_session}"
            episodes = self.episodes(task, group_size, limits(task), (tag, index), session)
            return Group(task, await self.play(task, episodes), index)

        ending = as_they_end(group(i, task) for i, task in enumerate(tasks))
        async with aclosing(ending):
            async for ended in ending:
                yield ended


async def as_they_end(work: Iterable[Coroutine[Any, Any, T]]) -> AsyncGenerator[T]:
    """Start all, yield each result as it is there. If the consumer stops or one raises, what still
    runs is cancelled."""
    running = [asyncio.create_task(each) for each in work]
    try:
        for ended in asyncio.as_completed(running):
            yield await ended
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
