"""The command as users start it: exit codes, one sentence on stderr, lazy imports."""

import importlib.metadata
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conjoint.envs.types import ConjointError, StopRun
from conjoint.scripts import main as command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def verb(monkeypatch):
    """Replaces scripts/NAME.py by a `run` that records its arguments and does what it is told."""

    def install(name: str, does: object = None) -> list[tuple]:
        calls: list[tuple] = []

        def run(*args: object, **options: object) -> object:
            calls.append((args, options))
            if isinstance(does, BaseException):
                raise does
            return does

        module = types.ModuleType(f"conjoint.scripts.{name}")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"conjoint.scripts.{name}", module)
        return calls

    return install


def call(*argv: str):
    return CliRunner().invoke(command.app, list(argv))


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        (None, 0, ""),
        (143, 143, ""),
        (ConjointError("no such key: lr."), 2, "error: no such key: lr.\n"),
        (StopRun("too few graded samples."), 3, "stopped: too few graded samples.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_code_and_sentence_tell_how_it_ended(verb, does, code, said):
    verb("train", does)
    result = call("train", "a=1")
    assert (result.exit_code, result.stderr, result.stdout) == (code, said, "")


def test_a_fault_in_the_code_keeps_its_traceback(verb):
    verb("train", ZeroDivisionError())
    result = call("train")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_overrides_and_flags_reach_the_verb_as_they_were_typed(verb):
    calls = verb("train")
    call("train", "a=1", "--dry-run", "+b.c=[1,2]", "~d", "e=-1")
    call("quickstart", "num_steps=2")
    assert calls == [
        ((["a=1", "+b.c=[1,2]", "~d", "e=-1"],), {"dry_run": True}),
        ((["experiment=quickstart", "num_steps=2"],), {"dry_run": False}),
    ]


def test_a_home_folder_is_expanded_wherever_a_path_begins_and_nowhere_else(verb, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    calls, merges = verb("train"), verb("merge")
    call("train", "run_dir=~/a", "reward.rubrics=[~/b.yaml,'~/c']", "data=~", "agent.run=py ~/d")
    call("train", "~optim.lr", "tasks.math.prompt_suffix=about ~5 or ~ words", "a=b~/c", "x=~~")
    call("merge", "~/adapter", "out", "--base", "~/base")
    paths = ["run_dir=/home/me/a", "reward.rubrics=[/home/me/b.yaml,'/home/me/c']", "data=/home/me"]
    other = ["~optim.lr", "tasks.math.prompt_suffix=about ~5 or ~ words", "a=b~/c", "x=~~"]
    assert calls[0][0] == ([*paths, "agent.run=py /home/me/d"],) and calls[1][0] == (other,)
    assert merges == [((Path("/home/me/adapter"), Path("out")), {"base": "/home/me/base"})]


def test_every_command_finds_files_in_the_home_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    row = {"kind": "math", "prompt": "2+2?", "reference": "4", "response": "4"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    done = call("grade", "reward=math", "input=~/in.jsonl", "output=~/out.jsonl")
    assert done.exit_code == 0 and (tmp_path / "out.jsonl").is_file(), done.output
    keys = ["tasks.math.path", "ptx.source", "eval.pairs", "sft.preferences.path"]
    for word in (*(f"{key}=~/absent.jsonl" for key in keys), "reward.kinds.math=[~/absent.py:f]"):
        done = call("quickstart", "--dry-run", word)
        assert done.exit_code == 2 and f"{tmp_path}/absent." in done.stderr, word
    for key in ("model", "resume", "replay", "reward.safety_rubric"):
        done = call("train", "--dry-run", f"{key}=~/absent", "reward.kinds.math=[safety]")
        assert done.exit_code == 2 and f"{tmp_path}/absent" in done.stderr, key


def test_data_takes_a_tool_and_its_keys_and_names_the_tools(verb):
    calls = verb("data")
    call("data", "validate", "input=a.jsonl", "output=b.jsonl")
    assert calls == [(("validate", ["input=a.jsonl", "output=b.jsonl"]), {})]


def test_every_data_tool_is_in_the_help_and_an_unknown_one_is_refused():
    from conjoint.scripts.data.main import SUBVERBS

    shown = call("data", "--help").stdout
    assert all(name in shown for name in SUBVERBS)
    for name in SUBVERBS:
        # Every tool refuses a call without files, so it is there and checks before it works.
        result = call("data", name)
        assert result.exit_code == 2 and "output=FILE" in result.stderr, name
    result = call("data", "dedupe")
    assert result.exit_code == 2 and "choose difficulty, guessable, decontaminate" in result.stderr


def test_report_takes_a_folder_and_sft_takes_keys(verb):
    reports, sfts = verb("report"), verb("sft")
    call("report", "runs/a")
    call("sft", "seed=1")
    assert reports == [((Path("runs/a"),), {})]
    assert sfts == [((["seed=1"],), {})]


def test_a_verb_runs_as_a_module_too(verb):
    calls = verb("train")
    with pytest.raises(SystemExit) as ended:
        command.main_of("train", ["a=1"])
    assert ended.value.code == 0
    assert calls == [((["a=1"],), {"dry_run": False})]


@pytest.mark.parametrize("argv", [["bogus"], ["train", "--bogus"], ["report"]])
def test_a_wrong_verb_flag_or_missing_folder_is_a_mistake(argv):
    assert call(*argv).exit_code == 2


def test_the_report_of_no_run_is_one_sentence(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "conjoint.scripts.report", str(tmp_path / "none")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_the_installed_command_points_here():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="conjoint")
    assert entry.load() is command.main


def test_help_imports_nothing_heavy():
    code = "import sys, conjoint.scripts.main; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    heavy = {"torch", "transformers", "vllm", "ray", "deepspeed", "hydra", "numpy", "wandb"}
    assert not loaded & heavy
