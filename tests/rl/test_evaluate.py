"""The judge at an evaluation: which pairs are its self-preference, and what is logged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Message, Score, Task
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rl.evaluate import check_pairs
from conjoint.rl.run.folder import read_jsonl
from conjoint.rl.train import train
from tests.fakes import FakeEngine
from tests.rl.test_train import build

KEYS = ("num_steps=2", "eval.every=1", "eval.greedy=false", "checkpoint.every=0")
STEPS = [0, 1, 2]


class Vain(FakeEngine):
    """Writes its version into its answers, and as judge prefers the higher one, or the first."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: self.say(prompt, seed))

    def say(self, prompt: str, seed: int) -> str:
        if "Judge:" not in prompt:
            return "right"[: seed % 5] + f"v{self.version}" * (seed % 3 + 1)
        _, _, answers = prompt.partition("\nA: ")
        a, b = answers.removesuffix("<assistant>").split("\nB: ")
        return "B" if "v" in b and b[-1] > a[-1] else "A"


async def always(task: Task, response: str) -> Score:
    return Score.of("check", 1.0)


async def rather_later(task: Task, response: str) -> Score:
    return Score.of("check", float("v1" in response or "v2" in response))


def logged(folder: Any) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder.metrics) if "judge_eval/accuracy" in row]


async def test_self_preference_compares_with_the_start_where_the_verifier_sees_no_difference(
    tmp_path: Path,
):
    system = build(tmp_path / "run", *KEYS, "eval.judge_pairs=9", verifier=always, engine=Vain())
    await train(system)
    rows = logged(system.record.folder)
    assert [row["step"] for row in rows] == STEPS
    assert "judge_eval/self_preference" not in rows[0], "at the start there is nobody else"
    assert [row["judge_eval/self_preference"] for row in rows[1:]] == [1.0, 1.0]
    assert [row["judge_eval/self_preference_pairs"] for row in rows[1:]] == [9.0, 9.0]
    pairs = read_jsonl(system.record.folder.eval_of("judge_self_end"))
    assert len(pairs) == 9 and {tuple(row["said"]) for row in pairs} == {("A", "B")}
    assert {row["kind"] for row in pairs} == {"self"} and {row["score"] for row in pairs} == {1.0}
    assert 0 <= rows[0]["judge_eval/accuracy"] <= 1 and "judge_eval/swap_consistency" in rows[0]


@pytest.mark.parametrize(
    ("verifier", "keys"),
    [
        (rather_later, ()),
        (always, ("rollout.max_tokens=2",)),
        (always, ("eval.tasks=0",)),
    ],
    ids=["another score", "cut off", "no held-out tasks"],
)
async def test_answers_that_differ_in_more_are_not_compared(
    tmp_path: Path, verifier: Any, keys: tuple[str, ...]
):
    system = build(tmp_path / "run", *KEYS, *keys, verifier=verifier, engine=Vain())
    await train(system)
    assert len(logged(system.record.folder)) == 3
    assert not any("judge_eval/self_preference" in row for row in logged(system.record.folder))
    assert not system.record.folder.eval_of("judge_self_end").exists()


async def test_without_pairs_nothing_is_asked_of_the_judge(tmp_path: Path):
    system = build(tmp_path / "run", *KEYS, "eval.judge_pairs=0", verifier=always, engine=Vain())
    await train(system)
    assert (
        not logged(system.record.folder)
        and not system.record.folder.eval_of("judge_start").exists()
    )


def test_a_pair_that_leaves_no_room_for_a_verdict_is_named():
    task = Task.make("math", "Compute 2+1.", None)
    short, long = (task, "3", "4"), (task, "3 " * 40, "4 " * 40)

    def words(messages: Sequence[Message]) -> list[int]:
        return list(range(sum(len(m["content"].split()) for m in messages)))

    judge = JudgeConfig(template="compact", max_tokens=4)
    check_pairs([short, short], judge, words, 60)
    with pytest.raises(
        ConjointError, match=r"eval\.pairs: pair 2 needs \d+ tokens .* is 60; raise"
    ):
        check_pairs([short, long], judge, words, 60)


async def test_answers_to_open_tasks_are_kept_and_not_graded(tmp_path: Path):
    keys = ("eval.open_tasks=3", "eval.judge_pairs=0", "eval.tasks=0", "tasks.open.weight=4")
    system = build(tmp_path / "run", *KEYS, *keys, verifier=always, engine=Vain())
    await train(system)
    start, end = (
        read_jsonl(system.record.folder.eval_of(f"open_{tag}")) for tag in ("start", "end")
    )
    assert [row["task_id"] for row in start] == [row["task_id"] for row in end]
    assert len(start) == 3 and {(row["kind"], row["score"]) for row in start} == {("open", None)}
    assert "v0" in "".join(row["response"] for row in start)
    assert "v2" in "".join(row["response"] for row in end)
    assert not system.record.folder.eval_of("start").exists()
