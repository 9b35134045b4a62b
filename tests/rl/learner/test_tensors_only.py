"""A crafted checkpoint runs nothing; our own are read, at every ZeRO stage."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoint.envs.types import ConjointError
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from tests.fakes import tiny_llama


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def rank(folder: Path, stage: int = 1, dtype: str = "fp32", optim: str = "adamw") -> LearnerRank:
    config = LearnerConfig(threads=1, zero_stage=stage, dtype=dtype)
    return LearnerRank(folder, config, OptimConfig(name=optim, lr=1e-3), LossConfig(), 4)


@pytest.mark.parametrize(
    ("stage", "dtype", "optim"),
    [(0, "fp32", "adamw"), (1, "bf16", "adamw"), (2, "fp32", "muonclip"), (3, "bf16", "adamw")],
)
def test_our_own_states_are_tensors(
    folder: Path, tmp_path: Path, stage: int, dtype: str, optim: str
):
    learner = rank(folder, stage, dtype, optim)
    learner.save(tmp_path)
    learner.load(tmp_path)


def with_old_format(state: Any, file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def as_plain_pickle(state: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(state))


@pytest.mark.parametrize("write", [torch.save, with_old_format, as_plain_pickle])
def test_a_crafted_file_is_refused_and_runs_nothing(folder: Path, tmp_path: Path, write: Any):
    learner = rank(folder)
    learner.save(tmp_path / "ours")
    files = [p.relative_to(tmp_path / "ours") for p in (tmp_path / "ours/deepspeed").iterdir()]
    assert len(files) == 2, "of the model and of the optimizer"
    mark = tmp_path / "ran"
    for file in files:
        crafted = tmp_path / "crafted"
        shutil.copytree(tmp_path / "ours", crafted)
        state = torch.load(crafted / file, weights_only=False)
        write({**state, "lr_scheduler": Runs(mark)}, crafted / file)
        with pytest.raises(ConjointError, match=f"learner state in {crafted} is not read"):
            learner.load(crafted)
        assert not mark.exists()
        torch.load(crafted / file, weights_only=False) if write is not as_plain_pickle else (
            pickle.loads((crafted / file).read_bytes())
        )
        assert mark.is_dir(), "the file would not have run anything"
        mark.rmdir()
        shutil.rmtree(crafted)


def test_who_reads_other_files_afterwards_may_do_so_as_before(folder: Path, tmp_path: Path):
    learner = rank(folder)
    learner.save(tmp_path / "ours")
    learner.load(tmp_path / "ours")
    torch.save(Path("x"), tmp_path / "own.pt")
    assert torch.load(tmp_path / "own.pt", weights_only=False) == Path("x")
