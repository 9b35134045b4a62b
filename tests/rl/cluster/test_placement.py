"""Bundles of GPUs as arithmetic; what a cluster that lacks them is told."""

from typing import Any

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rl.cluster import placement
from conjoint.rl.cluster.placement import bundles, place
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rollouts.engine.base import RolloutConfig


def test_ranks_come_first_then_engines_with_their_tensor_parallel_gpus_together():
    rollout = RolloutConfig(engines=2, tensor_parallel=4, gpus_per_engine=4)
    learner = LearnerConfig(ranks=3, gpus_per_rank=1)
    assert bundles(rollout, learner) == [{"GPU": 1}] * 3 + [{"GPU": 4}] * 2


def test_fractions_share_one_gpu():
    rollout, learner = RolloutConfig(gpus_per_engine=0.4), LearnerConfig(gpus_per_rank=0.6)
    assert bundles(rollout, learner) == [{"GPU": 0.6}, {"GPU": 0.4}]


@pytest.mark.parametrize(("engine", "rank"), [(0, 0), (1, 0), (0, 1)])
async def test_without_gpus_on_both_sides_nothing_is_reserved(engine: int, rank: int):
    rollout, learner = RolloutConfig(gpus_per_engine=engine), LearnerConfig(gpus_per_rank=rank)
    assert bundles(rollout, learner) == []
    assert await place(rollout, learner, "shm") is None  # Ray is not even asked: it is not running


class Group:
    """A placement group that Ray grants at once, or never."""

    def __init__(self, granted: bool) -> None:
        self._granted = granted

    async def ready(self) -> None:
        import asyncio

        if not self._granted:
            await asyncio.sleep(60)


def cluster(monkeypatch: pytest.MonkeyPatch, gpus: float, *, granted: bool) -> list[Any]:
    asked: list[Any] = []

    def make(wanted: list[dict[str, float]], strategy: str) -> Group:
        asked.append((len(wanted), strategy))
        return Group(granted)

    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"GPU": gpus})
    monkeypatch.setattr(placement, "placement_group", make)
    return asked


@pytest.mark.parametrize(
    ("backend", "strategy"), [("shm", "STRICT_PACK"), ("ipc", "STRICT_PACK"), ("nccl", "PACK")]
)
async def test_shared_memory_keeps_all_bundles_on_one_machine(monkeypatch, backend, strategy):
    asked = cluster(monkeypatch, 2, granted=True)
    rollout, learner = RolloutConfig(gpus_per_engine=1), LearnerConfig(gpus_per_rank=1)
    assert isinstance(await place(rollout, learner, backend), Group)
    assert asked == [(2, strategy)]


async def test_a_cluster_that_is_too_small_is_told_before_anything_is_reserved(monkeypatch):
    asked = cluster(monkeypatch, 4, granted=True)
    rollout = RolloutConfig(engines=2, tensor_parallel=2, gpus_per_engine=2)
    with pytest.raises(ConjointError, match=r"needs 5 GPUs \(1 learner .* but Ray knows of 4"):
        await place(rollout, LearnerConfig(gpus_per_rank=1), "nccl")
    assert asked == []


async def test_gpus_that_are_held_by_others_end_in_a_sentence(monkeypatch):
    cluster(monkeypatch, 8, granted=False)
    rollout = RolloutConfig(gpus_per_engine=1, start_timeout_s=0.05)
    with pytest.raises(ConjointError, match=r"on one machine .*within 0\.05 s"):
        await place(rollout, LearnerConfig(gpus_per_rank=1), "shm")
