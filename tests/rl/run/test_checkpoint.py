"""What is kept, what a damaged or half-written checkpoint says, and resuming with other keys."""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import load_config
from conjoint.rl.resume.resume import open_resume
from conjoint.rl.run.checkpoint import (
    CheckpointConfig,
    finished_checkpoints,
    prune,
    read_checkpoint,
    save_checkpoint,
)
from conjoint.rl.run.folder import RunFolder, read_jsonl
from tests.fakes import FakeLearner


async def saved(root: Path, *steps: int) -> Path:
    for step in steps:
        await save_checkpoint(root, step, FakeLearner(), {"at": step})
    return root


def names(root: Path) -> list[str]:
    return [folder.name for folder in finished_checkpoints(root)]


def test_each_rule_keeps_its_own() -> None:
    steps, scores = range(2, 22, 2), {4: 0.5, 8: 0.7, 12: 0.7, 16: 0.6}
    assert CheckpointConfig(keep=2).kept(steps, scores) == {18, 20}
    assert CheckpointConfig(keep=1, keep_every=6).kept(steps, scores) == {6, 12, 18, 20}
    assert CheckpointConfig(keep=1, keep_best=True).kept(steps, scores) == {12, 20}
    assert CheckpointConfig(keep=1, keep_best=True).kept(steps, {}) == {20}
    assert CheckpointConfig(keep=99).kept(steps, scores) == set(steps)


def test_an_evaluated_step_is_saved_if_the_best_one_is_kept() -> None:
    assert not CheckpointConfig(every=5).due(4, 10, evaluated=True)
    assert CheckpointConfig(every=5, keep_best=True).due(4, 10, evaluated=True)
    assert not CheckpointConfig(every=5, keep_best=True).due(4, 10)
    assert CheckpointConfig(every=0).due(10, 10)


@pytest.mark.parametrize(
    "keys", [{"every": -1}, {"keep": 0}, {"keep_every": 7}, {"every": 0, "keep_every": 5}]
)
def test_rules_that_cannot_hold_are_refused(keys: dict) -> None:
    with pytest.raises(ConjointError, match=r"checkpoint\."):
        CheckpointConfig(**keys).validate()


async def test_prune_deletes_what_no_rule_keeps(tmp_path: Path) -> None:
    root = await saved(tmp_path, 1, 2, 3, 4)
    prune(root, CheckpointConfig(keep=1, keep_every=2, every=0, keep_best=True), {1: 0.9, 3: 0.1})
    assert names(root) == ["step-000001", "step-000002", "step-000004"]


async def test_the_newest_or_the_named_one_is_read(tmp_path: Path) -> None:
    root = await saved(tmp_path, 1, 2)
    assert read_checkpoint(root) == (root / "step-000002", 2, {"at": 2})
    assert read_checkpoint(root, "step-000001") == (root / "step-000001", 1, {"at": 1})
    with pytest.raises(ConjointError, match=r"step-000003 is not a finished .*step-000001, step-"):
        read_checkpoint(root, "step-000003")


async def test_a_flipped_byte_names_its_file_and_the_checkpoint_before(tmp_path: Path) -> None:
    root = await saved(tmp_path, 1, 2)
    shard = root / "step-000002" / "hf" / "config.json"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ConjointError) as error:
        read_checkpoint(root)
    assert "hf/config.json is damaged" in str(error.value)
    assert f"resume={root / 'step-000001'}" in str(error.value)
    assert read_checkpoint(root, "step-000001")[1] == 1
    shard.unlink()
    with pytest.raises(ConjointError, match=r"config\.json is missing"):
        read_checkpoint(root)
    shutil.rmtree(root / "step-000001")
    with pytest.raises(ConjointError, match="none before it"):
        read_checkpoint(root)


