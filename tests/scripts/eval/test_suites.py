"""Rows of the public sets -> tasks: what the policy is asked, and what it is graded by."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError
from conjoint.scripts.eval import suites
from conjoint.scripts.eval.suites import SUITES, read_suite

DATA = Path(__file__).parents[4] / "shared" / "data"

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "What is 40+2?", "answer": "40+2 is 1,042 less 1,000.\n#### 1,042"},
    "humaneval": {
        "task_id": "HumanEval/900",
        "prompt": 'import math\n\ndef halve(x):\n    """Half of x."""\n',
        "entry_point": "halve",
        "canonical_solution": "    return x / 2\n",
        "test": "def check(candidate):\n    assert candidate(4) == 2\n",
    },
    "mbpp": {
        "task_id": 901,
        "prompt": "Write a function to double a number.",
        "code": "def helper(x):\n    return x + x\n\ndef double(x):\n    return helper(x)",
        "test_imports": ["import math"],
        "test_list": ["assert double(2) == 4", "assert math.isclose(double(.5), 1)"],
    },
    "ifeval": {
        "key": 902,
        "prompt": "Describe rain. Use no commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
}


@pytest.fixture(autouse=True)
def any_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reward asks of a reference is its own tests' business."""
    monkeypatch.setattr(suites, "reference_check", lambda rewards: None)


def write(folder: Path, suite: str, *rows: Any) -> Path:
    file = folder / SUITES[suite].file
    text = json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows))
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


@pytest.mark.parametrize("suite", SUITES)
def test_a_task_asks_for_its_row_and_holds_no_answer(tmp_path: Path, suite: str):
    [task] = read_suite(suite, write(tmp_path, suite, ROWS[suite]))
    row = ROWS[suite]
    asked = row.get("question", row.get("prompt", "")).strip()
    assert asked in task.prompt and len(task.messages) == 1
    assert task.kind == SUITES[suite].kind
    for secret in ("less 1,000", "return x", "return helper"):
        assert secret not in task.prompt
    assert task.id.lower().startswith(suite + "/")


def test_references_are_those_of_the_rewards(tmp_path: Path):
    found = {s: read_suite(s, write(tmp_path, s, ROWS[s]))[0].reference for s in SUITES}
    assert found["gsm8k"] == "1,042"
    tests = {s: found[s]["tests"] for s in ("humaneval", "mbpp")}
    assert found["mbpp"]["language"] == found["humaneval"]["language"] == "python"
    assert tests["humaneval"] == {
        "type": "asserts",
        "entry": "halve",
        "code": ROWS["humaneval"]["test"],
    }
    assert tests["mbpp"]["entry"] == "double"  # not the helper, which no test names
    assert tests["mbpp"]["code"].splitlines() == [
        "import math",
        "assert double(2) == 4",
        "assert math.isclose(double(.5), 1)",
    ]
    assert found["ifeval"] == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def test_functions_of_the_prompt_that_the_tests_need_are_not_the_answers(tmp_path: Path):
    row = ROWS["humaneval"]
    helper = "def twice(x):\n    return 2 * x"
    unused = "def thrice(x):\n    return 3 * x"
    row = row | {
        "prompt": f"{helper}\n\n{unused}\n\n{row['prompt']}",
        "test": "def check(candidate):\n    assert halve(twice(3)) == 3\n",
    }
    [task] = read_suite("humaneval", write(tmp_path, "humaneval", row))
    assert task.reference["tests"]["code"] == f"{helper}\n{row['test']}"


def test_a_limit_takes_the_first_rows(tmp_path: Path):
    rows = [{**ROWS["gsm8k"], "question": f"What is {i}?"} for i in range(5)]
    tasks = read_suite("gsm8k", write(tmp_path, "gsm8k", *rows), limit=2)
    assert [t.id for t in tasks] == ["gsm8k/1", "gsm8k/2"]


@pytest.mark.parametrize(
    ("suite", "changed", "words"),
    [
        ("gsm8k", {"answer": "forty-two"}, "line 2 .* '#### n'"),
        ("gsm8k", {"question": None}, "line 2"),
        ("humaneval", {"test": ...}, "line 2: field 'test' is missing"),
        ("humaneval", {"task_id": "HumanEval/900"}, "equal names"),
        ("mbpp", {"code": "def ("}, "row 2"),
        ("mbpp", {"test_list": ["assert other(1)"]}, "none of the functions"),
        ("ifeval", {"prompt": "  "}, "line 2 .* empty"),
        ("ifeval", {"prompt": "\ud800"}, "line 2 .* surrogates"),
    ],
)
def test_a_row_that_is_wrong_is_named(
    tmp_path: Path, suite: str, changed: dict[str, Any], words: str
):
    second = {**ROWS[suite], "task_id": "second", **changed}
    rows = [ROWS[suite], {key: value for key, value in second.items() if value is not ...}]
    with pytest.raises(ConjointError, match=words):
        read_suite(suite, write(tmp_path, suite, *rows))


def test_a_reference_that_the_reward_refuses_is_refused_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(reference: Any) -> None:
        raise ValueError("no such test")

    monkeypatch.setattr(suites, "reference_check", lambda rewards: refuse)
    with pytest.raises(ConjointError, match=r"line 1 .* no such test"):
        read_suite("gsm8k", write(tmp_path, "gsm8k", ROWS["gsm8k"]))


@pytest.mark.parametrize("content", [b"", b"{broken", b"[1]", b"\xff\xfe\x00", b"\x1f\x8bnot gzip"])
def test_a_file_that_is_not_one_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(ConjointError, match=r"rows\.json "):
        read_suite("gsm8k", tmp_path / "rows.json")


@pytest.mark.skipif(not DATA.is_dir(), reason="the public files are not beside the checkout")
@pytest.mark.parametrize(
    ("suite", "count"), [("gsm8k", 1319), ("humaneval", 164), ("mbpp", 427), ("ifeval", 541)]
)
def test_the_public_files_are_read_whole(suite: str, count: int):
    assert len(read_suite(suite, DATA / SUITES[suite].file)) == count
