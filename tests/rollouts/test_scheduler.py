"""The scheduler on a simulated clock: what runs when, what is trained when, and how old it is."""

import asyncio
import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from conjoint.envs.base import SingleTurn
from conjoint.envs.types import Group, Score, Status, StopRun, Task
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.scheduler import Hooks, Scheduler
from conjoint.scripts.bench.scheduler.simulation import OneTokenRenderer, SimulatedEngine, simulate

CFG = RolloutConfig(groups_per_step=4, group_size=2, max_tokens=100, max_model_len=200)


def lognormal(cap: int):
    """Lengths with a long tail."""
    return lambda seed: min(cap, 1 + round(math.exp(random.Random(seed).gauss(3, 1))))


@dataclass
class Trial:
    """A loop around a scheduler: batch, a learner that takes its time, sync."""

    cfg: RolloutConfig = CFG
    workers: int = 1
    slots: int = 8
    train_s: float = 20.0
    length: Any = field(default_factory=lambda: lognormal(100))
    flat: Any = lambda group: False
    drawn: int = 0
    batches: list[list[Group]] = field(default_factory=list)
    marks: list[tuple[float, int]] = field(default_factory=list)
    """Time and tokens sampled so far as each batch was there."""

    def draw(self, count: int) -> list[Task]:
        first = self.drawn
        self.drawn += count
        return [Task.make("math", str(i)) for i in range(first, first + count)]

    async def score(self, group: Group, wave: int) -> Group:
        for t in group.trajectories:
            t.scores = [Score.of("check", 1.0)]
        return group

    def begin(self, state: dict | None = None, step: int = 0) -> None:
        cfg = self.cfg
        self.engine = SimulatedEngine(self.workers, self.slots, 1.0, self.length)
        self.engine.version = step
        limits = EpisodeLimits(cfg.max_tokens, cfg.max_model_len, 1, 1.0)
        collector = Collector(self.engine, OneTokenRenderer(), SingleTurn, 0)  # type: ignore[arg-type]
        hooks = Hooks(self.draw, lambda task: limits, self.score, self.flat)
        self.scheduler = Scheduler(cfg, self.engine, collector, hooks)
        if state is not None:
            self.scheduler.load_state(json.loads(json.dumps(state)))
        self.scheduler.advance(step)

    async def step(self, step: int, last: int) -> None:
        await self.scheduler.sampled(step, last)
        self.batches.append(await self.scheduler.batch(step))
        self.marks.append((asyncio.get_running_loop().time(), self.engine.sampled))
        if not self.cfg.overlap:
            await self.engine.pause(drain=not self.cfg.partial)
        await asyncio.sleep(self.train_s)
        await self.engine.pause(drain=not (self.cfg.partial and self.cfg.max_staleness))
        await self.engine.load_weights(None, step + 1)
        await self.engine.resume()
        self.scheduler.advance(step + 1)

    async def run(self, steps: int) -> "Trial":
        self.begin()
        for step in range(steps):
            await self.step(step, steps)
        await self.scheduler.close()
        return self

    @property
    def ids(self) -> list[str]:
        return [g.task.prompt for batch in self.batches for g in batch]

    @property
    def ages(self) -> Counter[int]:
        """Tokens by how many versions older they are than the weights that were trained."""
        return Counter(
            step - v
            for step, batch in enumerate(self.batches)
            for g in batch
            for t in g.trajectories
            for v in t.versions
            if v >= 0
        )


def run(steps: int = 6, **kwargs: Any) -> Trial:
    async def start() -> Trial:
        return await Trial(**kwargs).run(steps)

    return simulate(start())


