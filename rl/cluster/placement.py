"""Where engines and learner ranks run on a Ray cluster: one bundle of GPUs for each of them.

Except with NCCL all bundles lie on one machine, because weights travel through its memory.
"""

import asyncio

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rollouts.engine.base import RolloutConfig


def bundles(rollout: RolloutConfig, learner: LearnerConfig) -> list[dict[str, float]]:
    """One for each learner rank, then one for each engine, whose tensor-parallel GPUs stay on one
    machine; none unless both sides use GPUs."""
    if not (rollout.gpus_per_engine and learner.gpus_per_rank):
        return []
    ranks = [{"GPU": float(learner.gpus_per_rank)}] * learner.ranks
    engines = [{"GPU": float(rollout.gpus_per_engine)}] * rollout.engines
    return ranks + engines


def needs(rollout: RolloutConfig, learner: LearnerConfig) -> str:
    """The bundles in words."""
    total = sum(bundle["GPU"] for bundle in bundles(rollout, learner))
    return (
        f"{total:g} GPUs ({learner.ranks} learner rank(s) x {learner.gpus_per_rank:g} + "
        f"{rollout.engines} engine(s) x {rollout.gpus_per_engine:g})"
    )


async def place(
    rollout: RolloutConfig, learner: LearnerConfig, backend: str
) -> PlacementGroup | None:
    """Reserve the GPUs; None where none are used. Raises ConjointError if the cluster lacks them
    or does not give them within `rollout.start_timeout_s`."""
    wanted = bundles(rollout, learner)
    if not wanted:
        return None
    found = ray.cluster_resources().get("GPU", 0.0)
    if sum(bundle["GPU"] for bundle in wanted) > found:
        raise ConjointError(
            f"this run needs {needs(rollout, learner)}, but Ray knows of {found:g}; lower "
            "rollout.engines or learner.ranks, or join a larger cluster (cluster.address)"
        )
    group = placement_group(wanted, strategy="PACK" if backend == "nccl" else "STRICT_PACK")
    try:
        await asyncio.wait_for(group.ready(), rollout.start_timeout_s)
    except TimeoutError:
        where = "" if backend == "nccl" else f" on one machine (weight_sync.backend={backend})"
        raise ConjointError(
            f"Ray did not give {needs(rollout, learner)}{where} within "
            f"{rollout.start_timeout_s:g} s; other jobs may hold them"
        ) from None
    return group
