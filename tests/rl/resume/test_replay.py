"""The learner alone on a stored batch: the same numbers, and the first that is not finite."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.config.compose import load_config
from conjoint.rl.config.tree import Config
from conjoint.rl.learner.batch import Batch, make_batch
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.resume.replay import on_one_rank, open_replay, read_dump, replay, write_dump
from conjoint.scripts.train import run
from tests.fakes import tiny_llama

ROWS = [PtxRow([5, 6, 7, 8], [False, True, True, True]), PtxRow([3, 4], [False, True])]


class Alone:
    """A rank in this process, as the learner that a dump asks to save."""

    def __init__(self, rank: LearnerRank) -> None:
        self.rank = rank

    async def save(self, folder: Path) -> None:
        self.rank.save(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_llama(tmp_path_factory.mktemp("tiny"))
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.fixture(scope="module")
def cfg() -> Config:
    return load_config(
        ["learner.threads=1", "learner.zero_stage=1", "learner.updates_per_batch=2",
         "rollout.groups_per_step=4", "optim.lr=1e-3"]
    )  # fmt: skip


def rank(model: Path, cfg: Config) -> LearnerRank:
    return LearnerRank(model, cfg.learner, cfg.optim, cfg.loss, 100, mismatch=cfg.mismatch)


def batch(cfg: Config, bad: float | None = None) -> Batch:
    """Four groups of two answers; `bad` is the advantage of the second answer of group 1."""
    groups = []
    for index in range(4):
        members = []
        for member in range(2):
            t = Trajectory(status=Status.COMPLETED, advantage=member - 0.5)
            t.extend_context([1, 2 + index])
            answer = [10 + index, 20 + member, 1]
            t.extend_sampled(Completion(answer, [-3.0] * 3, "stop", 0))
            members.append(t)
        groups.append(Group(Task.make("math" if index % 2 else "code", str(index)), members, index))
    if bad is not None:
        groups[1].trajectories[1].advantage = bad
    learner = replace(cfg.learner, tokens_per_microbatch=12)
    return make_batch(groups, ROWS, learner, 0.3)


async def dumped(folder: Path, rank: LearnerRank, cfg: Config, batch: Batch) -> Path:
    return await write_dump(folder, batch, Alone(rank), cfg, step=3, updates_applied=0)  # type: ignore[arg-type]


async def test_a_replay_repeats_the_step_to_the_bit(
    model: Path, cfg: Config, tmp_path: Path
) -> None:
    learner = rank(model, cfg)
    learner.step(batch(cfg), 1)  # so that the optimizer has a state
    place = await dumped(tmp_path / "step-000003", learner, cfg, batch(cfg))
    expected = learner.step(batch(cfg), 2)
    dump, config, weights = open_replay([f"replay={place}"])
    assert replace(config, replay=None) == cfg
    done = replay(dump, config, weights)
    assert done.exact and done.finite and done.first is None
    assert done.metrics == expected
    assert len(done.losses) == 2 and sum(done.losses) / 2 == pytest.approx(expected["loss/total"])


async def test_changed_keys_and_other_weights_take_effect(
    model: Path, cfg: Config, tmp_path: Path
) -> None:
    learner = rank(model, cfg)
    learner.step(batch(cfg), 1)
    place = await dumped(tmp_path / "step-000003", learner, cfg, batch(cfg))
    stored = replay(*open_replay([f"replay={place}"]))
    for overrides in ("loss.name=grpo loss.tau=0.1", f"model={model}", "learner.zero_stage=2"):
        other = replay(*open_replay([f"replay={place}", *overrides.split()]))
        assert other.exact == overrides.startswith("loss")
        same = other.losses[0] == stored.losses[0]
        assert same == overrides.startswith("learner"), "a ZeRO stage changes no loss"


async def test_a_kl_term_refers_to_the_policy_of_the_run(
    model: Path, cfg: Config, tmp_path: Path
) -> None:
    """Not to the dump's own weights, which a replay starts from."""
    cfg = replace(cfg, loss=replace(cfg.loss, kl_weight=1.0))
    learner = rank(model, cfg)
    learner.step(batch(cfg), 1)
    place = await dumped(tmp_path / "step-000003", learner, cfg, batch(cfg))
    exact = replay(*open_replay([f"replay={place}"]))
    anew = replay(*open_replay([f"replay={place}", "learner.zero_stage=2"]))
    without = replay(*open_replay([f"replay={place}", "loss.kl_weight=0"]))
    assert exact.exact and not anew.exact
    assert anew.losses[0] == exact.losses[0] != without.losses[0]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INF])
