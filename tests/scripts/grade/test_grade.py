"""`conjoint grade` on files: what comes out for each row, and what is refused."""

import asyncio
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import (
    Completion,
    ConjointError,
    Group,
    Message,
    Score,
    Status,
    Task,
    Trajectory,
)
from conjoint.rl.run.folder import RunFolder
from conjoint.scripts.eval.grader import Grader
from conjoint.scripts.grade.config import load_grade
from conjoint.scripts.grade.run import explain, grade
from conjoint.scripts.grade.words import summary_words

SHARED = Path(__file__).parents[4] / "shared" / "data"
REWARDS = """
import json

def silent(completions, **columns):
    return [None] * len(completions)

def ids(completion_ids, completions):
    return [float(found == [7, 8]) for found in completion_ids]

def length(task, response):
    return len(response) / 10

def trl(prompts, completions, answer, bonus, **columns):
    assert all(isinstance(p, str) for p in prompts)
    return [float(c == a) * b for c, a, b in zip(completions, answer, bonus)]

def chat(prompts, completions, **columns):
    return [float(p[-1]["role"] == "user" and c[0]["content"] == "yes")
            for p, c in zip(prompts, completions)]

def bad(task, response):
    raise ValueError("no \\udcff")
"""


def row(response: str = "It is \\boxed{4}.", **fields: Any) -> dict[str, Any]:
    return {"kind": "math", "prompt": "2+2?", "reference": "4", "response": response, **fields}


