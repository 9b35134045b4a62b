"""Validation of code rows in the real jail: planted rows go for their reason, honest ones stay."""

import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rewards.sandbox.base import Ended, Program, Result
from conjoint.scripts.data import validate as tool


def function(name: str, cases: list[tuple[list[Any], Any]], *solutions: str) -> dict[str, Any]:
    tests = {
        "type": "function",
        "entry": name,
        "cases": [{"args": args, "expected": expected} for args, expected in cases],
    }
    row: dict[str, Any] = {"prompt": f"Write {name}.", "id": name}
    row["reference"] = {"language": "python", "tests": tests}
    return row | ({"solution": solutions[0]} if len(solutions) == 1 else {"solutions": solutions})


def stdio(name: str, cases: list[tuple[str, str]], solution: str) -> dict[str, Any]:
    tests = {"type": "stdio", "cases": [{"input": i, "output": o} for i, o in cases]}
    reference = {"language": "python", "tests": tests}
    return {"prompt": name, "id": name, "reference": reference, "solution": solution}


DOUBLE = "def double(x):\n    return 2 * x\n"
HONEST = [
    function("double", [([2], 4), ([5], 10)], DOUBLE),
    function("double", [([2], 4), ([5], 10)], f"Here it is:\n```python\n{DOUBLE}```"),
    function("swap", [([[1, 2]], [2, 1]), ([[3]], [3])], "def swap(x):\n    return x[::-1]\n"),
    stdio("sum", [("1 2\n", "3\n"), ("4 4\n", "8\n")], "print(sum(map(int, input().split())))"),
]
PLANTED = {
    tool.FAILS: [
        function("double", [([2], 4), ([5], 11)], DOUBLE),
        function("double", [([2], 4), ([5], 10)], "def double(x) return 2 * x"),
        function("double", [([2], 4), ([5], 10)], DOUBLE, "def double(x):\n    return x + 2\n"),
        stdio("sum", [("1 2\n", "3\n"), ("4 4\n", "9\n")], "print(sum(map(int, input().split())))"),
    ],
    tool.TIMES_OUT: [
        function("spin", [([1], 1), ([2], 3)], "def spin(x):\n    while True:\n        pass\n"),
    ],
    tool.TRIVIAL: [
        function("one", [([2], 1), ([5], 1)], "def one(x):\n    return x // x\n"),
        function("name", [([2], "x"), ([5], "x")], "def name(x):\n    return 'xy'[0]\n"),
        function("same", [([2], 2), ([5], 5)], "def same(x):\n    return x + 0\n"),
        stdio("hello", [("", "hello\n"), ("x\n", "hello\n")], "print('hel' + 'lo')"),
        stdio("echo", [("a\n", "a\n"), ("b\n", "b\n")], "print(input())"),
        stdio("nothing", [("a\n", ""), ("b\n", "")], "input()"),
    ],
    tool.NO_SOLUTION: [
        {**function("double", [([2], 4)], ""), "solution": None},
        {**function("double", [([2], 4)], ""), "solutions": []},
    ],
}


def validate(tmp_path: Path, rows: list[Any], *overrides: str) -> list[Any]:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = source.read_bytes()
    assert tool.run([f"input={source}", f"output={output}", *overrides]) == 0
    assert source.read_bytes() == before
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_planted_rows_go_for_their_reason_and_honest_ones_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [*HONEST[:2], *(row for some in PLANTED.values() for row in some), *HONEST[2:]]
    assert validate(tmp_path, rows, "sandbox.cpu_s=1") == HONEST
    said = capsys.readouterr().out
    assert f"rows in: {len(rows)}\ndropped: {len(rows) - len(HONEST)}\n" in said
    for reason, some in PLANTED.items():
        assert f"  {reason}: {len(some)}\n" in said
    assert f"kept: {len(HONEST)} -> " in said


GOOD = [f"def f(x):\n    return x * {n} // {n}  + 1\n" for n in range(1, 9)]
BAD = ["def f(x):\n    return x\n", "def f(x):\n    return 0\n"]


def test_ten_solutions_vote_on_cases_and_on_the_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cases = [([1], 2), ([7], 8)]
    wrong_case = [*cases, ([2], 4)]
    odd = "def f(x):\n    return 9 if x == 7 else x + 1\n"
    rows = [
        function("f", wrong_case, *GOOD, GOOD[0], GOOD[1]),  # the third case is dropped
        function("f", cases, *GOOD, GOOD[0], odd),  # nine of ten pass all cases
        function("f", cases, *GOOD, odd, odd),  # eight of ten: the solutions disagree
        function("f", cases, *GOOD[:6], *BAD, *BAD),  # six of ten: no case is left
    ]
    kept = validate(tmp_path, rows)
    assert kept == [json.loads(json.dumps(function("f", cases, *rows[0]["solutions"]))), *kept[1:]]
    assert len(kept) == 2 and kept[1]["reference"] == rows[1]["reference"]
    said = capsys.readouterr().out
    assert f"  {tool.DISAGREE}: 2\n" in said and "cases dropped from kept rows: 1\n" in said


def test_shares_are_keys(tmp_path: Path):
    rows = [function("f", [([1], 2), ([7], 8)], *GOOD, *BAD)]
    assert validate(tmp_path, rows) == []
    (tmp_path / "out.jsonl").unlink()
    assert len(validate(tmp_path, rows, "solution_share=0.8")) == 1
    (tmp_path / "out.jsonl").unlink()
    assert validate(tmp_path, rows, "solution_share=0.8", "case_share=0.9") == []


async def test_a_broken_sandbox_drops_no_row_for_what_it_is_not(tmp_path: Path):
    class Broken:
        async def run(self, program: Program) -> Result:
            return Result(Ended.INFRA_ERROR, "gone")

        async def close(self) -> None: ...

    (tmp_path / "in.jsonl").write_text(json.dumps(HONEST[0]) + "\n")
    cfg = tool.ValidateConfig(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"))
    tally = await tool.validate(cfg, Broken())
    assert tally.dropped == {tool.UNCHECKED: 1} and tally.kept == 0


def test_a_kept_row_keeps_its_form(tmp_path: Path):
    row = HONEST[0]
    verl = {
        "prompt": [{"role": "user", "content": "Write double."}],
        "reward_model": {"style": "rule", "ground_truth": row["reference"]},
        "extra_info": {"solution": DOUBLE},
    }
    answer = {"prompt": "Write double.", "answer": row["reference"], "solution": DOUBLE}
    assert validate(tmp_path, [verl, answer]) == [verl, answer]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "x", "reference": {"language": "python"}}', r"in\.jsonl line 2: .*tests"),
        ('{"prompt": "x"}', r"in\.jsonl line 2: field 'answer' is missing"),
        ("{", r"in\.jsonl line 2: invalid JSON"),
    ],
)
def test_a_malformed_row_is_named_and_nothing_is_written(tmp_path: Path, text: str, words: str):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(HONEST[0]) + f"\n{text}\n")
    with pytest.raises(ConjointError, match=words):
        tool.run([f"input={source}", f"output={tmp_path / 'out.jsonl'}"])
    assert not (tmp_path / "out.jsonl").exists()


def test_mistakes_are_named(tmp_path: Path):
    keys = [f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out.jsonl'}"]
    with pytest.raises(ConjointError, match="case_share=0"):
        tool.run([*keys, "case_share=0"])
    with pytest.raises(ConjointError, match=r"sandbox\.isolation is 'none'"):
        tool.run([*keys, "sandbox.isolation=none"])
    with pytest.raises(ConjointError, match="there is no file"):
        tool.run(keys)
