"""The run folder is claimed once, written whole, and loses nothing on resume."""

import json
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import yaml

from conjoint.envs.text import to_json
from conjoint.envs.types import Completion, ConjointError, Group, Score, Status, Task, Trajectory
from conjoint.rl.report.load import load_run
from conjoint.rl.run.folder import RunFolder, read_jsonl, write_jsonl
from conjoint.rl.run.metrics import JsonlTracker
from conjoint.rl.run.versions import collect_versions


class Color(Enum):
    RED = "red"


def filled(tmp_path: Path, steps: int = 4) -> RunFolder:
    run = RunFolder.create(tmp_path / "run", "demo")
    tracker = JsonlTracker(run.metrics)
    for step in range(1, steps + 1):
        tracker.log(step, {"reward/math": step / 10})
        run.write_rollouts(step, [Group(Task.make("math", "1+1?"), [Trajectory()])])
    for tag in ("start", "start_greedy", "judge_start", "end", "end_greedy", "judge_end"):
        run.write_eval(tag, [{"task_id": "a", "kind": "math", "score": 1.0}])
    run.write_eval("step-000002", [])
    run.write_eval("step-000004", [])
    run.summary.write_text("{}")
    return run


def test_default_name_is_dated_and_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder.create(None, "demo"), RunFolder.create(None, "demo")
    assert first.path != second.path
    assert first.path.parent == Path("runs")
    assert first.path.name.startswith("demo-20") and len(first.path.name) == len(
        "demo-20260101-000000"
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml"])
def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConjointError, match="already holds a run"):
        RunFolder.create(tmp_path, "demo")
    assert (tmp_path / name).read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_without_a_run_is_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    run = RunFolder.create(tmp_path, "demo")
    assert run.rollouts.is_dir() and run.eval.is_dir() and run.checkpoints.is_dir()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_of_two_runs_on_one_path_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RunFolder.exists
    looks: list[bool] = []

    def exists(run: RunFolder) -> bool:
        """At the first look the folder is free; right after it another run claims it."""
        looks.append(real.fget(run))  # pyright: ignore[reportOptionalCall]
        if len(looks) == 1:
            run.path.mkdir()
            run.metrics.write_text("the other run's")
        return looks[-1]

    monkeypatch.setattr(RunFolder, "exists", property(exists))
    with pytest.raises(ConjointError, match="already holds a run"):
        RunFolder.create(tmp_path / "run", "demo")
    assert looks == [False, True]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "the other run's"


@pytest.mark.parametrize("inside", ["run", "deep/run", ""])
def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConjointError, match="Cannot write to the run folder") as error:
        RunFolder.create(tmp_path / "file" / inside, "demo")
    assert "\n" not in str(error.value)
    assert "choose another run_dir" in str(error.value)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConjointError, match="holds no run to resume"):
        RunFolder.create(tmp_path, "demo", resume=True)
    with pytest.raises(ConjointError, match="resume=RUN_DIR"):
        RunFolder.create(None, "demo", resume=True)
    RunFolder.create(tmp_path, "demo")
    assert RunFolder.create(tmp_path, "demo", resume=True).path == tmp_path


def test_config_round_trips_and_opens_with_its_words(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "demo")
    config = {"path": Path("a/b"), "color": Color.RED, "pair": (1, 2), "text": "# no words\nü"}
    run.write_config(config, ["8 prompts x 4 answers", "two\nlines"])
    text = run.config.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {
        "path": "a/b", "color": "red", "pair": [1, 2], "text": "# no words\nü",
    }  # fmt: skip
    run.config.write_text(text + "# a remark of the user\n", encoding="utf-8")
    assert load_run(run.path).words == ["8 prompts x 4 answers", "two", "lines"]


