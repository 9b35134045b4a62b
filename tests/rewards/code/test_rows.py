"""Code rows of verl and LiveCodeBench load as they are, and are graded."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.sources.dataset import DatasetSource
from conjoint.rewards.code.reward import CodeReward, validate_reference
from conjoint.rewards.code.rows import as_reference
from conjoint.rewards.sandbox.base import SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local.jail import LocalJail

_ADD = "def add(a, b): return a + b"
_WRONG = "def add(a, b): return a"
_ECHO = "print(int(input()) * 2)"
_STDIO = {"inputs": ["21\n", "7\n"], "outputs": ["42\n", "14"]}
_CASES = [
    {"input": "[1]\n[2]", "output": "[1, 2]", "testtype": "functional"},
    {"input": "[]\n[]", "output": "[]", "testtype": "functional"},
]
_GRADED = [
    (_STDIO, _ECHO, "print(42)"),
    (_STDIO | {"fn_name": None}, _ECHO, "print(42)"),
    ({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}, _ADD, _WRONG),
    ({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}, _ADD, _WRONG),
    ({"fn_name": "add", "inputs": ["1\n2", '"a"\n"b"'], "outputs": ["3", '"ab"']}, _ADD, _WRONG),
    ([c | {"metadata": {"func_name": "add"}} for c in _CASES], _ADD, _WRONG),
    ([{"input": "21\n", "output": "42\n", "testtype": "stdin"}], _ECHO, "print(41)"),
]


def _source(folder: Path, truths: list[Any]) -> DatasetSource:
    rows = [
        {
            "data_source": "codecontests",
            "prompt": [{"role": "user", "content": f"Write program {number}."}],
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": "train", "index": number},
        }
        for number, truth in enumerate(truths)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DatasetSource(path, "code", validate=validate_reference)


def test_rows_of_verl_are_graded(tmp_path: Path) -> None:
    source = _source(tmp_path, [json.dumps(truth) for truth, _, _ in _GRADED])

    async def grade() -> list[tuple[float | None, float | None]]:
        jail = LocalJail(SandboxConfig(wall_s=30.0, workers=2))
        await jail.start()
        reward = CodeReward(jail)
        try:
            return [
                (
                    (await reward.check(source.task(i), right)).value,
                    (await reward.check(source.task(i), wrong)).value,
                )
                for i, (_, right, wrong) in enumerate(_GRADED)
            ]
        finally:
            await jail.close()

    try:
        assert asyncio.run(grade()) == [(1.0, 0.0)] * len(_GRADED)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def test_an_object_is_read_as_its_text() -> None:
    for truth, _, _ in _GRADED:
        assert as_reference(json.dumps(truth)) == as_reference(truth)
        validate_reference(truth)


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ("42", "reference must be an object"),
        ("print(1)", "reference is text that is not JSON"),
        ("[" * 100_000, "reference is text that is not JSON"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": "1", "outputs": ["1"]}, "must be lists"),
        ({"inputs": [1], "outputs": [2]}, "case 1: 'input' must be text"),
        ({"inputs": ["\ud800"], "outputs": ["2"]}, "case 1: 'input' must be text"),
        ({"fn_name": "f", "inputs": ["x y"], "outputs": ["2"]}, "case 1: the input or output is"),
        ({"fn_name": "f()", "inputs": [[1]], "outputs": [2]}, "entry must be the name"),
        ({"fn_name": "f", "inputs": [1], "outputs": [2]}, "case 1: must be a list"),
        ({"inputs": [], "outputs": []}, "at least one case"),
        ([{"input": "1", "output": "2", "testtype": "functional"}], "func_name is missing"),
    ],
)
def test_what_is_wrong_with_such_a_row_is_said(truth: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        validate_reference(truth)
