"""SIGKILL of a learner between steps and in the middle of a save: the resumed run is bit-equal."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conjoint.envs.types import ConjointError
from conjoint.rl.run.checkpoint import finished_checkpoints, read_checkpoint
from tests.fakes import tiny_llama
from tests.rl.run.killed_learner import EVERY, STEPS, Alone, train

ROOT = Path(__file__).parents[3]


def killed_twice(model: Path, root: Path) -> list[list[str]]:
    """The files below `root` after each SIGKILL."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.rl.run.killed_learner", str(model), str(root)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[-")]
    assert [code for code, _ in ends] == [-signal.SIGKILL] * 2, done.stdout + done.stderr
    return [files for _, files in ends]


def everything(learner: Alone) -> dict[str, torch.Tensor]:
    """Weights and the moments of AdamW, which ZeRO keeps flattened."""
    found = {name: tensor.clone() for name, tensor in learner.rank.named_weights()}
    optimizer = learner.rank._engine.optimizer.state_dict()["base_optimizer_state"]
    for number, state in enumerate(optimizer["state"].values()):
        found |= {f"{number}/{k}": v for k, v in state.items() if torch.is_tensor(v)}
    return found


def folders(files: list[str]) -> set[str]:
    return {Path(name).parts[0] for name in files}


async def test_a_killed_learner_resumes_to_the_bit(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    whole, _, expected = await train(model, tmp_path / "whole")
    root = tmp_path / "killed"
    between, save = killed_twice(model, root)
    assert folders(between) == {"step-000002"}
    half = ".partial-step-000004"
    assert folders(save) == {"step-000002", half}
    written = {Path(name).parts[1] for name in save if name.startswith(half)}
    assert "deepspeed" in written and "hf" not in written
    assert [p.name for p in finished_checkpoints(root)] == ["step-000002"]

    resumed, first, metrics = await train(model, root)
    assert first == 2 and metrics == expected[first:]
    ours, theirs = everything(resumed), everything(whole)
    assert ours.keys() == theirs.keys() >= {"0/exp_avg", "0/exp_avg_sq", "0/step"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (root / half).exists() and len(finished_checkpoints(root)) == STEPS // EVERY

    shard = max((root / "step-000006").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    name = str(shard.relative_to(root / "step-000006"))
    with pytest.raises(ConjointError) as error:
        read_checkpoint(root)
    assert f"{name} is damaged" in str(error.value)
    assert f"resume={root / 'step-000004'}" in str(error.value)