MODES = {
    "synchronous": {},
    "one step off": {"max_staleness": 1},
    "drained": {"max_staleness": 1, "partial": False},
    "paused while the learner trains": {"max_staleness": 2, "overlap": False},
    "asynchronous": {"max_staleness": 4},
    "in segments": {"max_staleness": 4, "segment_tokens": 10},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_task_is_trained_once_in_its_order_and_within_the_bound(mode: str):
    cfg = replace(CFG, **MODES[mode])
    trial = run(8, cfg=cfg)
    assert trial.ids == [str(i) for i in range(8 * cfg.groups_per_step)]
    assert trial.drawn == len(trial.ids), "nothing is drawn that is not trained"
    assert max(trial.ages) <= cfg.max_staleness
    answers = [t for b in trial.batches for g in b for t in g.trajectories]
    assert {t.status for t in answers} <= {Status.COMPLETED, Status.TRUNCATED}
    assert len(answers) == len(trial.ids) * cfg.group_size


def test_synchronous_answers_are_of_the_weights_being_trained():
    assert set(run().ages) == {0}


def test_staleness_uses_its_bound():
    assert max(run(8, cfg=replace(CFG, max_staleness=2)).ages) == 2


@pytest.mark.parametrize("partial", [True, False])
def test_an_update_freezes_answers_or_lets_them_end(partial: bool):
    trial = run(8, cfg=replace(CFG, max_staleness=2, partial=partial), train_s=5.0)
    answers = [t for b in trial.batches for g in b for t in g.trajectories]
    mixed = [t for t in answers if len(set(t.versions) - {-1}) > 1]
    assert bool(mixed) == partial
    for t in mixed:
        assert t.versions[1:] == sorted(t.versions[1:]), "older tokens come first"


def test_segments_bound_what_is_sampled_under_one_version_until_the_step_is_due():
    trial = run(8, cfg=replace(CFG, max_staleness=4, segment_tokens=10))
    cut = 0
    for step, batch in enumerate(trial.batches):
        for t in (t for g in batch for t in g.trajectories):
            for version, count in Counter(v for v in t.versions if v >= 0).items():
                if version < step:
                    assert count <= 10
                    cut += count == 10
    assert cut, "no answer ever reached its share"


def test_the_same_answers_whatever_the_speed_of_the_engine_when_synchronous():
    def answers(slots: int) -> list[list[int]]:
        trial = run(3, slots=slots)
        return [t.tokens for b in trial.batches for g in b for t in g.trajectories]

    assert answers(2) == answers(64)


def test_partial_rollouts_fill_the_engines():
    """512 answers a step with a long tail, up to 16,000 tokens; the bound of continuous batching is
    an engine whose places are always taken. Measured while later waves are left to start."""
    cfg = replace(CFG, groups_per_step=64, group_size=8, max_tokens=16_000, max_model_len=17_000)

    def length(seed: int) -> int:
        return min(16_000, 1 + round(math.exp(random.Random(seed).gauss(6, 1.2))))

    def occupancy(bound: int) -> float:
        cfg_of = replace(cfg, max_staleness=bound)
        trial = run(4 + bound, cfg=cfg_of, slots=64, length=length, train_s=500.0)
        (begin, first), (end, last) = trial.marks[0], trial.marks[3]
        return (last - first) / ((end - begin) * trial.engine.capacity)

    synchronous, one_off, asynchronous = map(occupancy, (0, 1, 4))
    assert synchronous < one_off < 0.9 <= asynchronous


def test_earlier_waves_go_first_when_places_are_scarce():
    order: list[str] = []

    class Watched(Trial):
        async def score(self, group: Group, wave: int) -> Group:
            order.append(group.task.prompt)
            return group

    async def start() -> None:
        await Watched(replace(CFG, max_staleness=3), slots=2, length=lambda seed: 10).run(4)

    simulate(start())
    assert order == [str(i) for i in range(16)]


def test_over_sampling_cuts_the_slowest_off():
    slow = {}

    def length(seed: int) -> int:
        return slow.setdefault(seed, 90 if len(slow) < 2 else 5)

    trial = run(1, cfg=replace(CFG, oversample=0.5), slots=64, length=length)
    assert trial.drawn == 6 and len(trial.ids) == 4 and "0" not in trial.ids
    assert trial.scheduler.drain_metrics()["rollout/cut"] == 2


@pytest.mark.parametrize(("rounds", "ids"), [(1, ["0", "4", "2", "3"]), (2, ["0", "5", "2", "3"])])
def test_flat_groups_are_replaced_in_rounds(rounds: int, ids: list[str]):
    """Task 1 is flat, and so is task 4 that replaces it."""
    cfg = replace(CFG, replace_flat=rounds)
    trial = run(1, cfg=cfg, flat=lambda group: group.task.prompt in ("1", "4"))
    assert trial.ids == ids
    assert trial.scheduler.drain_metrics()["rollout/replaced"] == rounds


def interrupted(cfg: RolloutConfig, after_s: float) -> tuple[Trial, Trial, dict]:
    """A run that is stopped in the middle of a step, and one that goes on from its checkpoint."""

    async def first() -> tuple[Trial, dict]:
        trial = Trial(cfg)
        trial.begin()
        await trial.step(0, 6)
        await trial.step(1, 6)
        going = asyncio.create_task(trial.scheduler.sampled(2, 6))
        await asyncio.sleep(after_s)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        await trial.scheduler.take_out()
        state = json.loads(json.dumps(trial.scheduler.state()))
        await trial.scheduler.close()
        return trial, state

    async def second(drawn: int, state: dict) -> Trial:
        trial = Trial(cfg, drawn=drawn)
        trial.begin(state, step=2)
        for step in range(2, 6):
            await trial.step(step, 6)
        return trial

    before, state = simulate(first())
    return before, simulate(second(before.drawn, state)), state


@pytest.mark.parametrize("after_s", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_resumed_run_loses_and_doubles_no_task(staleness: int, after_s: float):
    cfg = replace(CFG, max_staleness=staleness)
    before, after, _ = interrupted(cfg, after_s)
    assert before.ids + after.ids == [str(i) for i in range(24)]


def test_answers_taken_out_go_on_with_what_they_have():
    _, after, state = interrupted(replace(CFG, max_staleness=3), 8.0)
    begun = {
        slot["task"]["messages"][0]["content"]: slot["begun"]
        for slots in state["waves"].values()
        for slot in slots
        if any(slot["begun"])
    }
    assert begun, "nothing was under way"
    resumed = {g.task.prompt: g for batch in after.batches for g in batch}
    for task, answers in begun.items():
        for was, now in zip(answers, resumed[task].trajectories, strict=True):
            if was is not None:
                n = len(was["tokens"])
                assert now.tokens[:n] == was["tokens"] and now.versions[:n] == was["versions"]
                assert now.behavior_logprobs[:n] == was["behavior_logprobs"]


def test_a_synchronous_step_starts_anew_with_the_same_answers():
    _, after, state = interrupted(CFG, 3.0)
    assert not any(slot["begun"] for slots in state["waves"].values() for slot in slots)
    whole = run(6)
    ours, theirs = (
        [t.tokens for g in batches[0] for t in g.trajectories]
        for batches in (after.batches, whole.batches[2:])
    )
    assert ours == theirs


def test_a_resumed_wave_has_the_rounds_of_replacement_that_are_left():
    """Every group is flat: two rounds in all, whenever the run is stopped."""
    cfg = replace(CFG, replace_flat=2, max_staleness=0)

    async def first() -> tuple[int, dict]:
        trial = Trial(cfg, flat=lambda group: True)
        trial.begin()
        going = asyncio.create_task(trial.scheduler.sampled(0, 1))
        while trial.drawn < 2 * cfg.groups_per_step:
            await asyncio.sleep(1.0)
        going.cancel()
        state = trial.scheduler.state()
        await trial.scheduler.close()
        return trial.drawn, state

    async def second(drawn: int, state: dict) -> Trial:
        trial = Trial(cfg, drawn=drawn, flat=lambda group: True)
        trial.begin(state)
        await trial.step(0, 1)
        return trial

    resumed = simulate(second(*simulate(first())))
    assert resumed.ids == run(1, cfg=cfg, flat=lambda group: True).ids


def test_what_stops_the_run_comes_out_of_the_batch():
    class Broken(Trial):
        async def score(self, group: Group, wave: int) -> Group:
            raise StopRun("the judge says no")

    async def start() -> None:
        await Broken().run(1)

    with pytest.raises(StopRun, match="the judge says no"):
        simulate(start())


def test_a_group_larger_than_the_engine_runs_alone():
    assert len(run(1, slots=1).ids) == 4
