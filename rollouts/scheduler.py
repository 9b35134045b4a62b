"""Decides when each group is sampled, from synchronous to asynchronous training.

The groups of step w form *wave* w, which is trained as a whole at step w. Wave w may start as soon
as the weights have version w - max_staleness: the capacity rule of AReaL (arXiv 2505.24298),
counted in waves. It has two effects. No token of a batch is older than `max_staleness` versions.
And the length of an answer cannot decide whether or when it is trained: no wave overtakes another.

With max_staleness=0 (synchronous) a wave starts when the loop asks for it. With a higher number,
later waves keep the engines busy while the due wave waits for its longest answers, while the
learner trains, and during weight updates.

The scheduler uses asyncio alone: no Ray, no vLLM and no clock, so that a simulation can drive it.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.mixture import plain_task, restored_task
from conjoint.envs.types import Group, Status, Task, Trajectory
from conjoint.rollouts.collector import Collector, LimitsOf
from conjoint.rollouts.engine.base import RolloutConfig, RolloutEngine
from conjoint.rollouts.episode import Episode
from conjoint.rollouts.pacing import Places, Shares


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks from the scheduler into the rest of a run."""

    draw: Callable[[int], list[Task]]
    """Number of tasks -> the next tasks of the mixture."""
    limits: LimitsOf
    """Task -> token budget, context and temperature of its answers."""
    score: Callable[[Group, int], Awaitable[Group]]
    """(group, number of its wave) -> the group with its scores."""
    flat: Callable[[Group], bool]
    """Whether all rewards of a scored group are equal, so that it teaches nothing."""


@dataclass(slots=True)
class _Slot:
    """One place of a wave and its task. A flat group loses its place to a new task."""

    index: int
    """Place in the wave; becomes `Group.index`."""
    task: Task
    attempt: int = 0
    """0-based number of the task in this place: how often it was replaced."""
    begun: Sequence[Trajectory | None] = ()
    """Trajectories that the checkpoint of a resumed run stored; None for an answer to restart."""
    episodes: list[Episode] = field(default_factory=list)
    group: Group | None = None
    """The scored group; None until it is scored, or if it was cut off."""

    @property
    def trajectories(self) -> Sequence[Trajectory | None]:
        """The trajectories as far as they are sampled."""
        if self.group is not None:
            return self.group.trajectories
        return [e.trajectory for e in self.episodes] or self.begun


