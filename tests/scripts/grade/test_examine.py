"""`--probe` and `--check` in words, the probes of a run at its start, and the verb's exit codes."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from conjoint.envs.types import ConjointError, Score, Task
from conjoint.rewards.base import Example, RewardFn
from conjoint.rewards.combine import each
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.probes import at_start as probing
from conjoint.rewards.registry import (
    REWARDS,
    Parts,
    RewardConfig,
    always_judged,
    load_own_rewards,
    reward_table,
)
from conjoint.rewards.sandbox.base import Program, Result
from conjoint.scripts.grade import main as verb
from conjoint.scripts.grade.config import load_grade
from conjoint.scripts.grade.examine import check_words, probe_words
from conjoint.scripts.main import app
from tests.fakes import ScriptedChat

COMMAND = str(Path(sys.executable).with_name("conjoint"))
OWN = """
def contains(task, response):
    return float(str(task.reference) in response)

def honest(task, response):
    return float(response.strip() == str(task.reference))

def zero(task, response):
    return 0.0

def picky(task, response):
    return float(task.reference["answer"] == response)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rewarding.py"
    path.write_text(OWN)
    return path


def probed(*keys: str) -> tuple[str, bool]:
    words, found = probe_words(load_grade(list(keys)))
    return "\n".join(words), found


