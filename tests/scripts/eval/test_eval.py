"""`conjoint eval` with a scripted policy: sampling, masking, figures, files. No engine."""

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from conjoint.envs.confidence import ASK
from conjoint.envs.types import ConjointError, Message, Status, StopRun, Task
from conjoint.rl.run.console import RunConsole
from conjoint.rl.run.folder import read_jsonl
from conjoint.rl.stats.intervals import clustered_interval, pass_at_k
from conjoint.rollouts.chat import ChatAnswer, EngineChat
from conjoint.scripts.eval.config import load_suites
from conjoint.scripts.eval.grader import Grader, Sampling, scored_groups
from conjoint.scripts.eval.results import EvalFolder, answer_rows, overall_figures, suite_figures
from conjoint.scripts.eval.run import evaluate, prompted, read_tasks
from tests.fakes import CharRenderer, FakeEngine

Reply = Callable[[str, int], ChatAnswer]


def say(text: str, stop: str = "stop") -> ChatAnswer:
    return ChatAnswer(text, stop, len(text), 5)


class Scripted:
    """A chat policy from a function of the prompt and the seed; counts what is in flight."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.running = self.peak = 0
        self.asked: list[dict[str, Any]] = []

    async def chat(self, messages: Sequence[Message], **settings: Any) -> ChatAnswer:
        self.asked.append(settings)
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return self._reply(messages[-1]["content"], settings["seed"])


def sums(folder: Path, count: int) -> Path:
    rows = [{"question": f"What is {i}+1?", "answer": f"#### {i + 1}"} for i in range(count)]
    (folder / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def number(prompt: str) -> int:
    return int(prompt.split()[2].partition("+")[0])


async def run(folder: Path, reply: Reply, *overrides: str) -> tuple[dict[str, Any], str, list[Any]]:
    """(summary, what was printed, rows) of an evaluation on ten sums."""
    cfg = load_suites(["model=m", "suite=gsm8k", f"data={sums(folder, 10)}", *overrides])
    out, printed = folder / "out", io.StringIO()
    grader, results = (
        Grader(["math"], cfg, confidence=cfg.confidence),
        EvalFolder.plan(str(out), "m"),
    )
    results.claim({"model": "m"})
    console = RunConsole(1, Console(file=printed, width=200))
    try:
        policy = Scripted(reply)
        summary = await evaluate(cfg, read_tasks(cfg), policy, grader, results, console)
    finally:
        await grader.close()
    assert json.loads((out / "summary.json").read_text())["suites"] == summary["suites"]
    return summary, printed.getvalue(), read_jsonl(out / "gsm8k.jsonl")


async def test_figures_rows_and_words_of_a_suite(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        i = number(prompt)
        return say(f"\\boxed{{{i + 1 if i < 4 else 0}}}")

    summary, printed, rows = await run(tmp_path, reply)
    figures = summary["suites"]["gsm8k"]
    assert figures["avg"]["mean"] == figures["pass"]["1"]["mean"] == 0.4
    assert (figures["avg"]["lo"], figures["avg"]["hi"]) == pytest.approx(
        (0.16818, 0.68733), abs=1e-5
    )
    assert (figures["tasks"], figures["answers"], figures["masked"]) == (10, 10, 0)
    assert figures["truncated"]["mean"] == 0.0 and figures["setting"]["temperature"] == 0.0
    assert summary["overall"]["avg"]["mean"] == 0.4
    assert "10/10 tasks" in printed and "avg@1    0.4000  [0.1682, 0.6873]" in printed
    assert "pass@1" in printed and "Wilson" in printed
    assert [r["id"] for r in rows] == [f"gsm8k/{i}#0" for i in range(1, 11)]
    assert [r["score"] for r in rows] == [1.0] * 4 + [0.0] * 6
    assert all(r["reasons"] and r["messages"][0]["role"] == "user" for r in rows)
    # What `conjoint grade` needs to grade them again.
    assert {"id", "group", "kind", "messages", "reference", "response"} <= rows[0].keys()


async def test_several_answers_a_task_are_estimated_without_bias(tmp_path: Path):
    seen: dict[str, int] = {}

    def reply(prompt: str, seed: int) -> ChatAnswer:
        """Task i has i right answers of 4, at most."""
        i = number(prompt)
        seen[prompt] = seen.get(prompt, 0) + 1
        return say(f"\\boxed{{{i + 1 if seen[prompt] <= i else 0}}}")

    summary, printed, rows = await run(tmp_path, reply, "k=4")
    figures, right = summary["suites"]["gsm8k"], [min(i, 4) for i in range(10)]
    for k in (1, 2, 3, 4):
        expected = [pass_at_k(4, c, k) for c in right]
        interval = clustered_interval(expected, 4)
        assert figures["pass"][str(k)]["mean"] == pytest.approx(sum(expected) / 10)
        assert figures["pass"][str(k)]["lo"] == pytest.approx(interval.lo)
    assert figures["avg"]["mean"] == pytest.approx(sum(right) / 40)
    assert figures["setting"]["temperature"] == 0.8
    assert "pass@2" in printed and "pass@4" in printed and "pass@3" not in printed
    assert len({r["id"] for r in rows}) == 40 and len({r["group"] for r in rows}) == 10


async def test_a_cut_off_answer_scores_0_and_keeps_its_verdict(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        i = number(prompt)
        return say(f"\\boxed{{{i + 1}}}", "length" if i < 3 else "stop")

    summary, printed, rows = await run(tmp_path, reply)
    figures = summary["suites"]["gsm8k"]
    assert figures["avg"]["mean"] == 0.7 and figures["truncated"]["mean"] == pytest.approx(0.3)
    assert "30.0% cut off" in printed
    assert [r["score"] for r in rows[:4]] == [0.0, 0.0, 0.0, 1.0]
    assert rows[0]["verdict"] == 1.0 and rows[0]["status"] == "fail"
    assert rows[0]["ended"] == "truncated" and "cut off" in rows[0]["reasons"][0]


async def test_a_cut_off_answer_can_be_graded_as_it_stands(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        return say(f"\\boxed{{{number(prompt) + 1}}}", "length")

    summary, _, _ = await run(tmp_path, reply, "grade_truncated=true")
    assert summary["suites"]["gsm8k"]["avg"]["mean"] == 1.0


async def test_a_prompt_that_does_not_fit_scores_0_and_is_counted(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        i = number(prompt)
        return ChatAnswer("", "too_long", 0, 999) if i < 2 else say(f"\\boxed{{{i + 1}}}")

    summary, printed, rows = await run(tmp_path, reply, "grade_truncated=true")
    figures = summary["suites"]["gsm8k"]
    assert figures["too_long"] == 2 and figures["masked"] == 0
    assert figures["avg"]["mean"] == 0.8 and figures["truncated"]["mean"] == pytest.approx(0.2)
    assert rows[0]["ended"] == "too_long" and "no room" in rows[0]["reasons"][0]
    assert "2 prompt(s) too long" in printed


async def test_what_our_machinery_broke_is_masked_and_never_0(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        i = number(prompt)
        if i < 5:
            raise RuntimeError("the server is on fire")
        return say(f"\\boxed{{{i + 1}}}")

    summary, printed, rows = await run(tmp_path, reply)
    figures = summary["suites"]["gsm8k"]
    assert figures["avg"]["mean"] == 1.0 and figures["avg"]["n"] == 5
    assert figures["masked"] == 5 and "5 not graded" in printed
    assert rows[0]["score"] is None and rows[0]["status"] == "infra_error"
    assert "on fire" in rows[0]["reasons"][0]


async def test_an_evaluation_of_which_nothing_is_graded_stops_and_keeps_its_files(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        raise RuntimeError("gone")

    with pytest.raises(StopRun, match=r"gsm8k could be graded"):
        await run(tmp_path, reply)
    assert len(read_jsonl(tmp_path / "out" / "gsm8k.jsonl")) == 10
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())["suites"]["gsm8k"]
    assert figures["avg"] is None and figures["masked"] == 10


async def test_a_stop_rule_ends_it_and_what_was_done_is_kept(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        if number(prompt) == 7:
            raise StopRun("the engine died")
        return say("\\boxed{1}")

    with pytest.raises(StopRun, match="died"):
        await run(tmp_path, reply, "concurrency=1")
    assert len(read_jsonl(tmp_path / "out" / "gsm8k.jsonl")) == 7


def rows_of(scores: Sequence[Sequence[float | None]], ended: str = "completed") -> list[Any]:
    return [
        {"group": str(t), "score": s, "ended": ended, "num_tokens": 1}
        for t, task in enumerate(scores)
        for s in task
    ]


def test_a_task_with_too_few_graded_answers_is_left_out_of_pass_at_k():
    figures = suite_figures(rows_of([[1.0, 0.0], [0.0, None], [None, None]]), 2)
    assert figures["pass"]["2"] == {**figures["pass"]["2"], "mean": 1.0, "n": 1}
    assert figures["pass"]["1"] == {**figures["pass"]["1"], "mean": 0.25, "n": 2}
    assert figures["masked"] == 3 and figures["tasks"] == 3


def test_the_overall_figure_weighs_suites_alike():
    small = suite_figures(rows_of([[1.0]] * 2), 1)
    large = suite_figures(rows_of([[0.0]] * 98), 1)
    overall = overall_figures({"a": small, "b": large})
    assert overall["avg"]["mean"] == 0.5 and overall["avg"]["n"] == 100
    assert overall["avg"]["lo"] < 0.5 < overall["avg"]["hi"]
    empty = suite_figures(rows_of([[None]]), 1)
    assert overall_figures({"a": small, "b": empty})["avg"] is None


async def sampled(policy: Scripted, tasks: Sequence[Task], k: int, concurrency: int) -> list[Any]:
    cfg = load_suites(["model=m", "suite=gsm8k"])
    grader = Grader(["math"], cfg)
    sampling = Sampling(k, 9, 0.8, 3, concurrency)
    groups = [g async for g in scored_groups(policy, grader, tasks, sampling, "tag")]
    await grader.close()
    return sorted(groups, key=lambda g: g.index)


async def test_seeds_differ_by_answer_and_do_not_depend_on_other_tasks():
    tasks = [Task(f"t{i}", "math", ({"role": "user", "content": "?"},), "1") for i in range(6)]
    policy = Scripted(lambda prompt, seed: say(f"\\boxed{{{seed}}}"))
    groups = await sampled(policy, tasks, 3, 6)
    seeds = [t.response for g in groups for t in g.trajectories]
    assert len(set(seeds)) == 18 and policy.peak <= 6
    assert {(a["max_tokens"], a["temperature"]) for a in policy.asked} == {(9, 0.8)}
    [alone] = await sampled(policy, tasks[4:5], 3, 6)
    assert [t.response for t in alone.trajectories] == seeds[12:15]


async def test_an_engines_answer_has_the_room_that_the_prompt_leaves():
    messages: list[Message] = [{"role": "user", "content": "hi"}]
    prompt = len(CharRenderer().prompt(messages))
    renderer: Any = CharRenderer()

    async def ask(length: int, max_tokens: int = 50) -> ChatAnswer:
        chat = EngineChat(FakeEngine(lambda text, seed: "answer"), renderer, length)
        return await chat.chat(messages, max_tokens=max_tokens, temperature=0.0, seed=1)

    assert await ask(100) == ChatAnswer("answer", "stop", 7, prompt)
    assert await ask(prompt + 3) == ChatAnswer("ans", "length", 3, prompt)
    assert await ask(100, max_tokens=2) == ChatAnswer("an", "length", 2, prompt)
    assert await ask(prompt) == ChatAnswer("", "too_long", 0, prompt)


def test_a_reward_that_breaks_masks_its_answer():
    from conjoint.envs.types import Group, Score, Trajectory

    task = Task("t", "math", ({"role": "user", "content": "?"},), "1")
    broken = Trajectory(status=Status.COMPLETED, scores=[Score.infra_error("math", "no worker")])
    [row] = answer_rows(Group(task, [broken]), grade_truncated=False)
    assert (row["score"], row["status"], row["reasons"]) == (None, "infra_error", ["no worker"])


# -- confidence ----------------------------------------------------------------------------------


async def test_a_confidence_is_asked_for_measured_and_no_part_of_the_answer(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        assert prompt.startswith(ASK)
        i = number(prompt.removeprefix(ASK))
        said = "" if i == 9 else f"\nConfidence: {0.8 if i < 6 else 0.1}"
        return say(f"The answer is {i + 1 if i < 4 else 0}{said}")

    summary, printed, rows = await run(tmp_path, reply, "confidence=true")
    figures = summary["suites"]["gsm8k"]
    assert figures["avg"]["mean"] == 0.4, "the verifier alone"
    found = figures["calibration"]
    assert (found["n"], found["missing"]) == (9, 1)
    assert found["brier"] == pytest.approx((4 * 0.04 + 2 * 0.64 + 3 * 0.01) / 9)
    assert found["auroc"] == pytest.approx((4 * 3 + 4 * 2 / 2) / 20)
    assert [b["n"] for b in found["bins"]] == [3, 6]
    assert "confidence: Brier 0.1633 (a constant 0.44: 0.2469)" in printed
    assert "0.73 to 0.80: said 0.80, right 0.67, 6 answer(s)" in printed
    assert "1 of 10 state none" in printed
    assert (rows[0]["confidence"], rows[0]["correct"], rows[9]["confidence"]) == (0.8, 1.0, None)
    assert rows[0]["response"] == "The answer is 1"
    assert ASK not in rows[0]["messages"][0]["content"], "the task, as a grader needs it"


async def test_a_policy_that_states_none_is_said_to(tmp_path: Path):
    summary, printed, rows = await run(tmp_path, lambda p, s: say("9"), "confidence=true")
    assert summary["suites"]["gsm8k"]["calibration"] is None
    assert "confidence: no graded answer states one" in printed
    assert {r["confidence"] for r in rows} == {None}


async def test_without_the_key_nothing_is_asked_split_off_or_shown(tmp_path: Path):
    def reply(prompt: str, seed: int) -> ChatAnswer:
        assert ASK not in prompt
        return say(f"\\boxed{{{number(prompt) + 1}}}\nConfidence: 0.8")

    summary, printed, rows = await run(tmp_path, reply)
    assert "calibration" not in summary["suites"]["gsm8k"] and "Brier" not in printed
    assert "confidence" not in rows[0] and rows[0]["response"].endswith("Confidence: 0.8")


def test_the_context_has_room_for_the_question_too(tmp_path: Path):
    for words in ([], ["confidence=true"]):
        cfg = load_suites(["model=m", "suite=gsm8k", f"data={sums(tmp_path, 2)}", *words])
        asked = prompted(cfg, read_tasks(cfg))
        assert [tokens for _, tokens in asked] == [512, 512]
        assert all(task.prompt.startswith(ASK) is bool(words) for task, _ in asked)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("suite=gsm8k", "model is not given"),
        ("model=m suite=gsm9k", "gsm9k.*did you mean gsm8k"),
        ("model=m suite=gsm8k,gsm8k", "each suite once"),
        ("model=m k=0", "k=0"),
        ("model=m limit=0", "limit=0"),
        ("model=m max_tokens=0", "max_tokens=0"),
        ("model=m k=4 temperature=0", "k=4 answers at temperature=0"),
        ("model=m temperature=-1", "temperature=-1"),
        ("model=m k=many", "k='many'.*whole number"),
        ("model=m paths.mmlu=x", "mmlu"),
        ("model=m api_key_env=KEY", "api_key_env"),
        ("model=m endpoint=localhost", "not an address"),
        ("model=m rollout.group_size=3", "rollout.group_size has no effect here; use k"),
        ("model=m rollout.temperature.start=1", "use temperature"),
        ("model=m experiment=quickstart", "experiment"),
        ("model=m loss.tau=1", "unknown config key loss"),
        ("model=m sandbox.isolation=none", "sandbox.isolation"),
    ],
)
def test_a_mistake_is_one_sentence(overrides: str, words: str):
    with pytest.raises(ConjointError, match=words):
        load_suites(overrides.split())


def test_a_missing_file_names_the_key(tmp_path: Path):
    for overrides, words in (
        ([], "data=FOLDER .* paths.mbpp=FILE"),
        ([f"data={tmp_path}"], "mbpp_sanitized.json for suite mbpp"),
        (["paths.mbpp=nowhere.json"], "paths.mbpp=nowhere.json: there is no file"),
    ):
        with pytest.raises(ConjointError, match=words):
            read_tasks(load_suites(["model=m", "suite=mbpp", *overrides]))


def test_a_path_of_a_suite_wins_over_the_folder(tmp_path: Path):
    (tmp_path / "other.jsonl").write_text('{"question": "?", "answer": "#### 5"}')
    cfg = load_suites(
        [
            "model=m",
            "suite=gsm8k",
            f"data={sums(tmp_path, 3)}",
            f"paths.gsm8k={tmp_path}/other.jsonl",
        ]
    )
    assert [t.reference for t in read_tasks(cfg)["gsm8k"]] == ["5"]


def test_an_output_is_never_overwritten(tmp_path: Path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ConjointError, match="not overwritten"):
        EvalFolder.plan(str(tmp_path), "m")
    new = tmp_path / "new"
    first, second = EvalFolder.plan(str(new), "m"), EvalFolder.plan(str(new), "m")
    first.claim({})
    with pytest.raises(ConjointError, match="cannot be made"):
        second.claim({})
