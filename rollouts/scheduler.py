"""Which group is played when: synchronous, one step off or asynchronous are numbers of one class.

The groups of a step are its *wave*: wave w is trained at step w, as a whole. It may start as soon
as the weights have version w - max_staleness (the capacity rule of AReaL, arXiv 2505.24298, counted
in waves), so no token of a batch is older than `max_staleness` versions, and an answer's length
cannot decide whether or when it is trained: nothing is overtaken. With max_staleness=0 the next
wave starts when the loop asks for it; with more, later waves keep the engines busy while the due
one waits for its longest answers, while the learner trains, and across updates of the weights.

A plain class on asyncio: no Ray, no vLLM, no clock of its own, so a simulated one can drive it.
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
    """What the scheduler asks of the rest of a run."""

    draw: Callable[[int], list[Task]]
    """The next tasks of the mixture."""
    limits: LimitsOf
    score: Callable[[Group, int], Awaitable[Group]]
    """Scores one group of a wave."""
    flat: Callable[[Group], bool]
    """Whether all rewards of a scored group are equal, so that it teaches nothing."""


@dataclass(slots=True)
class _Slot:
    """One place of a wave, and the task that holds it. `attempt` counts the tasks it has had."""

    index: int
    task: Task
    attempt: int = 0
    begun: Sequence[Trajectory | None] = ()
    """What a resumed run has of its answers already."""
    episodes: list[Episode] = field(default_factory=list)
    group: Group | None = None

    @property
    def trajectories(self) -> Sequence[Trajectory | None]:
        """As far as they are."""
        if self.group is not None:
            return self.group.trajectories
        return [e.trajectory for e in self.episodes] or self.begun


@dataclass(slots=True)
class _Wave:
    slots: list[_Slot]
    task: asyncio.Task[list[Group]] | None = None
    unsampled: int = 0
    """Groups whose answers are not all there."""
    sampled: asyncio.Event = field(default_factory=asyncio.Event)


class Scheduler:
    """Starts waves, hands each out when it is due, and keeps what is under way in a checkpoint."""

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
        """Start every wave that may run while the weights have version `step`, and wait until all
        answers of that step are there. If the caller is cancelled, the waves run on."""
        for number in range(step, min(step + self._cfg.max_staleness + 1, num_steps)):
            wave = self._waves.get(number) or self._draw(number)
            if wave.task is None:
                wave.task = asyncio.create_task(self._play_wave(number, wave))
        self._shares.free(step)
        due = self._waves[step]
        assert due.task is not None
        there = asyncio.create_task(due.sampled.wait())
        try:
            # One that breaks off never has all answers.
            await asyncio.wait((due.task, there), return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()

    async def batch(self, step: int) -> list[Group]:
        """The scored groups of the wave that is due, by index, after `sampled`."""
        task = self._waves[step].task
        assert task is not None
        groups = await asyncio.shield(task)
        del self._waves[step]
        return groups

    def advance(self, version: int) -> None:
        """The engines have new weights: every answer has a new share."""
        self._shares.renew(version)

    def _draw(self, number: int) -> _Wave:
        groups = self._cfg.groups_per_step
        count = groups + round(self._cfg.oversample * groups)
        # Through JSON at once, so that a resumed run has the same tasks as this one.
        tasks = [restored_task(plain_task(task)) for task in self._hooks.draw(count)]
        wave = self._waves[number] = _Wave([_Slot(i, task) for i, task in enumerate(tasks)])
        return wave

    async def _play_wave(self, number: int, wave: _Wave) -> list[Group]:
        begun = max((slot.attempt for slot in wave.slots), default=0)
        await self._play_slots(number, wave, wave.slots)
        # A resumed wave has had some of its rounds already.
        for _ in range(begun, self._cfg.replace_flat):
            # In rounds, not one by one: which task is drawn must not depend on who ends first.
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
        """Until enough groups are there: all but the over-sampled ones, which are cut off."""
        spare = max(0, len(slots) - self._cfg.groups_per_step)
        wave.unsampled = len(slots) - spare
        wave.sampled.clear()
        playing = [asyncio.create_task(self._play(number, wave, slot)) for slot in slots]
        try:
            first = itertools.islice(asyncio.as_completed(playing), len(slots) - spare)
            kept = {(await ended).index for ended in first}
        finally:
            for each in playing:
                each.cancel()
            await asyncio.gather(*playing, return_exceptions=True)
        for slot in slots:
            if slot.index not in kept:
                slot.group = None
        self._counts["rollout/cut"] += spare

    async def _play(self, number: int, wave: _Wave, slot: _Slot) -> _Slot:
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
        trajectories = await self._collector.play(
            slot.task, slot.episodes, slot.begun, self._places.leave
        )
        wave.unsampled -= 1
        if wave.unsampled <= 0:
            wave.sampled.set()
        slot.group = await self._hooks.score(Group(slot.task, trajectories, slot.index), number)
        return slot

    async def take_out(self) -> None:
        """Take the answers that run out of the engine, so that `state` holds what they have; they
        wait until `go_on`. In synchronous mode nothing is taken out: a resumed run starts the step
        anew, and is bit-equal to one that was never interrupted."""
        if self._cfg.max_staleness:
            self._shares.shut()
            await self._engine.abort()
            await self._shares.quiet()

    def go_on(self) -> None:
        self._shares.open()

    def state(self) -> dict[str, Any]:
        """The waves under way, as plain JSON: their tasks, and what is sampled of first turns."""
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
        for number, slots in state["waves"].items():
            self._waves[int(number)] = _Wave([_restored_slot(slot) for slot in slots])

    def drain_metrics(self) -> dict[str, float]:
        found = {name: float(count) for name, count in self._counts.items()}
        self._counts = dict.fromkeys(self._counts, 0)
        return found

    async def close(self) -> None:
        """Cancel what runs."""
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
"""What a checkpoint keeps of an answer; scores are asked for anew."""


def _stored(trajectory: Trajectory | None) -> dict[str, Any] | None:
    """None for one that has to start anew: an environment's own state cannot be kept, so an answer
    with further turns can be taken up again in its first turn or at its end only."""
    if trajectory is None or not trajectory.tokens:
        return None
    if trajectory.status is Status.RUNNING and trajectory.response:
        return None
    return {name: getattr(trajectory, name) for name in _STORED}


def _restored_slot(stored: Mapping[str, Any]) -> _Slot:
    begun = [t and Trajectory(**{**t, "status": Status(t["status"])}) for t in stored["begun"]]
    return _Slot(stored["index"], restored_task(stored["task"]), stored["attempt"], begun)
