"""Groups in flight: K episodes a task, handed out as each group ends.

Synchronous for now (every group of a step ends within it): `pause` waits until nothing runs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from envs.base import Env
from rl.types import Group, Sampler, Status, StopRun, Task, Trajectory, derive_seed
from rollouts.episode import EpisodeLimits, run_episode
from rollouts.renderer import Renderer

LimitsOf = Callable[[Task], EpisodeLimits]
"""Budget, context and temperature of a task."""


class Collector:
    """Runs episodes against a sampler. Knows no Ray, no vLLM and no reward."""

    def __init__(
        self, sampler: Sampler, renderer: Renderer, make_env: Callable[[Task], Env], seed: int
    ) -> None:
        self._sampler = sampler
        self._renderer = renderer
        self._make_env = make_env
        self._seed = seed

    async def stream(
        self,
        tasks: Sequence[Task],
        group_size: int,
        limits: LimitsOf,
        tag: object,
        tasks_a_session: int = 1,
    ) -> AsyncIterator[Group]:
        """Start every group in task order, yield each as it ends.

        Seeds derive from (run seed, tag, task id, index, sample), so a step can be replayed. A
        session is one group unless `tasks_a_session` is higher. If the consumer stops early, what
        still runs is cancelled.
        """
        running = [
            asyncio.create_task(
                self._group(task, i, group_size, limits(task), tag, f"{tag}/{i // tasks_a_session}")
            )
            for i, task in enumerate(tasks)
        ]
        try:
            for ended in asyncio.as_completed(running):
                yield await ended
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _group(
        self,
        task: Task,
        index: int,
        group_size: int,
        limits: EpisodeLimits,
        tag: object,
        session: str,
    ) -> Group:
        episodes = (
            self._episode(task, limits, derive_seed(self._seed, tag, task.id, index, k), session)
            for k in range(group_size)
        )
        return Group(task, list(await asyncio.gather(*episodes)), index)

    async def _episode(
        self, task: Task, limits: EpisodeLimits, seed: int, session: str
    ) -> Trajectory:
        try:
            return await run_episode(
                self._make_env(task), self._sampler, self._renderer, limits, seed, session
            )
        except StopRun:
            raise
        except Exception as error:  # an environment's fault masks its own trajectory only
            failed = Trajectory(temperature=limits.temperature, status=Status.FAILED)
            failed.messages.append({"role": "assistant", "content": f"[{error!r}]"})
            return failed