def write(folder: Path, rows: list[Any], name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def graded(folder: Path, rows: list[Any] | Path, *keys: str) -> list[dict[str, Any]]:
    """The lines of the output."""
    file = rows if isinstance(rows, Path) else write(folder, rows)
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    grade(load_grade(["reward=math", f"input={file}", f"output={out}", *keys]))
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewarding.py"
    path.write_text(REWARDS)
    return path


# -- what comes out ------------------------------------------------------------------------------


def test_every_row_gets_id_score_status_and_reasons_in_order(tmp_path: Path):
    rows = [row(id="a"), row("5"), row(id=7, messages=[{"role": "user", "content": "2+2?"}])]
    found = graded(tmp_path, rows)
    assert [list(r) for r in found] == [["id", "score", "status", "reasons"]] * 3
    assert [(r["id"], r["score"], r["status"]) for r in found] == [
        ("a", 1.0, "pass"),
        (2, 0.0, "fail"),
        (7, 1.0, "pass"),
    ]
    assert all(r["reasons"] and isinstance(r["reasons"][0], str) for r in found)


@pytest.mark.parametrize("reference", [None, "", " ", math.nan, math.inf, "None", [], {}, True])
def test_a_bad_reference_is_an_error_without_a_score_and_grading_goes_on(
    tmp_path: Path, reference: Any
):
    found = graded(tmp_path, [row(reference=reference), row()])
    assert (found[0]["score"], found[0]["status"]) == (None, "error")
    assert found[0]["reasons"][0] == "bad_reference" and len(found[0]["reasons"]) == 2
    assert (found[1]["score"], found[1]["status"]) == (1.0, "pass")


def test_a_row_without_a_reference_has_a_bad_one(tmp_path: Path):
    lacking = row()
    del lacking["reference"]
    assert graded(tmp_path, [lacking])[0]["reasons"][0] == "bad_reference"


def test_the_threshold_says_what_a_pass_is(tmp_path: Path, rewards: Path):
    rows = [row("12345"), row("1234")]
    keys = [f"reward={rewards}:length", "pass_threshold=0.5"]
    found = graded(tmp_path, rows, *keys)
    assert [(r["score"], r["status"]) for r in found] == [(0.5, "pass"), (0.4, "fail")]
    assert [r["status"] for r in graded(tmp_path, rows, keys[0])] == ["fail", "fail"]


def test_a_bom_windows_lines_blank_lines_and_surrogates_are_fine(tmp_path: Path):
    file = tmp_path / "in.jsonl"
    lines = [json.dumps(row()), "", json.dumps(row("\ud800 \\boxed{\udcff}", id="\udc80"))]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    found = graded(tmp_path, file)
    assert [(r["id"], r["status"]) for r in found] == [(1, "pass"), ("\udc80", "fail")]
    assert list(found[1]) == ["id", "score", "status", "reasons"]


def test_parquet_rows_are_graded_too(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "in.parquet"
    messages = [{"role": "user", "content": "2+2?"}]
    columns = {"kind": "math", "messages": messages, "reference": "4", "response": "4"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([columns]), file)
    assert graded(tmp_path, file) == [
        {"id": 1, "score": 1.0, "status": "pass", "reasons": ["answered 4, wanted 4"]}
    ]


def test_equal_prompts_with_other_references_are_graded_each_by_its_own(tmp_path: Path):
    found = graded(tmp_path, [row("4"), row("4", reference="5"), row("5", reference="5")])
    assert [r["score"] for r in found] == [1.0, 0.0, 1.0]


def test_a_reward_that_breaks_gives_no_score(tmp_path: Path, rewards: Path):
    found = graded(tmp_path, [row()], f"reward={rewards}:bad")
    assert (found[0]["score"], found[0]["status"]) == (None, "infra_error")
    assert "the function raised ValueError" in found[0]["reasons"][0]


def test_trl_rewards_get_the_other_fields_as_columns(tmp_path: Path, rewards: Path):
    rows = [row("4", bonus=0.5), row("4", bonus=1.0), row("3", bonus=1.0)]
    found = graded(tmp_path, rows, f"reward={rewards}:trl")
    assert [r["score"] for r in found] == [0.5, 1.0, 0.0]
    chats = [row("yes", messages=[{"role": "user", "content": "?"}])]
    assert graded(tmp_path, chats, f"reward={rewards}:chat")[0]["score"] == 1.0


def test_code_runs_in_the_local_jail_even_where_there_is_a_key(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("E2B_API_KEY", "e2b_nobody")
    tests = {"type": "stdio", "cases": [{"input": "2 3", "output": "5"}]}
    reference = {"language": "python", "tests": tests}
    rows = [
        row("So:\n```python\nprint(sum(map(int, input().split())))\n```", reference=reference),
        row("print(5", reference=reference),
        row("print(5)", reference={**reference, "tests": {}}),
    ]
    found = graded(tmp_path, rows, "reward=code", "sandbox.workers=2")
    assert [(r["score"], r["status"]) for r in found] == [
        (1.0, "pass"),
        (0.0, "error"),
        (None, "error"),
    ]
    assert found[2]["reasons"][0] == "bad_reference"


def test_critic_rows_are_graded_in_their_template(tmp_path: Path):
    critic = {"kind": "critic", "prompt": "A or B?", "reference": {"better": "A"}}
    full = {**critic, "response": '{"better": "A"}'}
    rows = [full, {**critic, "response": "A", "meta": {"template": "letter"}}]
    rows += [{**critic, "response": "A"}, {**full, "reference": {"better": "C"}}]
    found = graded(tmp_path, rows, "reward=critic")
    assert [r["score"] for r in found] == [1.0, 1.0, 0.0, None]
    assert found[3]["reasons"][0] == "bad_reference"


def test_the_rollouts_of_a_run_are_graded_again(tmp_path: Path, rewards: Path):
    """Their rows hold what a verifier needs, the answer is their last message, and what the run
    could not finish stays without a score."""
    task = Task.make("math", "2+2?", "4", {"bonus": 1.0})
    answers = []
    for text, status in (("\\boxed{4}", Status.COMPLETED), ("5", Status.TRUNCATED)):
        answer = Trajectory(messages=[*task.messages], status=status)
        answer.extend_sampled(Completion([1, 2], [-0.5, -0.5], "stop", 0))
        answer.messages.append(Message(role="assistant", content=text))
        answer.scores = [Score.of("math", float(text != "5"))]
        answers.append(answer)
    answers.append(Trajectory(messages=[*task.messages], status=Status.FAILED))
    run = RunFolder.create(tmp_path / "run", "demo")
    file = run.write_rollouts(1, [Group(task, answers, index=3)])
    found = graded(tmp_path, file)
    assert [(r["score"], r["status"]) for r in found] == [
        (1.0, "pass"),
        (0.0, "fail"),
        (None, "infra_error"),
    ]
    again = graded(tmp_path, file, f"reward={rewards}:trl")  # its columns and prompt are the task's
    assert [r["score"] for r in again] == [0.0, 0.0, None]


# -- several rewards, and rows of other kinds ------------------------------------------------------


def test_several_rewards_are_combined_as_in_a_run(tmp_path: Path, rewards: Path):
    keys = [f"reward=[math,{rewards}:length]", "reward.weights.length=3", "pass_threshold=0.5"]
    found = graded(tmp_path, [row("\\boxed{4}"), row("\\boxed{5}", id="b")], *keys)
    assert [(r["score"], r["status"]) for r in found] == [
        (pytest.approx((1 + 3 * 0.9) / 4), "pass"),
        (pytest.approx(3 * 0.9 / 4), "pass"),
    ]
    assert found[1]["scores"] == {"math": 0.0, "length": 0.9}
    assert found[1]["reasons"] == ["math: answered 5, wanted 4", "length: returned 0.9"]
    broken = graded(tmp_path, [row()], f"reward=[math, '{rewards}:bad']")[0]
    assert (broken["score"], broken["status"], broken["scores"]["math"]) == (None, "infra_error", 1)


def test_an_abstaining_reward_leaves_the_row_to_the_others(tmp_path: Path, rewards: Path):
    rows = [row(), row("5")]
    found = graded(tmp_path, rows, f"reward=[math,{rewards}:silent]")
    assert [(r["score"], r["status"]) for r in found] == [(1.0, "pass"), (0.0, "fail")]
    found = graded(tmp_path, rows, f"reward={rewards}:silent")
    assert [(r["score"], r["status"]) for r in found] == [(None, "abstain")] * 2


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["reward=[math,math]"], "both give a score named 'math'"),
        (["reward=[math,a.py:math]"], "'math' and 'a.py:math' both give"),
        (["reward=[math,cde]"], "reward=cde is not known"),
        (["reward.weights.cde=2"], "reward.weights.cde names no reward of reward="),
        (["reward.weights.math=0"], "all its rewards weigh 0"),
        (["reward.weights.math=-1"], "must be 0 or more"),
        (["reward=[math,critic]", "kinds=[open]"], "has no row of kind open; its kinds are math"),
        (["reward=REWARDS:ids"], "asks for 'completion_ids', which no row of .*in.jsonl has"),
        (["reward=REWARDS:trl"], "asks for 'bonus', which no row of .*in.jsonl has"),
    ],
)
def test_rewards_that_cannot_be_combined_are_refused(
    tmp_path: Path, rewards: Path, keys: list[str], says: str
):
    words = [key.replace("REWARDS", str(rewards)) for key in keys]
    with pytest.raises(ConjointError, match=says):
        graded(tmp_path, [row()], *words)
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_of_other_kinds_are_skipped_by_key_and_counted(tmp_path: Path):
    rows = [row(id="a"), {"kind": "open"}, row(kind="code", response=None), {"kind": "open"}]
    file, out = write(tmp_path, rows), tmp_path / "out.jsonl"
    cfg = load_grade(["reward=math", "kinds=[math]", f"input={file}", f"output={out}"])
    skipped: Counter[str] = Counter()
    words = summary_words(cfg, grade(cfg, skipped), skipped)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["a"]
    assert words[-1] == "rows of other kinds, skipped: 3 (open 2, code 1)"


