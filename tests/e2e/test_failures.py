"""What breaks on our side during a run, on the installed command and real engines: rewards that
raise, hang or return no number, the jail, the judge. Masked and counted while enough is graded, the
end of the run with one sentence when too little is."""

import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from conjoint.rl.run.folder import read_jsonl
from tests.e2e.conftest import COMMAND, PLAIN, SMALL, left_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

REWARDS = """
import itertools
import time
from pathlib import Path

calls = itertools.count()  # begins anew in the worker that replaces a killed one

def breaks(task, response):
    how = next(calls) % 3
    if how == 0:
        raise RuntimeError("the grader is down")
    if how == 1:
        return float("nan")
    time.sleep(1000)

def breaks_when_told(prompts, completions, reference, **columns):
    if Path(__file__).with_name("told").exists():
        raise RuntimeError("the other grader is down")
    assert len(prompts) == len(reference) == len(completions)
    return [len(completion) % 2 for completion in completions]
"""


def test_failures_are_masked_and_counted_until_too_little_is_graded(tmp_path: Path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    run = tmp_path / "run"
    process = subprocess.Popen(
        [str(COMMAND), "quickstart", *SMALL, *PLAIN, f"run_dir={run}", "num_steps=1000",
         "eval.tasks=0",
         "eval.judge_pairs=0", "checkpoint.every=0", "tasks.math.weight=12", "critic.refine=false",
         f"reward.kinds.math=[{tmp_path}/rewards.py:breaks_when_told]",
         f"reward.kinds.instruction=[{tmp_path}/rewards.py:breaks]",
         "reward.deadline_s=1",
         "judge.template=full", "reward.rubrics=[clarity]",  # too long a prompt: no reply comes
         "guard.max_masked_share=1", "guard.min_graded_share=0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    started = []
    deadline = time.monotonic() + 600
    while process.poll() is None:
        assert time.monotonic() < deadline, "the run never stopped"
        if (run / "versions.json").exists():  # everything has started
            started = started or psutil.Process(process.pid).children(recursive=True)
            break_the_jail(process.pid)
        if any("groups" in row for row in read_jsonl(run / "metrics.jsonl")):
            (tmp_path / "told").touch()
        time.sleep(0.02)
    output = process.communicate()[0]

    assert process.returncode == 3, output
    (said,) = [line for line in output.splitlines() if line.startswith("stopped: ")]
    assert re.search(r"Only \d% of the answers of this batch could be graded", said), said
    assert "Traceback" not in output
    assert not left_running(started)
    assert (run / "report.html").is_file()
    first = next(row for row in read_jsonl(run / "metrics.jsonl") if "groups" in row)
    for kind in ("instruction", "open", "code"):
        assert first[f"masked/{kind}"] == 1.0, kind
        assert f"reward/{kind}" not in first
    assert first["masked/math"] == 0.0 and first["judge/failed_share"] == 1.0
    rows = [r for r in read_jsonl(run / "rollouts" / "step-000001.jsonl") if r["kind"] != "math"]
    assert rows and all(r["reward"] is None and r["advantage"] is None for r in rows)
    reasons = str([r["scores"] for r in rows])
    for why in ("the grader is down", "returned nan", "took longer than 1 s", "zygote"):
        assert why in reasons, why
    # The reward of math has TRL's signature.
    rows = [r for r in read_jsonl(run / "rollouts" / "step-000001.jsonl") if r["kind"] == "math"]
    assert rows and all(r["reference"] for r in rows)
    for row in rows:
        (score,) = row["scores"]
        assert (score["name"], score["value"]) == ("breaks_when_told", len(row["response"]) % 2)
    assert re.search(r"Probes: \d+ of \d+ cheats are PAID by \S+:breaks_when_told", output), output


def break_the_jail(command: int) -> None:
    """Kill whatever runs programs, faster than it can be replaced."""
    for child in psutil.Process(command).children():
        try:
            if any("zygote.py" in word for word in child.cmdline()):
                child.kill()
        except psutil.NoSuchProcess:
            continue
