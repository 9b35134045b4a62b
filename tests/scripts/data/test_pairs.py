"""Pairs of a policy's own answers: which answers meet, and why other tasks give none."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Message, StopRun
from conjoint.rl.nano.preferences import read_pairs
from conjoint.rollouts.chat import ChatAnswer
from conjoint.scripts.data import pairs as tool
from conjoint.scripts.eval.grader import Grader

ROWS = [
    {"prompt": "What is 2 plus 3?", "answer": "5", "solved": 4},
    {"prompt": "What is 91 times 3?", "answer": "273", "solved": 1},
    {"prompt": "What is 7 times 8?", "answer": "56", "solved": 0},
    {"prompt": "What is 12 times 12?", "answer": "144", "solved": 2},
]


class Policy:
    """Gives the right answer in the first `solved` of its tries, and then a different wrong one
    each time."""

    def __init__(self, stop: str = "stop", *, broken: bool = False) -> None:
        self.asked: Counter[str] = Counter()
        self._stop, self._broken = stop, broken

    async def chat(self, messages: Sequence[Message], **how: Any) -> ChatAnswer:
        if self._broken:
            raise ConnectionError("gone")
        prompt = messages[-1]["content"]
        row = next(row for row in ROWS if row["prompt"] == prompt)
        self.asked[prompt] += 1
        tries = self.asked[prompt]
        text = row["answer"] if tries <= row["solved"] else str(90_000 + tries)
        return ChatAnswer(f"\\boxed{{{text}}} in try {tries}", self._stop, 5, 5)


def config(tmp_path: Path, **changes: Any) -> tool.PairsConfig:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = {"input": str(source), "output": str(tmp_path / "out.jsonl")}
    return tool.PairsConfig(**files, model="m", **{"k": 4, **changes})  # type: ignore[arg-type]


async def made(cfg: tool.PairsConfig, policy: Policy) -> list[Any]:
    cfg.validate()
    grader = Grader([cfg.kind], cfg)
    try:
        tool.finish(cfg, *await tool.paired(policy, grader, tool._tasks(cfg), cfg))
    finally:
        await grader.close()
    return read_pairs(cfg.output, "eval.pairs")


async def test_a_right_answer_meets_a_wrong_one_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = await made(config(tmp_path), Policy())
    assert [task.prompt for task, _, _ in found] == [ROWS[1]["prompt"], ROWS[3]["prompt"]]
    assert {task.kind for task, _, _ in found} == {"math"}
    for (_, right, wrong), row in zip(found, (ROWS[1], ROWS[3]), strict=True):
        assert row["answer"] in right and "{9000" in wrong
    said = capsys.readouterr().out
    assert f"  {tool.ALL_RIGHT}: 1\n" in said and f"  {tool.ALL_WRONG}: 1\n" in said
    assert "pairs: 2\n" in said and "rows in: 4\n" in said


async def test_more_pairs_of_one_task_share_no_answer(tmp_path: Path):
    found = await made(config(tmp_path, per_task=3), Policy())
    texts = [text for task, *pair in found if task.prompt == ROWS[3]["prompt"] for text in pair]
    assert len(found) == 3 and len(texts) == 4 and len(set(texts)) == 4


async def test_answers_that_were_cut_off_make_no_pair(tmp_path: Path):
    with pytest.raises(ConjointError, match="holds no rows"):
        await made(config(tmp_path), Policy(stop="length"))


async def test_an_engine_that_breaks_leaves_no_file(tmp_path: Path):
    with pytest.raises(StopRun, match="no answer could be graded"):
        await made(config(tmp_path), Policy(broken=True))
    assert not (tmp_path / "out.jsonl").exists()


def test_the_built_in_tasks_are_held_out_ones(tmp_path: Path):
    cfg = tool.PairsConfig(output=str(tmp_path / "o.jsonl"), model="nano", kind="code", limit=3)
    cfg.validate()
    assert {task.kind for task in tool._tasks(cfg)} == {"code"} and len(tool._tasks(cfg)) == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["kind=open"], "kind=open has no verifier"),
        (["kind=logic"], "kind=logic has no built-in source"),
        (["output=o.txt"], "give output=FILE"),
        (["k=1"], "k must be at least 2"),
        (["per_task=0"], "limit and per_task at least 1"),
    ],
)
def test_mistakes_are_named_before_a_model_loads(tmp_path: Path, overrides: list[str], words: str):
    with pytest.raises(ConjointError, match=words):
        tool.run([f"output={tmp_path / 'out.jsonl'}", "model=m", *overrides])