def test_rewards_get_the_tokens_of_a_runs_rows(tmp_path: Path, rewards: Path):
    rollout = row("x", tokens=[1, 2, 7, 8], sampled=[0, 0, 1, 1])
    assert graded(tmp_path, [rollout], f"reward={rewards}:ids")[0]["score"] == 1.0


# -- ended in the middle -------------------------------------------------------------------------


def test_rows_are_in_the_output_as_they_are_graded_and_in_order_at_the_end(
    tmp_path: Path, monkeypatch
):
    """The first row takes longest: the others do not wait for it."""
    rows = [row("slow", id=0), *(row("4", id=i, prompt=f"{i}?") for i in range(1, 6))]
    out, seen, score = tmp_path / "out.jsonl", [], Grader.score

    async def late(grader: Grader, group: Group, seed: int) -> Group:
        while group.trajectories[0].response == "slow" and len(seen) < 5:
            seen[:] = [json.loads(line)["id"] for line in out.read_text().splitlines()]
            await asyncio.sleep(0.01)
        return await score(grader, group, seed)

    monkeypatch.setattr(Grader, "score", late)
    found = graded(tmp_path, rows)
    assert sorted(seen) == [1, 2, 3, 4, 5] and [r["id"] for r in found] == [0, 1, 2, 3, 4, 5]


