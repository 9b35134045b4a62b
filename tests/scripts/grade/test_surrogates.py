"""Programs that raise, print and return half characters: graded by what they do, never a crash."""

import json
from pathlib import Path

import pytest

from conjoint.scripts.grade.config import load_grade
from conjoint.scripts.grade.run import explain, grade

REPORT = Path(__file__).parents[4] / "shared" / "data" / "reports" / "R04-surrogate.jsonl"
FUNCTION = {"type": "function", "entry": "f", "cases": [{"args": [2], "expected": 4}]}
STDIO = {"type": "stdio", "cases": [{"input": "2\n", "output": "4\n"}]}
ROWS = (
    (FUNCTION, "def f(x): raise ValueError('\\ud800\\x1b[2J\\u202e')", 0.0),
    (FUNCTION, "def f(x): raise type('\\udfff', (Exception,), {})('x')", 0.0),
    (FUNCTION, "def f(x): return '\\ud800'", 0.0),
    (FUNCTION, "def f(x): return {'\\udfff': x}", 0.0),
    (FUNCTION, "def f(x):\n  v = '\\ud800'\n  for _ in range(900): v = [v]\n  return v", 0.0),
    (STDIO, "import sys\nsys.stdout.buffer.write(b'\\xed\\xa0\\x80')", 0.0),
    (STDIO, "import sys\nsys.stderr.write('\\udfff')\nraise SystemExit('\\ud800')", 0.0),
    (FUNCTION, "def f(x):\n  '\ud800'\n  return 2 * x", 0.0),
    (FUNCTION, "def f(x): return 2 * x  # \u202e", 1.0),
    (STDIO, "print(2 * int(input()))", 1.0),
)


def graded(folder: Path, file: Path) -> list[float]:
    keys = ["reward=code", f"input={file}", "sandbox.workers=2"]
    out = folder / "out.jsonl"
    grade(load_grade([*keys, f"output={out}"]))
    "\n".join(explain(load_grade([*keys, "row=0"]))).encode()
    return [json.loads(line)["score"] for line in out.open(encoding="utf-8")]


def test_scores_are_of_what_the_program_does(tmp_path: Path):
    rows = []
    for i, (tests, program, _) in enumerate(ROWS):
        reference = {"language": "python", "tests": tests}
        row = {"kind": "code", "prompt": "double \ud800", "reference": reference, "id": i}
        response = f"```python\n{program}\n```"
        rows.append(row | {"response": response, "meta": {"\udfff": "\ud800"}})
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert graded(tmp_path, file) == [wanted for *_, wanted in ROWS]


@pytest.mark.skipif(not REPORT.is_file(), reason=f"there is no {REPORT}")
def test_the_reported_rows_have_their_scores(tmp_path: Path):
    wanted = [json.loads(line)["meta"]["want"] for line in REPORT.open()]
    assert graded(tmp_path, REPORT) == wanted