def rows(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return f"input={path}"


SHIPPED = list(REWARDS)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_reward_pays_a_probe(name: str):
    said, found = probed(f"reward={name}")
    assert not found and f"{name} pays none of" in said and "PAID" not in said
    assert "empty" in said
    assert ("own cheat" in said) == any(e.cheats for e in REWARDS[name].examples())
    if not always_judged(name):
        tasks = len(REWARDS[name].examples())
        assert f"right answers: {tasks} of {tasks} paid" in said


def test_a_gameable_reward_of_ones_own_is_caught_and_told_how(file: Path):
    said, found = probed(f"reward={file}:contains")
    assert found and "right answers: 2 of 2 paid" in said
    assert "PAID 1.00 answer stuffing, a list: '389, 390, 391, 392, 393'" in said
    assert "PAID 1.00 over budget" in said and "cheating answers" in said.splitlines()[-1]


def test_rows_of_a_file_are_probed_with_their_responses_as_right_answers(
    tmp_path: Path, file: Path
):
    row = {"kind": "math", "prompt": "?", "reference": {"answer": "7"}, "response": "7"}
    given = rows(tmp_path, row, row, {**row, "prompt": "!", "response": "8"})
    said, found = probed(f"reward={file}:picky", given)
    assert not found and "right answers: 1 of 2 paid" in said
    math = rows(tmp_path, {**row, "reference": "7"})
    assert probed("reward=math", math)[1] is False


def test_a_reward_that_pays_nothing_at_all_proves_nothing(file: Path):
    said, found = probed(f"reward={file}:zero")
    assert not found and "proves nothing" in said


def test_a_reward_that_can_score_no_probe_is_refused(file: Path):
    with pytest.raises(ConjointError, match=r"scored none of the \d+ probes .*TypeError.*input=F"):
        probed(f"reward={file}:picky")


def test_a_judged_reward_says_what_only_a_judge_can_decide():
    said, found = probed("reward=safety")
    assert not found and "are for a judge to decide; give judge.endpoint=URL" in said


@pytest.mark.parametrize(("verdict", "paid"), [("pass", True), ("fail", False)])
def test_with_a_judge_its_cheats_are_tried_too(monkeypatch, verdict: str, paid: bool):
    """A judge that passes everything is found out, whatever code refuses by itself."""

    class Same(ScriptedChat):
        async def check(self) -> None: ...

        async def close(self) -> None: ...

    judge = Same(lambda prompt: json.dumps({"reason": "so", "verdict": verdict}))
    monkeypatch.setattr("conjoint.scripts.eval.grader.judge_endpoint", lambda cfg: judge)
    said, found = probed("reward=safety", "judge.endpoint=http://h/v1", "judge.endpoint_model=m")
    assert found is paid and judge.calls and "for a judge to decide" not in said
    assert ("PAID 1.00 own cheat, help in a story" in said) is paid


def test_faults_are_printed_and_counted(file: Path):
    words, found = check_words(load_grade([f"reward={file}:picky"]))
    assert found and words[-1] == f"faults found: {len(words) - 2}"
    assert any(w.startswith("FAULT wrong type (reference is null): raises: the") for w in words)
    words, found = check_words(load_grade([f"reward={file}:honest"]))
    assert not found and words[-1] == "no fault found"
    assert "the form (task, response)" in words[0]


def test_only_a_reward_of_ones_own_is_checked():
    with pytest.raises(ConjointError, match="conjoint's are tried with --probe"):
        check_words(load_grade(["reward=math"]))


# -- at the start of a run -----------------------------------------------------------------------


class NoSandbox:
    async def run(self, program: Program) -> Result:
        raise AssertionError("no program is to run")

    async def close(self) -> None: ...


def at_start(kinds: dict[str, list[str]]) -> list[str]:
    cfg = RewardConfig(kinds=kinds)
    own = load_own_rewards(cfg)
    table = reward_table(Parts(cfg, NoSandbox(), Judge(JudgeConfig()), []), own)
    first = {kind: Task.make(kind, f"A task of {kind}?", "12") for kind in kinds}

    async def probe() -> list[str]:
        try:
            return await probing.probe_rewards(kinds, table, first)
        finally:
            await own.close()

    return asyncio.run(probe())


def test_a_run_says_which_of_its_rewards_pay_cheats(file: Path):
    own = f"{file}:contains"
    words = at_start({"safety": ["safety"], "critic": ["critic"], "own": [own], "open": ["rubric"]})
    assert any("cheats is paid by safety, critic" in w for w in words)
    [paid] = [w for w in words if "PAID" in w]
    assert f"PAID by {own} (answer stuffing)" in paid and "conjoint grade --probe" in paid
    assert any("more are for a judge" in w for w in words)


async def test_a_reward_that_hangs_does_not_hold_up_the_start(monkeypatch):
    monkeypatch.setattr(probing, "_DEADLINE_S", 0.2)
    one = replace(REWARDS["math"], examples=lambda: [Example(Task.make("m", "?"), "")])
    monkeypatch.setitem(REWARDS, "math", one)

    async def hang(task: Task, response: str) -> Score:
        await asyncio.sleep(1000)
        raise AssertionError

    reward: RewardFn = each("math", hang)
    words = await probing.probe_rewards({"math": ["math"]}, {"math": {"math": reward}}, {})
    assert words == [
        "Probes: math gave no score to 16 of 16 cheats: no score within 0.2 s for all probes "
        "together"
    ]


# -- the verb ------------------------------------------------------------------------------------


def test_the_command_grades_a_file(tmp_path: Path):
    row = {"kind": "math", "prompt": "?", "reference": "7", "response": "7"}
    rows(tmp_path, row, {**row, "reference": None})
    command = [COMMAND, "grade", "reward=math", "input=rows.jsonl", "output=out.jsonl"]
    settings: Any = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, **settings)
    assert (done.returncode, done.stderr) == (0, "") and "1 pass, 1 error" in done.stdout
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["status"] for r in out] == ["pass", "error"]
    again = subprocess.run(command, **settings)
    assert again.returncode == 2 and again.stderr.startswith("error: output=out.jsonl exists")


def test_exit_codes_tell_what_was_found(tmp_path: Path, file: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"kind": "math", "prompt": "?", "reference": "", "response": "7"}
    given = ["reward=math", rows(tmp_path, {**row, "reference": "7"}, row)]

    def conjoint(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["grade", *args])
        return done.exit_code, done.stdout + done.stderr

    code, said = conjoint("--explain", "2", *given)
    assert code == 0 and "verdict: error, no score" in said
    code, said = conjoint("--check", "rewarding.py:picky")
    assert code == verb.FOUND and "FAULT" in said
    assert conjoint("--probe", "reward=rewarding.py:contains")[0] == verb.FOUND
    assert conjoint("--probe", "reward=rewarding.py:honest")[0] == 0
    code, said = conjoint("--check", "rewarding.py:absent")
    assert code == 2 and "no function absent" in said
    code, said = conjoint("--check", "rewarding.py:honest", "--probe")
    assert code == 2 and "give one of" in said
