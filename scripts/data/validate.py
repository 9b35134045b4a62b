"""`conjoint data validate`: code rows whose tests say what they should, by running them.

A row stays if its own solutions pass its tests in the jail and a trivial program does not. With
three solutions or more they vote, as Kimi k1.5 has it (section 2.1.1 of its report, 7 and 9 of 10):
a case counts if enough of them pass it, the row if enough of them pass all such cases.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from conjoint.envs.sources.dataset import rows_and_tasks
from conjoint.envs.types import ConjointError, Outcome, Task
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.code.rows import as_reference
from conjoint.rewards.registry import reference_check
from conjoint.rewards.sandbox.backend import make_sandbox
from conjoint.rewards.sandbox.base import Sandbox, SandboxConfig
from conjoint.scripts.data.rows import FilesConfig, Tally, configured
from conjoint.scripts.new_file import new_file

VOTERS = 3
"""Solutions from which they vote on cases; fewer must pass every case."""
_AT_ONCE = 64
"""Rows in work."""

NO_SOLUTION = "no solution to run"
TIMES_OUT = "a solution times out"
FAILS = "a solution fails the tests"
DISAGREE = "the solutions disagree"
TRIVIAL = "a trivial program passes the tests"
UNCHECKED = "could not be checked: the sandbox failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateConfig(FilesConfig):
    """`conjoint data validate`. The solutions are the rows' field `solutions` or `solution`."""

    case_share: float = 0.7
    """Share of the solutions that must pass a case, from three solutions on; other cases are
    dropped."""
    solution_share: float = 0.9
    """Likewise, the share that must pass all cases that stay."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)

    def validate(self) -> None:
        FilesConfig.validate(self)
        for key in ("case_share", "solution_share"):
            if not 0 < getattr(self, key) <= 1:
                raise ConjointError(f"{key}={getattr(self, key)} must be above 0 and at most 1")


def run(overrides: list[str]) -> int:
    """Print why rows were dropped; write the others. Raises SandboxUnavailable without a jail."""
    cfg = configured(ValidateConfig, overrides)
    cfg.validate()

    async def work() -> Tally:
        sandbox = make_sandbox(cfg.sandbox)
        try:
            await sandbox.start()
            return await validate(cfg, sandbox)
        finally:
            await sandbox.close()

    print("\n".join(asyncio.run(work()).words(cfg.output)))
    return 0


async def validate(cfg: ValidateConfig, sandbox: Sandbox) -> Tally:
    """Examine the rows in the order of the file, some at once."""
    reward, tally, lost = CodeReward(sandbox), Tally(), 0
    check = reference_check(["code"], cfg.sandbox)
    rows = rows_and_tasks(Path(cfg.input), "code", validate=check)
    with new_file(cfg.output) as out:
        while some := list(islice(rows, _AT_ONCE)):
            found = await asyncio.gather(*(examine(task, reward, cfg) for _, task in some))
            for (row, task), (problem, reference) in zip(some, found, strict=True):
                tally.rows += 1
                if problem:
                    tally.dropped[problem] += 1
                    continue
                lost += len(_cases(as_reference(task.reference))) - len(_cases(reference))
                out.write(_with_reference(row, reference))
    if lost:
        tally.notes.append(f"cases dropped from kept rows: {lost:,}")
    return tally


async def examine(
    task: Task, reward: CodeReward, cfg: ValidateConfig
) -> tuple[str, Mapping[str, Any]]:
    """(why the row goes, "" if it stays; its reference with the cases that stay)."""
    reference = as_reference(task.reference)
    solutions = _solutions(task)
    if not solutions:
        return NO_SOLUTION, reference
    try:
        outcomes = await _outcomes(reward, reference, solutions)
        if len(solutions) < VOTERS:
            problem = _worst(outcomes)
        else:
            problem, reference = await _voted(reward, reference, solutions, outcomes, cfg)
        if not problem and Outcome.PASS in await _outcomes(reward, reference, trivial(reference)):
            problem = TRIVIAL
    except _Unchecked:
        problem = UNCHECKED
    return problem, reference


class _Unchecked(Exception):
    """The sandbox failed, which says nothing about the row."""


async def _outcomes(
    reward: CodeReward, reference: Mapping[str, Any], programs: Iterable[str]
) -> list[Outcome]:
    """How each program ends on the tests, in order. Raises _Unchecked."""
    task = Task.make("code", "validate", reference)
    outcomes = []
    for program in programs:
        outcomes.append((await reward.check(task, program)).outcome)
        if outcomes[-1] is Outcome.INFRA_ERROR:
            raise _Unchecked
    return outcomes


def _worst(outcomes: Sequence[Outcome]) -> str:
    if Outcome.TIMEOUT in outcomes:
        return TIMES_OUT
    return "" if all(o is Outcome.PASS for o in outcomes) else FAILS


async def _voted(
    reward: CodeReward,
    reference: Mapping[str, Any],
    solutions: Sequence[str],
    outcomes: Sequence[Outcome],
    cfg: ValidateConfig,
) -> tuple[str, Mapping[str, Any]]:
    """(problem, the reference with the cases that enough solutions pass)."""
    if all(outcome is Outcome.PASS for outcome in outcomes):
        return "", reference
    cases = _cases(reference)
    table = [await _outcomes(reward, _only(reference, [case]), solutions) for case in cases]
    passed = [[outcome is Outcome.PASS for outcome in row] for row in table]
    need = cfg.case_share * len(solutions)
    kept = [i for i, row in enumerate(passed) if sum(row) >= need]
    good = sum(all(passed[i][s] for i in kept) for s in range(len(solutions)))
    if not kept or good < cfg.solution_share * len(solutions):
        return DISAGREE, reference
    return "", _only(reference, [cases[i] for i in kept])


def _solutions(task: Task) -> list[str]:
    """The programs in the row, in `solutions` or else `solution`, that are text."""
    found = task.meta.get("solutions") or task.meta.get("solution") or []
    found = [found] if isinstance(found, str) else found
    return [s for s in found if isinstance(s, str) and s.strip()] if isinstance(found, list) else []


def _cases(reference: Mapping[str, Any]) -> list[Any]:
    """The cases that can be run by themselves; tests of another form are one."""
    return list(reference["tests"].get("cases") or [None])


def _only(reference: Mapping[str, Any], cases: list[Any]) -> Mapping[str, Any]:
    if cases == _cases(reference):
        return reference
    return {**reference, "tests": {**reference["tests"], "cases": cases}}


def _with_reference(row: dict[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its reference, wherever it keeps it."""
    if isinstance(row.get("reward_model"), dict):
        return {**row, "reward_model": {**row["reward_model"], "ground_truth": reference}}
    key = next(k for k in ("reference", "ground_truth", "answer", "solution") if row.get(k))
    return {**row, key: reference}


def trivial(reference: Mapping[str, Any]) -> Iterator[str]:
    """Programs that solve nothing: empty, constant, and the input again.

    A constant passes all of a function's or a script's cases only if it is the first one's result,
    so no other needs to be tried there. Of languages other than Python only the empty program is.
    """
    yield "\n"
    if reference["language"] != "python":
        return
    tests = reference["tests"]
    if tests["type"] == "stdio":
        yield f"print({tests['cases'][0]['output']!r})"
        yield "import sys\nprint(sys.stdin.read())"
        return
    constants: list[Any] = [None, True, False, 0, 1, -1, "", [], {}]
    if tests.get("cases"):
        constants = [tests["cases"][0].get("expected")]
    for constant in constants:
        yield f"def {tests['entry']}(*args, **kwargs):\n    return {constant!r}\n"
    yield (
        f"def {tests['entry']}(*args, **kwargs):\n"
        "    return args[0] if args else next(iter(kwargs.values()))\n"
    )
