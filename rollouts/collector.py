"""Plays groups: K episodes for each task. The scheduler decides when a group is played."""

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
"""Task -> token budget, context and temperature of its answers."""


class Collector:
    """Runs episodes against a sampler. It knows no Ray, no vLLM and no reward."""

    def __init__(
        self,
        sampler: Sampler,
        renderer: Renderer,
        make_env: Callable[[Task], Env],
        seed: int,
        agents: Agents | None = None,
    ) -> None:
        """`seed` is the run's. `agents`, if given, play the tasks of their kinds instead of an
        environment of `make_env`."""
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
        """The `group_size` episodes of one group, not yet played.

        The seed of each derives from (run seed, task id, *place, sample index). A run can draw the
        same task several times; `place` must differ each time, or the answers would be the same.
        """
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
        """Play the episodes of one group concurrently; returns their trajectories in order.

        An episode starts at the beginning, or continues its trajectory in `begun` where that is not
        None. `ended` is called when an episode ends. An error of an environment or the engine makes
        its own trajectory FAILED. StopRun is raised to the caller.
        """
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
            # After an error or a cancellation; a task that has ended ignores it.
            for each in playing:
                each.cancel()

    async def _one(self, task: Task, episode: Episode, begun: Trajectory | None) -> Trajectory:
        # The answer ended before the checkpoint that stored it: nothing is left to play.
        if begun is not None and begun.status is not Status.RUNNING:
            return begun
        try:
            if self._agents is not None and self._agents.plays(task):
                return await episode.play_by(partial(self._agents.episode, task))
            return await episode.play(self._make_env(task), begun)
        except StopRun:
            raise
        except Exception as error:  # an environment's fault masks its own trajectory only
            # Its tokens are dropped; the message shows the error in the record of rollouts.
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
        """Play a group of `group_size` episodes for each task; yield each group when it ends.

        All groups start at once. `tasks_a_session` consecutive groups share a session, so their
        calls go to one engine. Seeds and sessions derive from `tag`: an equal tag repeats them.
        If the consumer stops early, the remaining groups are cancelled.
        """

        async def group(index: int, task: Task) -> Group:
            session = f"{tag}/{index // tasks_a_session}"
            episodes = self.episodes(task, group_size, limits(task), (tag, index), session)
            return Group(task, await self.play(task, episodes), index)

        ending = as_they_end(group(i, task) for i, task in enumerate(tasks))
        # Closed here and not by garbage collection: cancellation must happen before we return.
        async with aclosing(ending):
            async for ended in ending:
                yield ended


async def as_they_end(work: Iterable[Coroutine[Any, Any, T]]) -> AsyncGenerator[T]:
    """Run all coroutines concurrently and yield each result when it is ready.

    If the consumer stops early or a coroutine raises, the others are cancelled.
    """
    running = [asyncio.create_task(each) for each in work]
    try:
        for ended in asyncio.as_completed(running):
            yield await ended
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
