"""One episode of an agent that speaks OpenAI's API: it plays through the gateway, its end ends the
episode, and the result is a trajectory like any other."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from conjoint.envs.agent import Agent, AgentError
from conjoint.envs.types import Status, Task, Trajectory
from conjoint.rollouts.episode import EpisodeLimits, Pace, unpaced
from conjoint.rollouts.gateway.session import Session

if TYPE_CHECKING:
    from conjoint.rollouts.gateway.server import Gateway


_GRACE_S = 5.0
"""Seconds that an agent has to end once it is cancelled."""


@dataclass(slots=True)
class Agents:
    """Agents by task kind, and the gateway that they play through."""

    gateway: "Gateway"
    by_kind: Mapping[str, Agent]
    _gates: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    def plays(self, task: Task) -> bool:
        """Whether an agent plays this task."""
        return task.kind in self.by_kind

    async def episode(
        self,
        task: Task,
        limits: EpisodeLimits,
        seed: int,
        session: str,
        pace: Pace = unpaced,
    ) -> Trajectory:
        """`play_agent`, once one of the kind's places is free."""
        agent = self.by_kind[task.kind]
        gate = self._gates.setdefault(task.kind, asyncio.Semaphore(agent.concurrency))
        async with gate:
            return await play_agent(agent, self.gateway, task, limits, seed, session, pace)


async def play_agent(
    agent: Agent,
    gateway: "Gateway",
    task: Task,
    limits: EpisodeLimits,
    seed: int,
    session: str,
    pace: Pace = unpaced,
) -> Trajectory:
    """Play one episode. The trajectory ends COMPLETED, or TRUNCATED when budget, context or turns
    ran out before the agent ended; whatever breaks the agent or the engine is raised, for the
    caller to mask. The agent sees of the task its id, kind, messages and `agent.columns`."""
    clock = _Clock(agent.deadline_s)
    with gateway.open(limits, seed, session, pace, clock.standing) as (url, opened):
        problem: Exception | None = None
        try:
            async with asyncio.timeout(agent.deadline_s) as clock.timeout:
                await _until_failed(agent, url, _shown(agent, task), opened)
        except TimeoutError:
            problem = AgentError(
                f"the agent of {task.kind} took more than its {agent.deadline_s:g} s"
            )
        except Exception as error:
            problem = error
        finally:
            clock.timeout = None
        if opened.failed.done():
            raise opened.failed.result()
        trajectory = opened.trajectory()
        # A limit of ours made it stumble: that is how the episode ended.
        if problem is not None and trajectory.status is not Status.TRUNCATED:
            raise problem
        if not opened.asked:
            raise AgentError(f"the agent of {task.kind} ended without asking the policy anything")
        return trajectory


def _shown(agent: Agent, task: Task) -> Task:
    """The task without its reference and without columns that are not the agent's."""
    meta = {name: task.meta[name] for name in agent.columns if name in task.meta}
    return replace(task, reference=None, meta=meta)


async def _until_failed(agent: Agent, url: str, task: Task, session: Session) -> None:
    """Run the agent; end it at once when the engine breaks under it."""
    running = asyncio.ensure_future(agent(url, task))
    try:
        await asyncio.wait({running, session.failed}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    finally:
        if not running.done():
            running.cancel()
            # One that will not be cancelled is left behind: its session is over.
            await asyncio.wait({running}, timeout=_GRACE_S)
        if running.done() and not running.cancelled():
            running.exception()  # seen


class _Clock:
    """An agent's own time: it stands while the agent waits for the policy."""

    def __init__(self, seconds: float) -> None:
        self.timeout: asyncio.Timeout | None = None
        self._left = seconds
        self._waiting = 0

    @contextmanager
    def standing(self) -> Iterator[None]:
        if self._waiting == 0:
            self._stop()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._start()

    def _stop(self) -> None:
        timeout = self.timeout
        if timeout is not None and not timeout.expired() and (when := timeout.when()) is not None:
            self._left = when - asyncio.get_running_loop().time()
            timeout.reschedule(None)

    def _start(self) -> None:
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time() + self._left)
