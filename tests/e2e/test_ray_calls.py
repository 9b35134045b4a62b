"""A real Ray with 4, 12 and 64 workers that only count: a group costs the driver one call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from conjoint.envs.base import SingleTurn
from conjoint.envs.types import Status, Task, derive_seed
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.engine.worker_set import EngineWorker, WorkerSet
from conjoint.rollouts.episode import Episode, EpisodeLimits
from tests.e2e.counting_actor import CountingActor, drawn_from
from tests.fakes import CharRenderer
from tests.rollouts.engine.fake_workers import FakeBelongings, Sent

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
GROUP_SIZE = 8
LIMITS = EpisodeLimits(budget=8, max_model_len=64, max_turns=1, temperature=1.0)


class Counted:
    """The Ray handle of a worker, which counts the calls that the driver makes through it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.calls = 0

    @property
    def call(self) -> "Counted":
        return self

    def remote(self, *args: Any) -> Any:
        self.calls += 1
        return self.actor.call.remote(*args)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def started(ray_running: None) -> AsyncIterator[list[Any]]:
    """The actors that tests have started: each takes as many as it needs, and starts the rest."""
    import ray

    made: list[Any] = []
    yield made
    for each in made:
        ray.kill(each)


async def actors_for(count: int, started: list[Any]) -> list[Any]:
    import ray

    actor = ray.remote(CountingActor).options(num_cpus=0, max_concurrency=4096)
    started += [actor.remote() for _ in range(count - len(started))]
    await asyncio.gather(*(each.calls.remote() for each in started))
    return started[:count]


async def play(engine: VllmEngine, index: int) -> set[str]:
    """One group, as the collector plays it; the engines that answered."""
    task = Task.make("math", f"{index}+1")
    seeds = [derive_seed(index, member) for member in range(GROUP_SIZE)]
    episodes = (
        Episode(engine, CharRenderer(), LIMITS, seed, task.id).play(SingleTurn(task))  # type: ignore[arg-type]
        for seed in seeds
    )
    trajectories = await asyncio.gather(*episodes)
    drawn = [drawn_from(derive_seed(seed, 0)) for seed in seeds]
    assert [t.tokens[-2] for t in trajectories] == drawn, "an answer went to another request"
    assert all(t.status is Status.COMPLETED for t in trajectories)
    return {t.engine for t in trajectories}


@pytest.mark.parametrize("workers", [4, 12, pytest.param(64, marks=pytest.mark.proof)])
async def test_a_group_costs_one_call_however_many_workers_there_are(
    started: list[Any], workers: int
):
    actors = await actors_for(workers, started)
    cfg = RolloutConfig(engines=workers, heartbeat_s=3600, hang_timeout_s=3600)
    handles = [Counted(actor) for actor in actors]

    async def calls() -> tuple[int, int]:
        arrived = await asyncio.gather(*(actor.calls.remote() for actor in actors))
        return sum(handle.calls for handle in handles), sum(arrived)

    def launch(slot: int) -> EngineWorker:
        return EngineWorker(slot, handles[slot], FakeBelongings(), lambda: None)  # type: ignore[arg-type]

    engine = VllmEngine(WorkerSet(launch, cfg), cfg)
    try:
        await engine.ready([1], 60)
        await engine.pause()
        await engine.load_weights(Sent(0), 0)
        await engine.resume()
        before = await calls()
        groups = 8 * workers
        answered = await asyncio.gather(*(play(engine, index) for index in range(groups)))
        after = await calls()
    finally:
        await engine.close()
    assert all(len(engines) == 1 for engines in answered), "a group is split over workers"
    assert len(set.union(*answered)) == workers, "a worker has nothing to do"
    for count in (after[0] - before[0], after[1] - before[1]):
        assert groups <= count <= 2 * groups