@pytest.mark.parametrize(
    "manifest", ["{", "[]", '{"step": 2}', '{"step": 3, "sha256": {}}', '{"step": 2, "sha256": 1}']
)
async def test_a_damaged_manifest_is_named(tmp_path: Path, manifest: str) -> None:
    root = await saved(tmp_path, 1, 2)
    (root / "step-000002" / "manifest.json").write_text(manifest)
    with pytest.raises(ConjointError, match=r"manifest\.json is .*resume=.*step-000001"):
        read_checkpoint(root)


async def test_a_save_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    root = await saved(tmp_path, 1)

    class Full(FakeLearner):
        async def save(self, folder: Path) -> None:
            await super().save(folder)
            raise OSError(28, "No space left on device")

    with pytest.raises(ConjointError, match=r"cannot write the checkpoint .*No space left"):
        await save_checkpoint(root, 2, Full(), {})
    assert [p.name for p in root.iterdir()] == ["step-000001"]


async def test_what_a_killed_save_left_is_ignored_and_then_removed(tmp_path: Path) -> None:
    root = await saved(tmp_path, 1)
    (root / ".partial-step-000002" / "hf").mkdir(parents=True)
    (root / "step-000003").mkdir()  # as if its manifest had been lost
    assert read_checkpoint(root)[1] == 1
    await saved(root, 3)
    assert sorted(p.name for p in root.iterdir()) == ["step-000001", "step-000003"]


async def test_the_state_of_another_version_is_refused_and_its_weights_are_offered(
    tmp_path: Path,
) -> None:
    root = await saved(tmp_path, 1)
    folder = root / "step-000001"
    (folder / "state.json").write_text('{"at": 1}')  # as before there was a format
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    manifest["sha256"]["state.json"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ConjointError, match=r"has format 1 and this conjoint reads format .*model=.*step-000001/hf"
    ):
        read_checkpoint(root)


# Resuming with other keys.


@pytest.fixture
async def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", "demo")
    cfg = load_config(["experiment=quickstart", "num_steps=4", f"run_dir={folder.path}"])
    folder.write_config(asdict(cfg))
    await saved(folder.checkpoints, 2, 4)
    return folder


