"""The Ray fan-out with real ranks; failures name their stage."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from conjoint.envs.types import Completion, ConjointError, Group, Status, StopRun, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.learner.batch import heldout_batch, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.group import LearnerGroup, RankArguments
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rollouts.engine.belongings import DRIVER_MARK, marked
from tests.fakes import tiny_llama
from tests.listeners import watched

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_running")]


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


async def test_every_rank_is_asked_and_the_answers_are_of_all(folder: Path, tmp_path: Path) -> None:
    config = LearnerConfig(threads=1, tokens_per_microbatch=16, ranks=2, zero_stage=2)
    optim = OptimConfig(lr=1e-2)
    with watched(lambda: [os.getpid(), *marked(DRIVER_MARK)], 0.2) as found:
        group = await LearnerGroup.start(RankArguments(folder, config, optim, LossConfig(), 10))
    assert any("RankActor" in words for words in found.values())
    assert not [listener for listener in found if listener.beyond_loopback]
    rows = [PtxRow([4, 5, 6], [False, True, True]), PtxRow([7, 8], [False, True])]
    try:
        # Of a batch that is infinite on one rank no rank may keep anything.
        bad = groups(0)
        bad[0].trajectories[0].advantage = float("inf")
        skipped = await group.step(make_batch(bad, [], config, 0.0), 0)
        assert (skipped["updates"], skipped["nonfinite"]) == (0, 1)
        metrics = await group.step(make_batch(groups(0), rows, config, 0.2), 0)
        heldout = await group.ptx_loss(heldout_batch(rows, config))
        await group.save(tmp_path)
        probe = await group.logprobs([1, 2, 3])
    finally:
        await group.close()
    one = replace(config, ranks=1)
    alone = LearnerRank(folder, one, optim, LossConfig(), 10)
    expected = alone.step(make_batch(groups(0), rows, one, 0.2), 0)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert heldout == pytest.approx(alone.ptx_loss(heldout_batch(rows, one)), abs=1e-5)
    assert probe == pytest.approx(alone.logprobs([1, 2, 3]), abs=1e-5)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    worst = [float((saved[name] - value).abs().max()) for name, value in alone.named_weights()]
    assert max(worst) < 1e-5


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
