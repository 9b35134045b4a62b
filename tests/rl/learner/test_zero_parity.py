"""Ranks, ZeRO stages and micro-batches never change the update, of AdamW or of MuonClip.

The runs on one rank happen in this process; two processes of the plain rank, without Ray, do all
the runs on two ranks in turn and store what they found. Run as a script, this file is one of them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conjoint.envs.types import Completion, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.learner.batch import Batch, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.place import ALONE, RankPlace
from conjoint.rl.learner.rank import LearnerRank
from tests.conftest import with_root
from tests.fakes import tiny_llama

STEPS, VOCAB = 5, 48
ADAMW = OptimConfig(lr=2e-3, weight_decay=0.1)
# A tau below the logits of a random model, so that heads are clipped in every step.
MUONCLIP = OptimConfig(name="muonclip", lr=2e-3, weight_decay=0.1, qk_clip_tau=0.5)


@dataclass(frozen=True)
class Run:
    optim: OptimConfig
    ranks: int
    stage: int
    microbatches: int

    @property
    def name(self) -> str:
        parts = (self.optim.name, self.ranks, f"zero{self.stage}", self.microbatches)
        return "-".join(map(str, parts))

    @property
    def config(self) -> LearnerConfig:
        tokens = 4096 if self.microbatches == 1 else 13
        return LearnerConfig(
            threads=1, ranks=self.ranks, zero_stage=self.stage, tokens_per_microbatch=tokens
        )


ALL = [
    Run(optim, ranks, stage, microbatches)
    for optim in (ADAMW, MUONCLIP)
    for ranks in (1, 2)
    for stage in (0, 1, 2, 3)
    for microbatches in (1, 4)
]
HALF = [run for run in ALL if (run.ranks + run.stage) % 2 == (run.microbatches == 4)]
"""Each stage with one micro-batch and with four, in turn on one rank and on two."""
OTHER = [run for run in ALL if run not in HALF]
CHOSEN = pytest.mark.parametrize(
    "runs", [HALF, pytest.param(OTHER, marks=pytest.mark.proof)], ids=["half", "other half"]
)


def batch(step: int, run: Run) -> Batch:
    """Twelve answers of unequal length and two PTX rows."""
    rng = np.random.default_rng(step)
    groups = []
    for index in range(4):
        prompt = rng.integers(0, VOCAB, int(rng.integers(2, 6))).tolist()
        members = []
        for member in range(3):
            answer = rng.integers(0, VOCAB, int(rng.integers(2, 8))).tolist()
            t = Trajectory(status=Status.COMPLETED, advantage=member - 1.0)
            t.extend_context(prompt)
            t.extend_sampled(Completion(answer, [-3.0] * len(answer), "stop", version=0))
            members.append(t)
        groups.append(Group(Task.make("math", str(index)), members, index))
    rows = [PtxRow([5, 6, 7, 8], [False, True, True, True]), PtxRow([3, 4], [False, True])]
    made = make_batch(groups, rows, run.config, 0.2)
    count = len(made.updates[0].shards[0])
    assert count == 1 if run.microbatches == 1 else count >= 4
    return made


def trained(folder: Path, run: Run, place: RankPlace = ALONE) -> dict[str, Any]:
    """Weights after all steps and metrics of the last."""
    learner = LearnerRank(folder, run.config, run.optim, LossConfig(), STEPS, place)
    metrics = {}
    for step in range(STEPS):
        metrics = learner.step(batch(step, run).shard(place.rank), step)
    return {"weights": {k: v.clone() for k, v in learner.named_weights()}, "metrics": metrics}


def two_ranks(rank: int, meeting: str, folder: Path, names: list[str]) -> None:
    for run in ALL:
        if run.name in names:
            found = trained(folder, run, RankPlace(rank, 2, meeting))
            if rank == 0:
                torch.save(found, folder / f"{run.name}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Three layers, so that the border between two ranks cuts a matrix.
    path = tmp_path_factory.mktemp("tiny")
    return tiny_llama(path, vocab_size=VOCAB, num_hidden_layers=3)


@pytest.fixture(scope="module")
def references(folder: Path) -> dict[str, dict[str, Any]]:
    """One rank, ZeRO 0, one micro-batch."""
    return {optim.name: trained(folder, Run(optim, 1, 0, 1)) for optim in (ADAMW, MUONCLIP)}


def check(run: Run, found: dict[str, Any], references: dict[str, dict[str, Any]]) -> None:
    reference = references[run.optim.name]
    expected = pytest.approx(reference["metrics"], rel=1e-3, abs=1e-5)
    assert found["metrics"] == expected, run.name
    assert found["weights"].keys() == reference["weights"].keys()
    assert distance(found["weights"], reference["weights"]) < 1e-5, run.name


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@CHOSEN
@pytest.mark.parametrize("optim", [ADAMW, MUONCLIP], ids=lambda optim: optim.name)
def test_stages_and_microbatches_give_the_same_weights(
    folder: Path, references: dict[str, dict[str, Any]], optim: OptimConfig, runs: list[Run]
) -> None:
    for run in runs:
        if run.ranks == 1 and run.optim is optim:
            check(run, trained(folder, run), references)


@CHOSEN
def test_two_ranks_equal_one(
    folder: Path, references: dict[str, dict[str, Any]], runs: list[Run], tmp_path: Path
) -> None:
    on_two = [run for run in runs if run.ranks == 2]
    names = [run.name for run in on_two]
    meeting = f"file://{tmp_path}/ranks"
    env = {**os.environ, "PYTHONPATH": with_root(), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), meeting, str(folder), *names],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank in (0, 1)
        ]
        try:
            codes = [process.wait(timeout=500) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert codes == [0, 0], (folder / "log").read_text()[-3000:]
    for run in on_two:
        check(run, torch.load(folder / f"{run.name}.pt"), references)


def test_the_runs_clip_gradients_and_heads_and_go_somewhere(
    folder: Path, references: dict[str, dict[str, Any]]
) -> None:
    """Else the tests above would compare less than they say."""
    start = {k: v.detach() for k, v in named_parameters(folder)}
    for found in references.values():
        assert found["metrics"]["grad_norm"] > 1.0
        assert min(float((v - start[k]).abs().max()) for k, v in found["weights"].items()) > 1e-3
    assert references["muonclip"]["metrics"]["qk/clipped_heads"] > 0
    ours, theirs = (references[name]["weights"] for name in ("muonclip", "adamw"))
    assert distance(ours, theirs) > 1e-3


def named_parameters(folder: Path) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return AutoModelForCausalLM.from_pretrained(folder).named_parameters()


if __name__ == "__main__":
    two_ranks(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