def refusal(*overrides: str) -> str:
    with pytest.raises(ConjointError) as refused:
        open_resume(overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_resume_goes_on_with_the_stored_configuration(run: RunFolder) -> None:
    cfg, resume = open_resume([f"resume={run.path}"])
    assert asdict(cfg) == yaml.safe_load(run.config.read_text())
    assert resume.begin(cfg.num_steps)[1] == 4
    (line,) = read_jsonl(run.resumes)
    assert (line["step"], line["changed"]) == (4, {})


async def test_a_run_that_stored_keys_of_an_earlier_version_resumes(run: RunFolder) -> None:
    stored = yaml.safe_load(run.config.read_text())
    stored["bench"], stored["sft"]["length_rows"] = {"repeats": 2}, 0
    run.config.write_text(yaml.safe_dump(stored))
    cfg, resume = open_resume([f"resume={run.path}"])
    assert resume.changed == {} and "bench" not in asdict(cfg)


async def test_a_run_from_before_loss_old_keeps_the_learner_as_its_old_policy(
    run: RunFolder,
) -> None:
    stored = yaml.safe_load(run.config.read_text())
    del stored["loss"]["old"]
    stored["mismatch"]["correction"] = "truncate"
    run.config.write_text(yaml.safe_dump(stored))
    cfg, resume = open_resume([f"resume={run.path}"])
    assert (cfg.loss.name, cfg.loss.old_policy) == ("k2", "learner") and resume.changed == {}


async def test_keys_that_train_nothing_may_change_and_are_recorded(run: RunFolder) -> None:
    cfg, resume = open_resume(
        [f"resume={run.path}", "num_steps=6", "eval.every=2", "guard.max_gap=0.5"]
    )
    assert (cfg.num_steps, cfg.eval.every, cfg.guard.max_gap) == (6, 2, 0.5)
    assert cfg.ptx.weight == 1.0, "the rest is the stored run's, not a default"
    resume.begin(cfg.num_steps)
    changed = read_jsonl(run.resumes)[0]["changed"]
    assert changed == {"num_steps": [4, 6], "eval.every": [0, 2], "guard.max_gap": [0.05, 0.5]}


async def test_a_key_that_changes_the_training_is_refused_with_the_difference(
    run: RunFolder,
) -> None:
    said = refusal(f"resume={run.path}", "optim.lr=1e-5", "tasks.math.weight=1", "num_steps=6")
    assert "optim.lr: 0.0003 -> 1e-05" in said and "tasks.math.weight: 6.0 -> 1.0" in said
    assert "resume_allow=[optim.lr,tasks.math.weight]" in said and "num_steps" not in said
    for key in ("seed=1", "eval.seed=5", "learner.ranks=2", "model=smollm2-135m"):
        assert f"{key.partition('=')[0]}: " in refusal(f"resume={run.path}", key)


async def test_a_key_allowed_by_name_is_changed_and_recorded(run: RunFolder) -> None:
    cfg, resume = open_resume([f"resume={run.path}", "optim.lr=1e-5", "resume_allow=[optim.lr]"])
    assert cfg.optim.lr == 1e-5 and cfg.resume_allow == []
    assert resume.changed == {"optim.lr": (3e-4, 1e-5)}
    said = refusal(f"resume={run.path}", "optim.lr=1e-5", "optim.eps=1", "resume_allow=[optim.lr]")
    assert "optim.eps" in said and "optim.lr:" not in said


async def test_num_steps_may_not_stretch_a_schedule(tmp_path: Path, run: RunFolder) -> None:
    for keys in (
        ["optim.schedule=linear"],
        ["ptx.schedule=cosine"],
        ["budget.schedule=linear", "budget.end_tokens.math=9"],
        ["rollout.temperature.end=0.5"],
    ):
        run.write_config(asdict(load_config(["experiment=quickstart", "num_steps=4", *keys])))
        assert "num_steps: 4 -> 6" in refusal(f"resume={run.path}", "num_steps=6")
        open_resume([f"resume={run.path}", "num_steps=6", "resume_allow=[num_steps]"])


async def test_fewer_steps_than_are_done_are_refused_before_anything_moves(run: RunFolder) -> None:
    cfg, resume = open_resume([f"resume={run.path}", "num_steps=3"])
    with pytest.raises(ConjointError, match="num_steps=3 is below the 4 steps"):
        resume.begin(cfg.num_steps)
    assert names(run.checkpoints) == ["step-000002", "step-000004"] and not run.resumes.exists()


async def test_an_older_checkpoint_sets_the_later_ones_aside(run: RunFolder) -> None:
    cfg, resume = open_resume([f"resume={run.checkpoints / 'step-000002'}"])
    assert resume.begin(cfg.num_steps) == (run.checkpoints / "step-000002", 2, {"at": 2})
    assert names(run.checkpoints) == ["step-000002"]
    (aside,) = (run.path / "set-aside").iterdir()
    assert json.loads((aside / "checkpoints/step-000004/manifest.json").read_text())["step"] == 4


async def test_a_file_of_configs_cannot_be_chosen_on_resume(run: RunFolder) -> None:
    assert "leave experiment=gpu_8 out" in refusal(f"resume={run.path}", "experiment=gpu_8")
    assert "such as loss.KEY=VALUE" in refusal(f"resume={run.path}", "loss=grpo")


async def test_resume_allow_needs_a_resume_and_the_best_needs_evaluations() -> None:
    with pytest.raises(ConjointError, match="resume_allow has no effect"):
        load_config(["resume_allow=[optim.lr]"])
    for keys in (["eval.every=0"], ["eval.every=2", "eval.tasks=0"]):
        with pytest.raises(ConjointError, match="needs evaluations to compare"):
            load_config(["checkpoint.keep_best=true", *keys])