def test_rollouts_hold_what_resume_tests_compare(tmp_path: Path) -> None:
    t = Trajectory(status=Status.COMPLETED, reward=0.75, advantage=0.25, temperature=0.9)
    t.budget, t.top_p = 48, 0.8
    t.extend_context([11, 12])
    t.extend_sampled(Completion([7, 8], [-0.1 - 0.2, -1e-17], "stop", 5, "engine-1"))
    t.messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "zwei \u2028 ü"},
    ]
    t.scores = [Score.of("math", 1.0, "equal to 2"), Score.infra_error("judge", "no reply")]
    run = RunFolder.create(tmp_path / "run", "demo")
    groups = [Group(Task.make("math", "1+1?"), [Trajectory(), t], index=3)]
    path = run.write_rollouts(12, groups)
    assert path.name == "step-000012.jsonl"
    row = read_jsonl(path)[1]
    assert (row["group"], row["member"], row["kind"], row["budget"]) == (3, 1, "math", 48)
    assert (row["temperature"], row["top_p"]) == (0.9, 0.8)
    assert row["tokens"] == [11, 12, 7, 8] and row["sampled"] == [0, 0, 1, 1]
    assert row["behavior_logprobs"] == t.behavior_logprobs  # to the last bit
    assert row["versions"] == [-1, -1, 5, 5] and row["num_tokens"] == 2
    assert row["response"] == "zwei \u2028 ü"
    assert row["scores"][0]["reasons"] == ["equal to 2"]
    assert row["scores"][1] == {
        "name": "judge", "value": None, "outcome": "infra_error", "reasons": ["no reply"],
    }  # fmt: skip
    assert (row["reward"], row["advantage"], row["status"]) == (0.75, 0.25, "completed")


def test_resume_moves_later_steps_aside_and_deletes_nothing(tmp_path: Path) -> None:
    run = filled(tmp_path)
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "re')
    before = {p.read_text() for p in run.path.rglob("*.jsonl") if p.parent != run.path}
    aside = run.truncate_after(2)
    assert aside is not None and aside.name.endswith("-after-step-000002")
    assert [r["step"] for r in read_jsonl(run.metrics)] == [1, 2]
    assert run.metrics.read_text().endswith("\n")
    assert sorted(p.name for p in run.rollouts.iterdir()) == [
        "step-000001.jsonl", "step-000002.jsonl",
    ]  # fmt: skip
    assert sorted(p.stem for p in run.eval.iterdir()) == [
        "judge_start", "start", "start_greedy", "step-000002",
    ]  # fmt: skip
    assert not run.summary.exists() and (aside / "summary.json").exists()
    assert [r["step"] for r in read_jsonl(aside / "metrics.jsonl")] == [3, 4]
    assert '{"step": 5, "re' in (aside / "metrics.jsonl").read_text()
    after = {p.read_text() for p in run.path.rglob("*.jsonl") if p.parent not in (run.path, aside)}
    assert after == before


def test_two_truncations_do_not_overwrite_each_other(tmp_path: Path) -> None:
    run = filled(tmp_path)
    first = run.truncate_after(2)
    JsonlTracker(run.metrics).log(3, {})
    second = run.truncate_after(2)
    assert first is not None and second is not None and first != second
    assert read_jsonl(first / "metrics.jsonl")[0]["reward/math"] == 0.3
    assert run.truncate_after(2) is None


def test_only_the_last_line_may_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert read_jsonl(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ConjointError, match=r"x\.jsonl, line 2"):
        read_jsonl(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"a": 1}])

    def rows():  # a row that cannot be made, in mid-write
        yield {"a": 2}
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert read_jsonl(path) == [{"a": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_json_takes_numpy_and_non_finite_numbers() -> None:
    value = {"a": np.float32(0.5), "b": np.int64(3), "c": float("-inf"), "d": {1: True}}
    assert json.loads(to_json(value)) == {"a": 0.5, "b": 3, "c": None, "d": {"1": True}}


def test_versions_say_what_the_run_was_made_with(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "demo")
    run.write_versions(device="cpu")
    found = json.loads(run.versions.read_text())
    assert set(found) == {*collect_versions(), "device"}
    assert found["packages"]["numpy"] == np.__version__
    assert found["cpus"] >= 1