def test_what_is_graded_is_kept_when_grading_ends_early(tmp_path: Path, rewards: Path):
    """kill -9 in the middle of many rows: those so far are whole lines of the output."""
    file = write(tmp_path, [row(f"\\boxed{{{i}}}", id=i, prompt=f"{i}?") for i in range(20_000)])
    out = tmp_path / "out.jsonl"
    words = ["reward=math", f"input={file}", f"output={out}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "conjoint.scripts.grade", *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()  # the first word on how far it is
    process.kill()
    process.wait()
    lines = out.read_text().splitlines()
    assert "of 20,000 rows" in said and 0 < len(lines) < 20_000
    assert all(json.loads(line)["status"] in ("pass", "fail") for line in lines[:-1])


# -- groups ------------------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def judged(monkeypatch):
    """The rubric reward with a judge that prefers the longer answer; answers "asked" pairs."""
    from conjoint.rollouts.chat import ChatAnswer
    from tests.fakes import quoted

    class Longest:
        async def chat(self, messages: list[Message], **how: Any) -> ChatAnswer:
            prompt = messages[-1]["content"]
            better = "A" if len(quoted(prompt, "A")) > len(quoted(prompt, "B")) else "B"
            return ChatAnswer(json.dumps({"better": better}), "stop", 1, 1)

        async def check(self) -> None: ...

        async def close(self) -> None: ...

    monkeypatch.setattr("conjoint.scripts.eval.grader.judge_endpoint", lambda cfg: Longest())
    return ["reward=rubric", "judge.endpoint=http://127.0.0.1:1/v1", "judge.endpoint_model=m"]


def open_row(response: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "open", "messages": QUESTION, "response": response, **fields}


def test_a_pairwise_reward_sees_the_rows_of_a_group_else_of_a_prompt(tmp_path: Path, judged):
    short, long = "Light scatters.", "Blue light scatters more than red light."
    rows = [open_row(short), open_row(short, group="x"), open_row(long), open_row("", group="x")]
    rows += [open_row(long, messages=[{"role": "user", "content": "Another question?"}])]
    found = graded(tmp_path, rows, *judged)
    assert [r["score"] for r in found] == [0.0, 1.0, 1.0, 0.0, None]
    assert "no answer to compare with" in found[4]["reasons"][0]


def test_a_group_of_different_prompts_cannot_be_compared(tmp_path: Path, judged):
    rows = [open_row("a", group=1), open_row("b", group=1, messages=[*QUESTION, *QUESTION])]
    with pytest.raises(ConjointError, match=r"in\.jsonl line 2: .* another prompt .* line 1"):
        graded(tmp_path, rows, *judged)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{broken", r"in\.jsonl line 2: invalid JSON"),
        (b'{"kind": "math"', r"line 2: invalid JSON"),
        (b"\xff\xfe\x00", "line 2: byte 1 is not UTF-8"),
        (b"[1, 2]", "line 2: a list instead of a JSON object"),
        (b'"text"', "line 2: text instead"),
        (b"[" * 100_000, "line 2: invalid JSON"),
        (json.dumps(row(response=None)).encode(), "line 2: field 'response' is null"),
        (b'{"kind": "math", "prompt": "x", "reference": "1"}', "field 'response' is missing"),
        (json.dumps(row(kind=" ")).encode(), "line 2: field 'kind' is text"),
        (b'{"prompt": "x", "response": "y"}', "line 2: field 'kind' is missing"),
        (json.dumps(row(prompt=None)).encode(), "line 2: field 'prompt' is null"),
        (json.dumps(row(messages=[])).encode(), "field 'messages' is an empty list"),
        (json.dumps(row(messages="x")).encode(), "field 'messages' is text"),
        (json.dumps(row(messages=[3])).encode(), r"field 'messages\[0\]' is a number"),
        (json.dumps(row(messages=[{"role": "x"}])).encode(), r"'messages\[0\].role' is 'x'"),
        (json.dumps(row(messages=[{"role": "user"}])).encode(), r"content' is null"),
        (json.dumps(row(id=[1])).encode(), "field 'id' is a list"),
        (json.dumps(row(id=math.nan)).encode(), "field 'id' is a number; expected .* finite"),
        (json.dumps(row(group={})).encode(), "field 'group' is an object"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_line(tmp_path: Path, line: bytes, says: str):
    file = tmp_path / "in.jsonl"
    file.write_bytes(json.dumps(row()).encode() + b"\n" + line + b"\n")
    with pytest.raises(ConjointError, match=says) as caught:
        graded(tmp_path, file)
    assert "\n" not in str(caught.value) and not (tmp_path / "out.jsonl").exists()


def test_a_file_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(ConjointError, match="holds no rows"):
        graded(tmp_path, [])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["reward="], "reward is not given"),
        (["reward=maths"], "reward=maths is not known"),
        (["reward=nowhere.py:f"], "reward: .*no file nowhere.py"),
        (["reward=rubric"], "asks a judge"),
        (["reward=safety", "judge.endpoint_model=m"], "judge.endpoint"),
        (["reward=rubric", "reward.rubrics=[]"], "needs a rubric"),
        (["reward.kinds.math=[code]"], "use reward=NAME"),
        (["name=math"], "did you mean reward"),
        (["pass_threshold=0"], "pass_threshold=0"),
        (["pass_threshold=1.5"], "pass_threshold=1.5"),
        (["concurrency=0"], "concurrency=0"),
        (["input="], "input is not given"),
        (["input=absent.jsonl"], "no file absent.jsonl"),
        (["output="], "output is not given"),
        (["output=absent/out.jsonl"], "no folder"),
        (["output=."], "is a folder"),
        (["output=/proc/none.jsonl"], "cannot be written"),
        (["sandbox.isolation=none"], "sandbox.isolation"),
        (["rewards=math"], "unknown config key rewards"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_graded(
    tmp_path: Path, keys: list[str], says: str
):
    with pytest.raises(ConjointError, match=says):
        graded(tmp_path, [row()], *keys)


def test_an_output_is_replaced_only_when_asked_for(tmp_path: Path):
    file, out = write(tmp_path, [row()]), tmp_path / "taken.jsonl"
    out.write_text("mine")
    keys = ["reward=math", f"input={file}", f"output={out}"]
    with pytest.raises(ConjointError, match="is not overwritten"):
        grade(load_grade(keys))
    assert out.read_text() == "mine"
    grade(load_grade([*keys, "overwrite=true"]))
    out.write_bytes(b"")  # as `mktemp` makes it: nothing is lost
    grade(load_grade(keys))
    assert json.loads(out.read_text())["score"] == 1.0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_input_is_never_the_output(tmp_path: Path):
    file = write(tmp_path, [row()])
    with pytest.raises(ConjointError, match="is the input"):
        grade(load_grade(["reward=math", f"input={file}", f"output={file}", "overwrite=true"]))
    assert json.loads(file.read_text()) == row()


def test_a_file_made_meanwhile_is_kept(tmp_path: Path, monkeypatch):
    file, out = write(tmp_path, [row()]), tmp_path / "out.jsonl"
    cfg = load_grade(["reward=math", f"input={file}", f"output={out}"])
    reading = "conjoint.scripts.grade.run.read_rows"
    monkeypatch.setattr(reading, lambda *_: out.write_text("mine") and [])
    with pytest.raises(ConjointError, match="made by something else"):
        grade(cfg)
    assert out.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_paths_and_names_are_taken_as_they_stand(tmp_path: Path):
    folder = tmp_path / "a, (b) {c} = d"
    folder.mkdir()
    assert graded(folder, [row()])[0]["score"] == 1.0


# -- in words ----------------------------------------------------------------------------------


def test_the_summary_counts_each_status(tmp_path: Path):
    file = write(tmp_path, [row(), row("5"), row(reference=None)])
    cfg = load_grade(["reward=math", f"input={file}", f"output={tmp_path / 'o.jsonl'}"])
    words = "\n".join(summary_words(cfg, grade(cfg)))
    assert "3 rows: 1 pass, 1 fail, 1 error" in words
    assert "mean score 0.5000 of 2" in words and "can be graded by: 1" in words


def test_one_row_is_explained_and_nothing_written(tmp_path: Path):
    rows = [row(id="a"), row("No\x1b[2J: 5\n" + "x" * 900, id="b"), row(id="c", reference="")]
    file = write(tmp_path, rows)
    keys = ["reward=math", f"input={file}"]
    said = "\n".join(explain(load_grade(keys)))
    assert "row a (line 1)" in said and "pass, score 1: at least pass_threshold 1" in said
    said = "\n".join(explain(load_grade([*keys, "row=b"])))
    assert "fail, score 0: below" in said and "because" in said
    assert "\x1b" not in said and "characters)" in said
    assert "bad_reference" in "\n".join(explain(load_grade([*keys, "row=c"])))
    with pytest.raises(ConjointError, match="row=z"):
        explain(load_grade([*keys, "row=z"]))
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


# -- public data -------------------------------------------------------------------------------


def test_gsm8k_solutions_pass_and_with_another_number_fail(tmp_path: Path):
    path = SHARED / "gsm8k_test.jsonl"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    rows = []
    for line in path.read_text().splitlines()[::40]:
        given = json.loads(line)
        body, _, gold = given["answer"].rpartition("####")
        wrong = str(int(gold.replace(",", "")) + 1)
        task = {"kind": "math", "prompt": given["question"], "reference": gold.strip()}
        rows += [
            {**task, "response": given["answer"]},
            {**task, "response": f"{body}#### {wrong}"},
        ]
    found = graded(tmp_path, rows)
    assert [r["score"] for r in found] == [1.0, 0.0] * (len(rows) // 2)
