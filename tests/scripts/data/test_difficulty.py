"""Rows by how often the policy solves them: planted ones are found, counted and dropped."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Message, StopRun
from conjoint.rollouts.chat import ChatAnswer
from conjoint.scripts.data import difficulty as tool
from conjoint.scripts.eval import open_policy
from conjoint.scripts.eval.grader import Grader

NEVER = {"prompt": "What is 7 times 8, plus 1000?", "answer": "1056", "solved": 0}
SELDOM = {"prompt": "What is 91 times 3?", "answer": "273", "solved": 1, "extra": {"a": [1, None]}}
HALF = {"prompt": "What is 12 times 12?", "answer": 144, "solved": 5}
OFTEN = {"prompt": "What is 5 times 5?", "answer": "25", "solved": 9}
ALWAYS = {"prompt": "What is 2 plus 3?", "answer": "5", "solved": 10}
ROWS = [NEVER, ALWAYS, SELDOM, HALF, OFTEN]


class Policy:
    """Gives the right answer in the first `solved` of its tries at each row."""

    def __init__(self, broken: dict[str, int] | None = None, stop: str = "stop") -> None:
        self.asked: Counter[str] = Counter()
        self.calls: list[dict[str, Any]] = []
        self._broken, self._stop = broken or {}, stop

    async def chat(self, messages: Sequence[Message], **how: Any) -> ChatAnswer:
        prompt = messages[-1]["content"]
        self.calls.append({"prompt": prompt, **how})
        row = next(row for row in ROWS if row["prompt"] == prompt)
        self.asked[prompt] += 1
        if self.asked[prompt] > 10 - self._broken.get(prompt, 0):
            raise ConnectionError("gone")
        right = self.asked[prompt] <= row["solved"]
        text = f"\\boxed{{{row['answer'] if right else 99999}}}"
        return ChatAnswer(text, self._stop, 5, 5)


def config(tmp_path: Path, **changes: Any) -> tool.DifficultyConfig:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = {"input": str(source), "output": str(tmp_path / "out.jsonl")}
    return tool.DifficultyConfig(**files, model="m", **changes)  # type: ignore[arg-type]


async def filtered(cfg: tool.DifficultyConfig, policy: Policy) -> list[Any]:
    """The rows that stay."""
    cfg.validate()
    rows, tasks = tool.read(cfg)
    grader = Grader([cfg.kind], cfg)
    try:
        tool.finish(cfg, rows, await tool.tried(policy, grader, tasks, cfg))
    finally:
        await grader.close()
    return [json.loads(line) for line in Path(cfg.output).read_text().splitlines()]


async def test_planted_rows_are_found_and_counted_and_the_others_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    policy = Policy()
    assert await filtered(config(tmp_path, seed=3), policy) == [SELDOM, HALF, OFTEN]
    said = capsys.readouterr().out
    assert "rows in: 5\ndropped: 2\n" in said and "kept: 3 -> " in said
    assert f"  {tool.TOO_HARD} (under 10%): 1\n" in said
    assert f"  {tool.TOO_EASY} (over 90%): 1\n" in said
    assert "mean share of right answers of m: 0.500\n" in said and "pass@10: 0.800\n" in said
    assert "rows by right answers of 10:\n  0: 1\n  1: 1\n  5: 1\n  9: 1\n  10: 1\n" in said
    assert len(policy.calls) == 50 and len({call["seed"] for call in policy.calls}) == 50
    assert {(c["max_tokens"], c["temperature"]) for c in policy.calls} == {(1024, 0.8)}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"min_rate": 0.0}, [NEVER, SELDOM, HALF, OFTEN]),
        ({"max_rate": 1.0}, [ALWAYS, SELDOM, HALF, OFTEN]),
        ({"min_rate": 0.5, "max_rate": 0.5}, [HALF]),
        ({"min_rate": 0.2, "max_rate": 0.8}, [HALF]),
    ],
)
async def test_the_band_says_what_stays(tmp_path: Path, changes: Any, kept: list[Any]):
    assert await filtered(config(tmp_path, **changes), Policy()) == kept


async def test_fewer_answers_longer_ones_and_another_temperature(tmp_path: Path):
    policy = Policy()
    cfg = config(tmp_path, k=4, max_tokens=9, temperature=1.5)
    assert await filtered(cfg, policy) == [SELDOM]  # the others solve all four, or none
    assert {(c["max_tokens"], c["temperature"]) for c in policy.calls} == {(9, 1.5)}
    assert set(policy.asked.values()) == {4}


async def test_an_answer_that_was_cut_off_is_wrong_as_in_training(tmp_path: Path):
    assert await filtered(config(tmp_path), Policy(stop="length")) == []


async def test_answers_that_could_not_be_graded_count_in_neither_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # Nine right of nine that were graded: too often, although it would be 9 of 10.
    broken = {OFTEN["prompt"]: 1, NEVER["prompt"]: 10}
    assert await filtered(config(tmp_path), Policy(broken)) == [NEVER, SELDOM, HALF]
    said = capsys.readouterr().out
    assert "because some could not be graded: 1\n" in said
    assert "kept although no answer could be graded: 1\n" in said
    Path(tmp_path / "out.jsonl").unlink()
    with pytest.raises(StopRun, match="no answer could be graded"):
        await filtered(config(tmp_path), Policy({row["prompt"]: 10 for row in ROWS}))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["min_rate=0.9", "max_rate=0.1"], "min_rate=0.9 and max_rate=0.1 must be shares"),
        (["max_rate=90"], "must be shares from 0 to 1"),
        (["kind=open"], "kind=open has no verifier"),
        (["temperature=0"], "are 10 times the same"),
        (["k=0"], "k=0 must be at least 1"),
        (["rollout.group_size=3"], "rollout.group_size has no effect here; use k"),
        (["model=no/such/folder/at/all"], "no/such/folder"),
    ],
)
def test_mistakes_are_named_before_a_model_loads(tmp_path: Path, overrides: list[str], words: str):
    cfg = config(tmp_path)
    given = [f"input={cfg.input}", f"output={cfg.output}", "model=m"]
    with pytest.raises(ConjointError, match=words):
        tool.run([*given, *overrides])
    with pytest.raises(ConjointError, match="model is not given"):
        tool.run(given[:2])


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    @asynccontextmanager
    async def opened(cfg: Any, model: Any, needed: Any, *_: Any) -> AsyncIterator[Policy]:
        asked.extend(tokens for _, tokens in needed)
        yield Policy()

    monkeypatch.setattr(open_policy, "opened", opened)
    cfg = config(tmp_path)
    files = [f"input={cfg.input}", f"output={cfg.output}", "endpoint=http://h/v1", "model=m"]
    assert tool.run([*files, "max_tokens=77"]) == 0
    assert [json.loads(line) for line in Path(cfg.output).read_text().splitlines()] == [
        SELDOM, HALF, OFTEN]  # fmt: skip
    assert asked == [77] * 5
