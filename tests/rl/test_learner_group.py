"""The Ray fan-out with real ranks: two processes equal one, and failures name their stage."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.batch import heldout_batch, make_batch
from rl.learner import LearnerConfig
from rl.learner_group import LearnerGroup, RankArguments
from rl.losses import LossConfig
from rl.optim.schedules import OptimConfig
from rl.ptx import PtxRow
from rl.types import Completion, ConjointError, Group, Status, StopRun, Task, Trajectory
from tests.fakes import tiny_llama

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def groups(seed: int) -> list[Group]:
    """Three groups of unequal lengths; one answer only in the last, so that a rank runs empty."""
    made = []
    for index, members in enumerate((3, 2, 2)):
        trajectories = []
        for m in range(members):
            t = Trajectory(status=Status.COMPLETED, advantage=m - 0.5)
            t.extend_context([1 + index, 2 + seed])
            n = 2 + 3 * m + index
            t.extend_sampled(Completion([5 + m] * n, [-3.0] * n, "stop", 0))
            trajectories.append(t)
        made.append(Group(Task.make("math", str(index)), trajectories, index))
    return made


async def trained(folder: Path, out: Path, **keys: int) -> tuple[dict, dict[str, torch.Tensor]]:
    config = LearnerConfig(threads=1, tokens_per_microbatch=16, **keys)  # type: ignore[arg-type]
    arguments = RankArguments(folder, config, OptimConfig(lr=1e-2), LossConfig(), 10)
    group = await LearnerGroup.start(arguments)
    try:
        metrics = {}
        if keys["ranks"] > 1:
            # Of a batch that is infinite on one rank no rank may keep anything.
            bad = groups(0)
            bad[0].trajectories[0].advantage = float("inf")
            skipped = await group.step(make_batch(bad, [], config, 0.0), 0)
            assert (skipped["updates"], skipped["nonfinite"]) == (0, 1)
        for step in range(3):
            batch = make_batch(groups(step), [PtxRow([4, 5, 6], [False, True, True])], config, 0.2)
            metrics = await group.step(batch, step)
        await group.save(out)
        rows = [PtxRow([4, 5, 6], [False, True, True]), PtxRow([7, 8], [False, True])]
        metrics["heldout"] = await group.ptx_loss(heldout_batch(rows, config))
        probe = await group.logprobs([1, 2, 3])
        assert len(probe) == 2
    finally:
        await group.close()
    return metrics, AutoModelForCausalLM.from_pretrained(out / "hf").state_dict()


async def test_two_ranks_equal_one(folder: Path, tmp_path: Path) -> None:
    metrics, reference = await trained(folder, tmp_path / "one", ranks=1, zero_stage=0)
    for stage in (1, 3):
        found_metrics, found = await trained(
            folder, tmp_path / f"{stage}", ranks=2, zero_stage=stage
        )
        assert found_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6), f"ZeRO {stage}"
        worst = max(float((found[k] - reference[k]).abs().max()) for k in reference)
        assert worst < 1e-5, f"ZeRO {stage}"


async def test_user_mistake_stays_one_and_a_death_names_its_stage(
    folder: Path, tmp_path: Path
) -> None:
    config = LearnerConfig(threads=1)
    with pytest.raises(ConjointError, match=r"no config\.json"):
        await LearnerGroup.start(RankArguments(tmp_path, config, OptimConfig(), LossConfig(), 1))
    group = await LearnerGroup.start(RankArguments(folder, config, OptimConfig(), LossConfig(), 1))
    (pid,) = await group.pids()
    with pytest.raises(StopRun, match=r"(?s)failed in stage 'load'.*TypeError"):
        await group.load(None)  # type: ignore[arg-type]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(StopRun, match="died in stage 'step from version 4'"):
        await group.step(make_batch(groups(0), [], config, 0.0), 4)
    await group.close()


async def test_a_deadline_names_its_stage(folder: Path) -> None:
    config = LearnerConfig(threads=1, start_seconds=0.01)
    with pytest.raises(StopRun, match=r"did not finish stage 'start rank 0' within"):
        await LearnerGroup.start(RankArguments(folder, config, OptimConfig(), LossConfig(), 1))
