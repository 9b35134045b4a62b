"""The learner as Ray actors: one `LearnerRank` in each, called together and waited for together.

Every wait has a deadline and names its stage. All ranks run every call in the same order, because
most of them are collective; a rank that dies takes the group with it, and its error is reported.
"""

import asyncio
import os
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.mismatch import UNCORRECTED, MismatchConfig
from conjoint.rl.learner.batch import Batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rollouts.engine.process_environment import process_environment


@dataclass(frozen=True, slots=True)
class RankArguments:
    """What every rank is built from; `total_updates` is where the learning-rate schedule ends."""

    folder: Path
    config: LearnerConfig
    optim: OptimConfig
    loss: LossConfig
    total_updates: int
    mismatch: MismatchConfig = UNCORRECTED


class RankActor:
    """Runs in its own process; forwards calls to the rank, which it builds when told to."""

    def __init__(self) -> None:
        self._rank: Any = None

    def meeting(self) -> str:
        """Where the ranks meet (torch's `init_method`), with this process as rank 0."""
        from conjoint.rollouts.weights.sender import free_port

        address = ray.util.get_node_ip_address()
        if ip_address(address).is_loopback:
            # All ranks are on this machine. torch's TCP store would listen on every interface.
            return f"file://{tempfile.mkdtemp()}/ranks"
        return f"tcp://{address}:{free_port()}"

    def pid(self) -> int:
        return os.getpid()

    def start(self, arguments: RankArguments, rank: int, meeting: str) -> None:
        from conjoint.rl.learner.place import RankPlace
        from conjoint.rl.learner.rank import LearnerRank

        self._rank = LearnerRank(
            arguments.folder,
            arguments.config,
            arguments.optim,
            arguments.loss,
            arguments.total_updates,
            RankPlace(rank, arguments.config.ranks, meeting),
            arguments.mismatch,
        )

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._rank, method)(*args)


class LearnerGroup:
    """The `Learner` the loop talks to; make it with `await LearnerGroup.start(...)`."""

    def __init__(self, actors: list[Any], config: LearnerConfig) -> None:
        self._actors = actors
        self._config = config

    @staticmethod
    async def start(
        arguments: RankArguments, placement: PlacementGroup | None = None
    ) -> "LearnerGroup":
        """Start all ranks and wait until each has loaded the model.

        Raises what a rank raised (a ConjointError stays one), StopRun after
        `learner.start_seconds`. Ray must be running. `placement` gives each rank a bundle.
        """
        config = arguments.config
        group = LearnerGroup([_actor(config, i, placement) for i in range(config.ranks)], config)
        try:
            (meeting,) = await group._wait(
                [group._actors[0].meeting.remote()], "start rank 0", config.start_seconds
            )
            starts = [
                actor.start.remote(arguments, rank, meeting)
                for rank, actor in enumerate(group._actors)
            ]
            await group._wait(starts, "load the model", config.start_seconds)
        except BaseException:
            await group.close()
            raise
        return group

    async def step(self, batch: Batch, version: int) -> dict[str, float]:
        return await self._sharded(f"step from version {version}", "step", batch, version)

    async def ptx_loss(self, batch: Batch) -> float:
        return await self._sharded("held-out PTX loss", "ptx_loss", batch)

    async def logprobs(self, tokens: list[int]) -> list[float]:
        return (await self._all("logprobs", tokens))[0]

    async def send_weights(self, sender: Any, version: int) -> Any:
        return (await self._all("send_weights", sender, version))[0]

    async def save(self, folder: Path) -> None:
        await self._all("save", folder)

    async def save_model(self, folder: Path) -> None:
        await self._all("save_model", folder)

    async def load(self, folder: Path) -> None:
        await self._all("load", folder)

    async def pids(self) -> list[int]:
        """Process ids of the ranks, rank 0 first."""
        refs = [actor.pid.remote() for actor in self._actors]
        return await self._wait(refs, "pids")

    async def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    async def _sharded(self, stage: str, method: str, batch: Batch, *args: Any) -> Any:
        """Give each rank its shard of `batch`; what rank 0 answers."""
        refs = [
            actor.call.remote(method, batch.shard(rank), *args)
            for rank, actor in enumerate(self._actors)
        ]
        return (await self._wait(refs, stage))[0]

    async def _all(self, method: str, *args: Any) -> list[Any]:
        return await self._wait([a.call.remote(method, *args) for a in self._actors], method)

    async def _wait(self, refs: list[Any], stage: str, seconds: float | None = None) -> list[Any]:
        """Results of all ranks; the first error ends the wait, for the others wait on the dead."""
        limit = seconds or self._config.step_seconds
        try:
            return list(await asyncio.wait_for(asyncio.gather(*refs), limit))
        # First, because Ray's error is also an instance of what the rank raised.
        except RayTaskError as error:
            if isinstance(error.cause, ConjointError):
                raise error.cause from None
            raise StopRun(f"a learner rank failed in stage '{stage}': {error}") from error
        except RayActorError as error:
            raise StopRun(f"a learner rank died in stage '{stage}': {error}") from error
        except TimeoutError:
            raise StopRun(
                f"the learner did not finish stage '{stage}' within {limit:g} s"
            ) from None


def _actor(config: LearnerConfig, rank: int, placement: PlacementGroup | None) -> Any:
    # Set before torch loads: later it has already made its pool.
    env = {"TOKENIZERS_PARALLELISM": "false", **process_environment(config.threads)}
    options: dict[str, Any] = {
        "num_cpus": 0,
        "num_gpus": config.gpus_per_rank,
        "max_restarts": 0,
        "runtime_env": {"env_vars": env},
    }
    if placement is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placement, rank)
    return ray.remote(RankActor).options(**options).remote()
