"""Guessable rows: those a model answers at once, and those whose answer is one of a few by form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Message, StopRun, Task
from conjoint.rollouts.chat import ChatAnswer
from conjoint.scripts.data import guessable as tool
from conjoint.scripts.eval.grader import Grader

HARD = {"prompt": "What is 1234 times 5678?", "answer": "7006652"}
EASY = {"prompt": "What is 2 plus 3?", "answer": "5"}


class Guesser:
    """Knows one sum; right about the hard one in its `lucky`-th try at it."""

    def __init__(self, lucky: int = 0, broken: str = "") -> None:
        self.lucky, self.broken = lucky, broken
        self.calls: list[dict[str, Any]] = []
        self.hard = 0

    async def chat(self, messages: Sequence[Message], **how: Any) -> ChatAnswer:
        prompt = messages[-1]["content"]
        self.calls.append({"prompt": prompt, **how})
        if self.broken and self.broken in prompt:
            raise ConnectionError("gone")
        if "2 plus 3" in prompt:
            return ChatAnswer("\\boxed{5}", "stop", 5, 5)
        self.hard += 1
        text = "\\boxed{7006652}" if self.hard == self.lucky else "\\boxed{7000000}"
        return ChatAnswer(text, "stop", 5, 5)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path: Path, **changes: Any) -> tool.GuessableConfig:
    keys = {"input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl")}
    return tool.GuessableConfig(**keys, model="m", **changes)  # type: ignore[arg-type]


async def guesses(cfg: tool.GuessableConfig, rows: list[Any], policy: Guesser) -> Any:
    write(Path(cfg.input), rows)
    _, tasks = tool.read(cfg)
    grader = Grader([cfg.kind], cfg)
    try:
        asked = [tool.at_once(task) for task in tasks]
        return tasks, await tool.guesses(policy, grader, asked, cfg)
    finally:
        await grader.close()


@pytest.mark.parametrize(("lucky", "guessed"), [(0, False), (1, True), (8, True), (9, False)])
async def test_one_right_try_in_eight_is_a_guess(tmp_path: Path, lucky: int, guessed: bool):
    policy = Guesser(lucky)
    _, found = await guesses(config(tmp_path), [EASY, HARD], policy)
    assert found == [True, guessed]
    assert len(policy.calls) == 16 and policy.hard == 8


async def test_the_answer_alone_is_asked_for_in_few_tokens_with_seeds_of_its_own(tmp_path: Path):
    policy = Guesser()
    await guesses(config(tmp_path, k=3, seed=5), [HARD], policy)
    assert len(policy.calls) == 3 and len({c["seed"] for c in policy.calls}) == 3
    for call in policy.calls:
        assert call["prompt"].startswith(HARD["prompt"]) and tool.AT_ONCE in call["prompt"]
        assert call["max_tokens"] == 48 and call["temperature"] == 0.8
    policy = Guesser()
    await guesses(config(tmp_path, max_tokens=9, temperature=1.5), [HARD], policy)
    assert {(c["max_tokens"], c["temperature"]) for c in policy.calls} == {(9, 1.5)}


async def test_planted_rows_are_dropped_and_counted_and_the_others_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    planted = [
        EASY,
        {"prompt": "Is 91 prime?", "answer": "No"},
        {"prompt": "Which is odd? (A) 2 (B) 3 (C) 4", "answer": "B"},
    ]
    kept = [{**HARD, "extra": {"a": [1, None]}}, {"prompt": "Compute 17 * 23.", "answer": 391}]
    cfg = config(tmp_path)
    rows = [planted[0], kept[0], planted[1], kept[1], planted[2]]
    tasks, found = await guesses(cfg, rows, Guesser())
    tool.finish(cfg, rows, tasks, found)
    assert [json.loads(line) for line in Path(cfg.output).read_text().splitlines()] == kept
    said = capsys.readouterr().out
    assert "rows in: 5\ndropped: 3\n" in said and "kept: 2 -> " in said
    for words in (tool.GUESSED, tool.FORMS[tool.YES_NO], tool.FORMS[tool.CHOICE]):
        assert f"  {words}: 1\n" in said
    assert f"  {tool.GUESSED}, within 8 tries of m: 1\n" in said


async def test_a_row_whose_tries_all_failed_stays_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cfg = config(tmp_path)
    tasks, found = await guesses(cfg, [EASY, HARD], Guesser(broken="5678"))
    assert found == [True, None]
    tool.finish(cfg, [EASY, HARD], tasks, found)
    assert "kept although no try could be graded: 1\n" in capsys.readouterr().out
    with pytest.raises(StopRun, match="no try could be graded"):
        await guesses(cfg, [HARD], Guesser(broken="5678"))


YES_NO, CHOICE, IN_PROMPT = tool.YES_NO, tool.CHOICE, tool.IN_PROMPT


@pytest.mark.parametrize(
    ("prompt", "reference", "found"),
    [
        ("Is 91 prime?", "No", [YES_NO]),
        ("Is 91 prime?", "\\text{No}.", [YES_NO]),
        ("Is it so?", "TRUE", [YES_NO]),
        ("Is it so?", False, [YES_NO]),
        ("Answer yes or no: is 7 prime?", "yes", [YES_NO, IN_PROMPT]),
        ("Pick one: A) 2 B) 3", "B", [CHOICE, IN_PROMPT]),
        ("Pick one.\nA. two\nB. three", "(b)", [CHOICE]),
        ("Pick one.", "\\textbf{(C)}", [CHOICE]),
        ("Pick one. (A) red (B) blue", "$\\text{B}$", [CHOICE, IN_PROMPT]),
        ("Is it 12 or 13?", "13", [IN_PROMPT]),
        ("Is it 12 or 13?", 13, [IN_PROMPT]),
        ("Name the capital of France: Paris or Rome?", "paris", [IN_PROMPT]),
        # Not guessable by form:
        ("What is 1234 times 5678?", "7006652", []),
        ("How many are 12 and 1?", "2", []),
        ("Add 3.5 and 1.", "3", []),
        ("Solve for the unknown.", "b", []),
        ("Solve n + n = 2 n for all n.", "n = 0", []),
        ("Write a function.", {"tests": {}}, []),
        ("Write it.", None, []),
    ],
)
def test_forms(prompt: str, reference: Any, found: list[str]):
    assert tool.forms(Task.make("math", prompt, reference)) == found


def test_without_a_model_forms_alone_decide_and_drop_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [EASY, {"prompt": "Is 91 prime?", "answer": "No"}, {"prompt": "12 or 13?", "answer": 13}]
    files = [f"input={write(tmp_path / 'in.jsonl', rows)}", f"output={tmp_path / 'out.jsonl'}"]

    def kept(*overrides: str) -> list[Any]:
        assert tool.run([*files, *overrides]) == 0
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        (tmp_path / "out.jsonl").unlink()
        return [json.loads(line) for line in lines]

    assert kept() == [rows[0], rows[2]]
    said = capsys.readouterr().out
    assert "no model was asked" in said and f"  {tool.FORMS[IN_PROMPT]}: 1\n" in said
    assert kept("drop=[in_prompt]") == rows[:2]
    assert kept("drop=yes_no,in_prompt") == rows[:1]
    assert kept("drop=[]") == rows


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["drop=yesno"], "drop=yesno is no form of answers; did you mean yes_no"),
        (["kind=open"], "kind=open has no verifier"),
        (["kind=safety"], "kind=safety has no verifier"),
        (["model=m", "k=0"], "k=0 must be at least 1"),
        (["endpoint=http://h/v1"], "model is not given"),
        (["model=no/such/folder/at/all"], "no/such/folder"),
        (["rollout.max_tokens=3"], "rollout.max_tokens has no effect here; use max_tokens"),
    ],
)
def test_mistakes_are_named_before_a_model_loads(tmp_path: Path, overrides: list[str], words: str):
    files = [f"input={write(tmp_path / 'in.jsonl', [EASY])}", f"output={tmp_path / 'out.jsonl'}"]
    with pytest.raises(ConjointError, match=words):
        tool.run([*files, *overrides])
    (tmp_path / "in.jsonl").write_text('{"prompt": "x", "answer": "5"}\n{"prompt": "y"}\n')
    with pytest.raises(ConjointError, match=r"in\.jsonl line 2: field 'answer' is missing"):
        tool.run(files)
