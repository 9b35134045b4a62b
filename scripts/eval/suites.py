"""The public test sets that `conjoint eval` knows: a table of files, and how a row becomes a task.

Prompts are zero-shot chat prompts for instruct models. Each asks for the form that the reward
reads; IFEval's are their own. References are those of the rewards of training.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError, Message, Task
from conjoint.rewards.registry import default_kinds, reference_check

Row = Mapping[str, Any]

_NO_ROW = (ConjointError, ValueError, TypeError, AttributeError, SyntaxError, RecursionError)


@dataclass(frozen=True, slots=True)
class Suite:
    file: str
    """The name under which the set is published."""
    kind: str
    """Task kind: the rewards are those of the kind in training."""
    max_tokens: int
    """Sampled tokens that an answer may have, unless the user says otherwise."""
    task: Callable[[Row, int], tuple[str, str, Any]]
    """(row, its number from 1) -> name, prompt and reference. Raises KeyError, ValueError
    or, of a program, SyntaxError."""


def read_suite(name: str, path: Path, limit: int | None = None) -> list[Task]:
    """The tasks of a suite in the order of its file. Raises ConjointError naming file and row."""
    suite = SUITES[name]
    check = reference_check(default_kinds()[suite.kind])
    tasks = []
    where, rows = open_rows(path)
    for number, (line, row) in enumerate(islice(rows, limit), 1):
        place = f"{path} {where} {line}"
        try:
            task_id, prompt, reference = suite.task(row, number)
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError("the prompt is not text, or empty")
            prompt.encode()  # raises ValueError for an unpaired surrogate
            if check is not None:
                check(reference)
        except KeyError as error:
            raise ConjointError(f"{place}: field {error} is missing") from error
        except _NO_ROW as error:
            raise ConjointError(f"{place} is not a row of {name}: {error}") from error
        tasks.append(Task(task_id, suite.kind, (Message(role="user", content=prompt),), reference))
    if len({task.id for task in tasks}) < len(tasks):
        raise ConjointError(f"{path} holds rows of {name} with equal names; each must have its own")
    return tasks


def _gsm8k(row: Row, number: int) -> tuple[str, str, Any]:
    _, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("field 'answer' does not end in a line '#### n'")
    prompt = (
        f"{row['question'].strip()}\n\n"
        "Think step by step, and end with the final number as \\boxed{number}."
    )
    return f"gsm8k/{number}", prompt, answer.strip()


def _humaneval(row: Row, number: int) -> tuple[str, str, Any]:
    prompt = (
        "Complete this Python program. Answer with one fenced code block that holds the whole "
        "program: everything below, and the body that is missing.\n\n"
        f"```python\n{row['prompt'].strip()}\n```"
    )
    tests = "\n".join((*_helpers(row["prompt"], row["entry_point"], row["test"]), row["test"]))
    return row["task_id"], prompt, _asserts(row["entry_point"], tests)


def _mbpp(row: Row, number: int) -> tuple[str, str, Any]:
    tests = "\n".join((*row["test_imports"], *row["test_list"]))
    prompt = (
        f"{row['prompt'].strip()} Answer with one fenced code block that holds a whole Python "
        f"program, which must pass these tests:\n\n```python\n{tests}\n```"
    )
    return f"mbpp/{row['task_id']}", prompt, _asserts(_tested(row["code"], tests), tests)


def _helpers(prompt: str, entry: str, tests: str) -> list[str]:
    """The functions of the prompt that its tests call besides `entry`: those that the answer
    defines under these names may be anything."""
    named = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)} - {entry}
    defined = [n for n in ast.parse(prompt).body if isinstance(n, ast.FunctionDef)]
    return [ast.get_source_segment(prompt, n) or "" for n in defined if n.name in named]


def _asserts(entry: str, code: str) -> dict[str, Any]:
    return {"language": "python", "tests": {"type": "asserts", "entry": entry, "code": code}}


def _tested(program: str, tests: str) -> str:
    """The function of the program that the tests name; of several the last one defined."""
    named = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    defined = [n.name for n in ast.parse(program).body if isinstance(n, ast.FunctionDef)]
    found = [name for name in defined if name in named]
    if not found:
        raise ValueError("its tests name none of the functions of its program")
    return found[-1]


def _ifeval(row: Row, number: int) -> tuple[str, str, Any]:
    reference = {"instruction_id_list": row["instruction_id_list"], "kwargs": row["kwargs"]}
    return f"ifeval/{row['key']}", row["prompt"], reference


SUITES: dict[str, Suite] = {
    "gsm8k": Suite("gsm8k_test.jsonl", "math", 512, _gsm8k),
    "humaneval": Suite("HumanEval.jsonl.gz", "code", 1024, _humaneval),
    "mbpp": Suite("mbpp_sanitized.json", "code", 1024, _mbpp),
    "ifeval": Suite("ifeval_input_data.jsonl", "instruction", 1280, _ifeval),
}