async def test_the_first_token_that_is_not_finite_is_named(
    model: Path, cfg: Config, tmp_path: Path, bad: float, capsys: pytest.CaptureFixture[str]
) -> None:
    place = await dumped(tmp_path / "step-000003", rank(model, cfg), cfg, batch(cfg, bad))
    assert run([f"replay={place}"]) == 3
    said = capsys.readouterr().out
    # Groups are dealt to the updates by kind, code before math: group 1 is the first math group.
    assert "first not finite: advantage (update 0, micro-batch" in said, said
    assert "of kind math, position 2, token id 11)" in said
    assert "loss of update 0: nan" in said or "loss of update 0: inf" in said
    assert "1 updates applied, 1 skipped" in said


async def test_weights_and_gradients_that_are_not_finite_are_told_apart(
    model: Path, cfg: Config
) -> None:
    from conjoint.rl.resume.diagnose import Diagnosis

    def first(change: Any) -> Any:
        learner = rank(model, cfg)
        change(learner)
        diagnosis = Diagnosis(learner.module, ("code", "math"))
        learner.inspect = diagnosis.inspect
        metrics = learner.step(batch(cfg), 0)
        assert metrics["nonfinite"] > 0 and diagnosis.first is not None
        return diagnosis.first

    def break_row(learner: LearnerRank) -> None:
        # Token 5 stands only in a PTX row, which predicts token 6 from it.
        with torch.no_grad():
            learner.module.model.embed_tokens.weight[5] = NAN  # type: ignore[union-attr]

    def break_backward(learner: LearnerRank) -> None:
        learner.module.model.norm.weight.register_hook(lambda g: g * NAN)  # type: ignore[union-attr]

    found = first(break_row)
    assert (found.what, found.kind, found.position, found.token) == ("log-prob", "ptx", 1, 6)
    assert first(break_backward).words().startswith("gradient of model.norm.weight (update 0")


async def test_a_finite_dump_ends_with_0(
    model: Path, cfg: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = await dumped(tmp_path / "step-000003", rank(model, cfg), cfg, batch(cfg))
    assert run([f"replay={place}"]) == 0
    assert "every number is finite" in capsys.readouterr().out


def test_many_ranks_fit_on_one(cfg: Config) -> None:
    one = batch(cfg)
    two = replace(one, updates=[
        replace(u, shards=[u.shards[0][:1], u.shards[0][1:]]) for u in one.updates
    ])  # fmt: skip
    merged = on_one_rank(two)
    for ours, theirs in zip(merged.updates, one.updates, strict=True):
        assert [m.tokens.tolist() for m in ours.shards[0]] == [
            m.tokens.tolist() for m in theirs.shards[0]
        ]
        assert (ours.num_tokens, ours.num_sequences) == (theirs.num_tokens, theirs.num_sequences)


async def test_what_is_no_dump_or_a_damaged_one_is_one_sentence(
    model: Path, cfg: Config, tmp_path: Path
) -> None:
    place = await dumped(tmp_path / "step-000003", rank(model, cfg), cfg, batch(cfg))
    assert not list(tmp_path.glob(".partial-*"))
    read_dump(place)

    def refusal(name: str, change: Any, *keys: str) -> str:
        copy = tmp_path / name
        shutil.copytree(place, copy)
        change(copy)
        with pytest.raises(ConjointError) as error:
            open_replay([f"replay={copy}", *keys])
        return str(error.value)

    def flip(copy: Path) -> None:
        """One bit of an array; zip's own headers have bytes that nobody reads."""
        data = bytearray((copy / "batch.npz").read_bytes())
        with zipfile.ZipFile(copy / "batch.npz") as archive:
            largest = max(archive.infolist(), key=lambda member: member.compress_size)
            following = [m.header_offset for m in archive.infolist()] + [archive.start_dir]
        data[min(at for at in following if at > largest.header_offset) - 1] ^= 1
        (copy / "batch.npz").write_bytes(data)

    assert "has no dump.json" in refusal("a", lambda c: (c / "dump.json").unlink())
    assert "batch.npz is missing" in refusal("b", lambda c: (c / "batch.npz").unlink())
    assert "is damaged" in refusal("c", flip)
    assert "is damaged" in refusal("d", lambda c: (c / "dump.json").write_text('{"step": 3'))
    weights = "learner/hf/model.safetensors"
    assert f"{weights} is missing" in refusal("e", lambda c: (c / weights).unlink())
    assert "has no manifest.json" in refusal("m", lambda c: (c / "manifest.json").unlink())
    assert "is missing" in refusal("f", lambda c: shutil.rmtree(c / "learner"))
    assert "leave experiment=quickstart out" in refusal("g", str, "experiment=quickstart")
    assert "unknown config key" in refusal("h", str, "optim.lrr=1")