@dataclass(slots=True)
class _Wave:
    """The groups of one step."""

    slots: list[_Slot]
    task: asyncio.Task[list[Group]] | None = None
    """Plays the wave; None before it starts."""
    unsampled: int = 0
    """Groups that still lack answers, before the wave has enough."""
    sampled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once enough groups have all their answers, scored or not."""


class Scheduler:
    """Starts waves, returns each when it is due, and stores unfinished waves in a checkpoint.

    The loop calls `sampled` and then `batch` in each step, and `advance` after each weight sync.
    """

    def __init__(
        self, cfg: RolloutConfig, engine: RolloutEngine, collector: Collector, hooks: Hooks
    ) -> None:
        self._cfg = cfg
        self._engine = engine
        self._collector = collector
        self._hooks = hooks
        self._waves: dict[int, _Wave] = {}
        self._places = Places(lambda: engine.capacity)
        self._shares = Shares(cfg.segment_tokens)
        self._counts = {"rollout/replaced": 0, "rollout/cut": 0}

    async def sampled(self, step: int, num_steps: int) -> None:
        """Start every wave that may run under version `step`, and wait for the answers of `step`.

        A cancelled caller leaves the waves running. An error inside the wave is raised by `batch`.
        """
        for number in range(step, min(step + self._cfg.max_staleness + 1, num_steps)):
            wave = self._waves.get(number) or self._draw(number)
            if wave.task is None:
                wave.task = asyncio.create_task(self._play_wave(number, wave))
        self._shares.free(step)
        due = self._waves[step]
        assert due.task is not None
        there = asyncio.create_task(due.sampled.wait())
        try:
            # A wave that fails never sets `sampled`, so its task is waited for as well.
            await asyncio.wait((due.task, there), return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()

    async def batch(self, step: int) -> list[Group]:
        """The scored groups of wave `step`, in the order of their index. Call `sampled` first."""
        task = self._waves[step].task
        assert task is not None
        # A cancelled caller must not cancel the wave: a checkpoint still stores its answers.
        groups = await asyncio.shield(task)
        del self._waves[step]
        return groups

    def advance(self, version: int) -> None:
        """Tell that the engines have weights of `version`: each answer gets a new token share."""
        self._shares.renew(version)

    def _draw(self, number: int) -> _Wave:
        groups = self._cfg.groups_per_step
        count = groups + round(self._cfg.oversample * groups)
        # The JSON round trip is made here already, so that a resumed run has exactly these tasks.
        tasks = [restored_task(plain_task(task)) for task in self._hooks.draw(count)]
        wave = self._waves[number] = _Wave([_Slot(i, task) for i, task in enumerate(tasks)])
        return wave

    async def _play_wave(self, number: int, wave: _Wave) -> list[Group]:
        """Play all groups, then replace flat ones for up to `replace_flat` rounds."""
        begun = max((slot.attempt for slot in wave.slots), default=0)
        await self._play_slots(number, wave, wave.slots)
        # A resumed wave may have used some of its rounds already.
        for _ in range(begun, self._cfg.replace_flat):
            # All flat groups of a round are replaced together, in the order of their index: the
            # tasks drawn must not depend on which group ends first.
            flat = [s for s in wave.slots if s.group is not None and self._hooks.flat(s.group)]
            if not flat:
                break
            for slot, task in zip(flat, self._hooks.draw(len(flat)), strict=True):
                slot.task, slot.attempt = restored_task(plain_task(task)), slot.attempt + 1
                slot.group, slot.begun, slot.episodes = None, (), []
            self._counts["rollout/replaced"] += len(flat)
            await self._play_slots(number, wave, flat)
        return [slot.group for slot in wave.slots if slot.group is not None]

    async def _play_slots(self, number: int, wave: _Wave, slots: list[_Slot]) -> None:
        """Play `slots` until enough groups are scored, and cut off the over-sampled rest."""
        spare = max(0, len(slots) - self._cfg.groups_per_step)
        wave.unsampled = len(slots) - spare
        wave.sampled.clear()
        playing = [asyncio.create_task(self._play(number, wave, slot)) for slot in slots]
        try:
            # Over-sampling keeps the groups that are scored first; without it, every group.
            first = itertools.islice(asyncio.as_completed(playing), len(slots) - spare)
            kept = {(await ended).index for ended in first}
        finally:
            for each in playing:
                each.cancel()
            await asyncio.gather(*playing, return_exceptions=True)
        # A group that was scored in the same tick as the last kept one is surplus too.
        for slot in slots:
            if slot.index not in kept:
                slot.group = None
        self._counts["rollout/cut"] += spare

    async def _play(self, number: int, wave: _Wave, slot: _Slot) -> _Slot:
        """Sample one group as soon as it is admitted, then score it."""
        size = self._cfg.group_size
        await self._places.take(size, (number, slot.index))
        slot.episodes = self._collector.episodes(
            slot.task,
            size,
            self._hooks.limits(slot.task),
            (number, slot.index, slot.attempt),
            f"{number}/{slot.index}",
            lambda: self._shares.pace(number),
        )
        # Each answer frees its own place when it ends, so a waiting group need not wait for all.
        trajectories = await self._collector.play(
            slot.task, slot.episodes, slot.begun, self._places.leave
        )
        # Counted before scoring: the loop times sampling and scoring apart.
        wave.unsampled -= 1
        if wave.unsampled <= 0:
            wave.sampled.set()
        slot.group = await self._hooks.score(Group(slot.task, trajectories, slot.index), number)
        return slot

    async def take_out(self) -> None:
        """Abort in-flight calls, so that `state` holds every token sampled so far.

        The episodes wait until `go_on`. In synchronous mode nothing is aborted: a resumed run
        starts the step anew, and is bit-equal to a run that was never interrupted.
        """
        if self._cfg.max_staleness:
            # In this order: no new call may begin between the abort and the snapshot.
            self._shares.shut()
            await self._engine.abort()
            await self._shares.quiet()

    def go_on(self) -> None:
        """Let the episodes continue after `take_out`."""
        self._shares.open()

    def state(self) -> dict[str, Any]:
        """The unfinished waves as plain JSON: their tasks, and answers as far as they are sampled.

        Answers are kept with max_staleness above 0 only, and see `_stored` for multi-turn ones.
        """
        keep = self._cfg.max_staleness > 0
        return {
            "waves": {
                str(number): [
                    {
                        "index": slot.index,
                        "attempt": slot.attempt,
                        "task": plain_task(slot.task),
                        "begun": [_stored(t) for t in slot.trajectories] if keep else [],
                    }
                    for slot in wave.slots
                ]
                for number, wave in self._waves.items()
            }
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the waves of `state`; `sampled` starts them."""
        for number, slots in state["waves"].items():
            self._waves[int(number)] = _Wave([_restored_slot(slot) for slot in slots])

    def drain_metrics(self) -> dict[str, float]:
        """Groups replaced because they were flat, and groups cut off, since the last call."""
        found = {name: float(count) for name, count in self._counts.items()}
        self._counts = dict.fromkeys(self._counts, 0)
        return found

    async def close(self) -> None:
        """Cancel all running waves."""
        running = [wave.task for wave in self._waves.values() if wave.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


_STORED = (
    "tokens",
    "sampled",
    "behavior_logprobs",
    "versions",
    "messages",
    "status",
    "temperature",
    "top_p",
    "budget",
    "engine",
)
"""Fields of a trajectory that a checkpoint stores. A resumed run scores the answer anew."""


def _stored(trajectory: Trajectory | None) -> dict[str, Any] | None:
    """The trajectory as plain JSON, or None if the answer must start anew.

    A checkpoint cannot hold the state of an environment. An answer can therefore be continued
    within its first turn, where the environment has only given the prompt, or if it has ended.
    """
    if trajectory is None or not trajectory.tokens:
        return None
    # An assistant message in a running trajectory means that its first turn is over.
    if trajectory.status is Status.RUNNING and trajectory.response:
        return None
    return {name: getattr(trajectory, name) for name in _STORED}


def _restored_slot(stored: Mapping[str, Any]) -> _Slot:
    begun = [t and Trajectory(**{**t, "status": Status(t["status"])}) for t in stored["begun"]]
    return _Slot(stored["index"], restored_task(stored["task"]), stored["attempt"], begun)
