"""SIGKILL of a learner between steps and in the middle of a save: the resumed run is bit-equal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl.checkpoint import finished_checkpoints, read_checkpoint
from rl.types import ConjointError
from tests.fakes import tiny_llama
from tests.rl.killed_learner import EVERY, STEPS, Alone, train

ROOT = Path(__file__).parents[2]


def killed(model: Path, root: Path, fault: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rl.killed_learner", str(model), str(root), fault],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def everything(learner: Alone) -> dict[str, torch.Tensor]:
    """Weights and the moments of AdamW, which ZeRO keeps flattened."""
    found = {name: tensor.clone() for name, tensor in learner.rank.named_weights()}
    optimizer = learner.rank._engine.optimizer.state_dict()["base_optimizer_state"]
    for number, state in enumerate(optimizer["state"].values()):
        found |= {f"{number}/{k}": v for k, v in state.items() if torch.is_tensor(v)}
    return found


async def test_a_killed_learner_resumes_to_the_bit(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    whole, _, expected = await train(model, tmp_path / "whole")
    root = tmp_path / "killed"
    killed(model, root, "between")
    assert [p.name for p in finished_checkpoints(root)] == ["step-000002"]
    killed(model, root, "save")
    half = root / ".partial-step-000004"
    assert (half / "deepspeed").is_dir() and not (half / "hf" / "model.safetensors").exists()
    assert [p.name for p in finished_checkpoints(root)] == ["step-000002"]

    resumed, first, metrics = await train(model, root)
    assert first == 2 and metrics == expected[first:]
    ours, theirs = everything(resumed), everything(whole)
    assert ours.keys() == theirs.keys() >= {"0/exp_avg", "0/exp_avg_sq", "0/step"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not half.exists() and len(finished_checkpoints(root)) == STEPS // EVERY

    shard = max((root / "step-000006").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    name = str(shard.relative_to(root / "step-000006"))
    with pytest.raises(ConjointError) as error:
        read_checkpoint(root)
    assert f"{name} is damaged" in str(error.value)
    assert f"resume={root / 'step-000004'}" in str(error.value)
