"""HumanEval and MBPP through the code reward, against a plain run of the same program and tests:
`python -m tests.rewards.code.public_sets [humaneval] [mbpp]` grades all rows and
prints what came out.
The test of the suite takes some of them."""

import ast
import asyncio
import gzip
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conjoint.envs.types import Score, Task
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rewards.sandbox.local.jail import LocalJail
from conjoint.scripts.eval.suites import SUITES, read_suite

DATA = Path(__file__).parents[4] / "shared/data"
_SWAPS: dict[type, Sequence[type]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
CPU_S = 4


def solved(suite: str) -> list[tuple[Task, str]]:
    """The tasks of a suite with the programs and the tests that the set itself gives."""
    path = DATA / SUITES[suite].file
    tasks = read_suite(suite, path)
    if suite == "humaneval":
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        programs = [row["prompt"] + row["canonical_solution"] for row in rows]
        # The suite puts helpers of the prompt before its tests: in a plain run, after the program,
        # they would mend a mutant.
        tasks = [_with_tests(task, row["test"]) for task, row in zip(tasks, rows, strict=True)]
    else:
        programs = [row["code"] for row in json.loads(path.read_text())]
    return list(zip(tasks, programs, strict=True))


def _with_tests(task: Task, code: str) -> Task:
    tests = {**task.reference["tests"], "code": code}
    return replace(task, reference={**task.reference, "tests": tests})


def mutant(program: str, seed: str) -> str | None:
    """The program with one operator replaced, chosen by the seed; None where it has none."""
    tree = ast.parse(program)
    places: list[tuple[Any, int | None]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _SWAPS:
            places.append((node, None))
        if isinstance(node, ast.Compare):
            places += [(node, i) for i, op in enumerate(node.ops) if type(op) in _SWAPS]
    if not places:
        return None
    draw = random.Random(seed)
    node, index = draw.choice(places)
    if index is None:
        node.op = draw.choice(_SWAPS[type(node.op)])()
    else:
        node.ops[index] = draw.choice(_SWAPS[type(node.ops[index])])()
    return ast.unparse(tree)


def returns_object(program: str, entry: str) -> str:
    return f"{program}\n_right = {entry}\ndef {entry}(*args, **kwargs):\n    return object()\n"


def passes_plainly(task: Task, program: str) -> bool:
    """Whether program and tests, one after the other in one process, end without an error."""
    entry, code = task.reference["tests"]["entry"], task.reference["tests"]["code"]
    called = f"\ncheck({entry})\n" if "def check(" in code and entry != "check" else ""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-"],
        input=f"{program}\n\n{code}\n{called}".encode(),
        capture_output=True,
        preexec_fn=limit,
        timeout=120,
        check=False,
    )
    return done.returncode == 0


def grade(jobs: list[tuple[Task, str]]) -> list[Score]:
    """Raises SandboxUnavailable."""

    async def run() -> list[Score]:
        jail = LocalJail(SandboxConfig(wall_s=60.0, cpu_s=CPU_S, workers=4))
        await jail.start()
        try:
            reward = CodeReward(jail)
            return list(await asyncio.gather(*(reward.check(*job) for job in jobs)))
        finally:
            await jail.close()

    return asyncio.run(run())


def mutants(jobs: list[tuple[Task, str]]) -> list[tuple[Task, str]]:
    found = ((task, mutant(program, task.id)) for task, program in jobs)
    return [(task, program) for task, program in found if program is not None]


def _report(suite: str) -> Iterator[str]:
    jobs = solved(suite)
    begun = time.perf_counter()
    scores = grade(jobs)
    seconds = time.perf_counter() - begun
    passed = sum(score.value == 1.0 for score in scores)
    yield f"{suite}: {passed} of {len(jobs)} solutions pass, {len(jobs) / seconds:.0f} a second"
    for (task, _), score in zip(jobs, scores, strict=True):
        if score.value != 1.0:
            yield f"  {task.id}: {score.outcome}: {score.reasons[0]}"
    changed = mutants(jobs)
    graded = [score.value == 1.0 for score in grade(changed)]
    plain = [passes_plainly(task, program) for task, program in changed]
    same = sum(a == b for a, b in zip(graded, plain, strict=True))
    yield f"{suite}: {same} of {len(changed)} mutants as in a plain run ({sum(plain)} pass there)"
    for (task, _), ours, theirs in zip(changed, graded, plain, strict=True):
        if ours != theirs:
            yield f"  {task.id}: passes {'here' if ours else 'there'} only"
    objects = grade([(t, returns_object(p, t.reference["tests"]["entry"])) for t, p in jobs])
    yield f"{suite}: {sum(s.value != 0.0 for s in objects)} of {len(jobs)} objects are not refused"


if __name__ == "__main__":
    for name in sys.argv[1:] or ("humaneval", "mbpp"):
        for line in _report(name):
            print(line, flush=True)
