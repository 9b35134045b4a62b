"""Programs that people wrote: reference solutions of a public set are paid, broken ones are not."""

import ast
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import Score, Task
from conjoint.rewards.code.reward import CodeReward, validate_reference
from conjoint.rewards.sandbox.base import SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local.jail import LocalJail
from conjoint.scripts.eval.suites import SUITES
from tests.rewards.code import public_sets

_FILE = Path(__file__).parents[4] / "shared/data/mbpp_sanitized.json"
_ROWS = 120


def _cases(row: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The asserts of the form f(literals) == literal, as function cases."""
    entry, cases = "", []
    for line in row["test_list"]:
        statement = ast.parse(line).body[0]
        match statement:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[expected],
                )
            ):
                try:
                    values = [ast.literal_eval(arg) for arg in args]
                    case = {"args": values, "expected": ast.literal_eval(expected)}
                except ValueError:
                    continue
                entry = name
                cases.append(case)
    return entry, cases


def _tasks() -> list[tuple[Task, str]]:
    found = []
    for row in json.loads(_FILE.read_text()):
        entry, cases = _cases(row)
        if cases:
            tests = {"type": "function", "entry": entry, "cases": cases}
            task = Task.make("code", row["prompt"], {"language": "python", "tests": tests})
            validate_reference(task.reference)
            found.append((task, row["code"]))
    return found[:_ROWS]


def _grade(jobs: list[tuple[Task, str]]) -> list[Score]:
    async def run() -> list[Score]:
        jail = LocalJail(SandboxConfig(wall_s=60.0, cpu_s=20, workers=4))
        await jail.start()
        try:
            reward = CodeReward(jail)
            return list(await asyncio.gather(*(reward.check(*job) for job in jobs)))
        finally:
            await jail.close()

    try:
        return asyncio.run(run())
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def test_reference_solutions_are_paid_and_broken_ones_are_not() -> None:
    if not _FILE.exists():
        pytest.skip(f"no data at {_FILE}")
    tasks = _tasks()
    assert len(tasks) == _ROWS
    broken = [(task, code.replace("return", "return None and")) for task, code in tasks]
    scores = _grade(tasks + broken)
    refused = [s for s in scores[: len(tasks)] if s.value != 1.0]
    assert not refused, refused[:5]
    assert not any(s.value for s in scores[len(tasks) :])


@pytest.mark.parametrize(("suite", "every"), [("humaneval", 5), ("mbpp", 11)])
def test_public_sets_are_graded_as_in_a_plain_run(suite: str, every: int) -> None:
    """Some rows; `python -m tests.rewards.code.public_sets` takes all."""
    if not (public_sets.DATA / SUITES[suite].file).exists():
        pytest.skip(f"no data in {public_sets.DATA}")
    jobs = public_sets.solved(suite)[::every]
    changed = public_sets.mutants(jobs)[:8]
    objects = [(t, public_sets.returns_object(p, _entry(t))) for t, p in jobs]
    try:
        scores = public_sets.grade(jobs + changed + objects)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert [s for s in scores[: len(jobs)] if s.value != 1.0] == []
    assert not any(s.value != 0.0 for s in scores[len(jobs) + len(changed) :])
    graded = [s.value == 1.0 for s in scores[len(jobs) : len(jobs) + len(changed)]]
    plain = [public_sets.passes_plainly(*job) for job in changed]
    assert graded == plain and not all(plain)


def _entry(task: Task) -> str:
    return task.reference["tests"]["entry"]
