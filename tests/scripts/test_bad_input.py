"""What a user gets wrong, on the installed command: exit code 2, one sentence, nothing started.

And the dataset row forms that are right, by `--dry-run`.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from conjoint.scripts.main import app

COMMAND = str(Path(sys.executable).with_name("conjoint"))


def conjoint(cwd: Path, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, list(args))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def installed(cwd: Path, *args: str) -> tuple[int, str, str]:
    """The same of the installed command; fails if a process of it outlives it."""
    process = subprocess.Popen(
        [COMMAND, *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=120)
    deadline = time.monotonic() + 5
    while left := [p for p in psutil.process_iter() if _session(p) == process.pid]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    return process.returncode, out, err


def _session(process: psutil.Process) -> int:
    try:
        return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return -1


def refused(cwd: Path, *args: str, run: Callable[..., tuple[int, str, str]] = conjoint) -> str:
    """The one sentence of a refusal."""
    code, out, err = run(cwd, "train", *args)
    assert code == 2, (code, out, err)
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err and not (cwd / "runs").exists()
    return lines[0]


def test_the_installed_command_refuses_and_leaves_nothing_running(tmp_path: Path):
    (tmp_path / "rewarding.py").write_text("def present(task, response):\n    return 1.0\n")
    key = "reward.kinds.math=[rewarding.py:absent]"  # read in a process of its own
    assert "absent" in refused(tmp_path, key, run=installed)


BROKEN_RUBRIC = """name: bad
version: one
kind: core
intent: It is kind.
short: kind
criteria: [{text: It is kind.}]
"""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("nonsense=1", ["nonsense"]),
        ("rollout.group_sise=4", ["rollout.group_sise", "group_size"]),
        ("num_steps=soon", ["num_steps", "soon"]),
        ("experiment=nope", ["nope", "quickstart"]),
        ("rollout.groups_per_step=7 learner.updates_per_batch=2", ["groups_per_step=7", "=2"]),
        ("weight_sync.backend=nccl", ["nccl", "gpus_per_engine"]),
        ("loss.clip_low=0.1", ["loss.clip_low", "k2"]),
        ("model=not-a-folder", ["not-a-folder"]),
        ("model=./empty", ["empty", "config.json"]),
        ("tasks.math.path=missing.jsonl", ["missing.jsonl"]),
        ("tasks.math.weight=-1", ["tasks.math.weight"]),
        ("reward.rubrics=[nope]", ["nope"]),
        ("reward.rubrics=[bad.yaml]", ["rubric file bad.yaml:2", "'version'", "got 'one'"]),
        ("reward.kinds.math=[nope]", ["reward.kinds.math", "nope"]),
        ("reward.kinds.math=[rewarding.py:absent]", ["reward.kinds.math", "absent"]),
        ("resume=nowhere", ["nowhere"]),
        ("resume_allow=[optim.lr]", ["resume_allow", "resume=RUN_DIR"]),
        ("replay=nowhere", ["nowhere", "dump.json"]),
        ("run_dir=taken", ["taken", "already holds a run"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    tmp_path: Path, overrides: str, words: list[str]
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rewarding.py").write_text("def present(task, response):\n    return 1.0\n")
    (tmp_path / "bad.yaml").write_text(BROKEN_RUBRIC)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "metrics.jsonl").write_text('{"step": 1}\n')
    sentence = refused(tmp_path, *overrides.split())
    for word in words:
        assert word in sentence
    assert (tmp_path / "taken" / "metrics.jsonl").read_text() == '{"step": 1}\n'


GOOD: dict[str, Any] = {"question": "1+1?", "answer": "Two. #### 2"}


@pytest.mark.parametrize(
    ("second_line", "words"),
    [
        ("{broken", ["line 2"]),
        ('{"answer": "#### 2"}', ["line 2", "prompt"]),
        ('{"question": "1+1?", "answer": "no mark"}', ["line 2", "answer"]),
        ('{"prompt": 7, "answer": "2"}', ["line 2", "prompt"]),
        ('{"prompt": "1+1?", "answer": null}', ["line 2"]),
        ('{"prompt": [{"role": "user"}], "answer": "2"}', ["line 2", "content"]),
        ('{"prompt": "1+1?", "reward_model": {}}', ["line 2", "ground_truth"]),
    ],
)
def test_a_malformed_row_names_file_line_and_field(
    tmp_path: Path, second_line: str, words: list[str]
):
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD) + "\n" + second_line + "\n")
    sentence = refused(tmp_path, "tasks.math.path=rows.jsonl")
    for word in ["rows.jsonl", *words]:
        assert word in sentence


MESSAGES = [{"role": "user", "content": "What is 1+1?"}]
ROWS: dict[str, dict[str, Any]] = {
    "trl text": {"prompt": "What is 1+1?", "answer": "2", "level": 1},
    "trl messages": {"prompt": MESSAGES, "solution": "2"},
    "verl": {
        "data_source": "gsm8k",
        "prompt": MESSAGES,
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0},
    },
    "gsm8k": GOOD,
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", ROWS)
def test_every_row_form_is_accepted(tmp_path: Path, form: str, ending: str):
    file = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        file.write_text(json.dumps(ROWS[form]) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([ROWS[form]]), file)
    code, out, err = conjoint(
        tmp_path, "quickstart", "--dry-run", f"tasks.math.path={file}", "eval.tasks=0"
    )
    assert code == 0, err
    assert "nothing started" in out and not (tmp_path / "runs").exists()
