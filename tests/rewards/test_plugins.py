"""Rewards named in config: both forms work, and every way of failing masks instead of paying 0."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import (
    Completion,
    ConjointError,
    Group,
    Message,
    Outcome,
    Score,
    Task,
    Trajectory,
)
from conjoint.rewards.base import RewardContext
from conjoint.rewards.plugins import PluginConfig, PluginReward, load_plugin

PLUGIN = """
import os
import time
from conjoint.envs.types import Score

class Hostile(float):
    def __float__(self):
        raise RuntimeError("no")

def ours(task, response):
    if response == "raise":
        raise ValueError("bad \\ud800 text")
    if response == "hang":
        time.sleep(60)
    if response == "die":
        os._exit(7)
    if response == "exit":
        raise SystemExit(3)
    odd = {"nan": float("nan"), "inf": float("inf"), "none": None, "text": "1.0", "list": [1],
           "high": 2.0, "hostile": Hostile(1.0), "true": True,
           "score": Score.of("own", 0.5, "half"), "bad_score": Score.of("own", 3.0)}
    if response in odd:
        return odd[response]
    return float(response == task.reference)

async def later(task, response):
    return 1

def trl(prompts, completions, answer, level, **columns):
    assert columns["ground_truth"] == answer and "conversational" not in columns
    return [float(c == a) * l for c, a, l in zip(completions, answer, level)]

def chat(completions, **columns):
    return [len(c[0]["content"]) for c in completions]

def strict(prompts, completions):
    return [1 for _ in completions]

def short(prompts, completions, **columns):
    return [1.0]

def abstaining(completions, **columns):
    return [None if c == "pass" else float(c == "4") for c in completions]

def given(completions, completion_ids, trainer_state, log_extra, log_metric):
    log_extra("length", [len(ids) for ids in completion_ids])
    log_metric("step", trainer_state.global_step)
    return [ids == [7, 8] and trainer_state.max_steps == 40 for ids in completion_ids]

def levels(completions, level, note=None, **columns):
    assert columns["answer"] == ["4"] * len(completions)
    return [0.5 if l is None else 1.0 for l in level]

def compute_score(data_source, solution_str, ground_truth, extra_info=None, method="strict"):
    assert (data_source, extra_info) in [("x/y", {"index": 3}), ("math", {"level": 1})]
    right = solution_str == ground_truth
    if solution_str == "dict":
        return {"score": 0.5, "acc": True, "pred": solution_str}
    return {"acc": 1} if solution_str == "bad" else None if solution_str == "none" else right

async def verl_batch(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [{"score": s == g} for s, g in zip(solution_strs, ground_truths)]

def verl_more(solution_str, ground_truth, tokenizer):
    return 1.0

def verifiers(completion, answer):
    return 1.0

def own_abstains(task, response):
    return Score.abstain("x", "not mine")

def single(prompts, completions, **columns):
    return 1.0

def three(a, b, c):
    return 1.0

NOT_A_FUNCTION = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "math.py"  # a name that would shadow the standard library's
    path.write_text(PLUGIN)
    return path


def grade(reward: PluginReward, responses: list[str], task: Task | None = None) -> list[Score]:
    task = task or Task.make("math", "2+2?", "4", {"level": 1})
    trajectories = [Trajectory(messages=[Message(role="assistant", content=r)]) for r in responses]
    try:
        return asyncio.run(reward(Group(task, trajectories), RewardContext()))
    finally:
        reward.close()


def load(file: Path, name: str, **settings: Any) -> PluginReward:
    return load_plugin(PluginConfig(f"{file}:{name}", **settings), "reward.plugins.mine")


def test_our_form_scores_each_answer_and_a_bad_one_masks_only_itself(file: Path) -> None:
    responses = ["4", "5", "true", "score", "raise", "exit", "nan", "inf", "none", "text", "list"]
    responses += ["high", "hostile", "bad_score"]
    scores = dict(zip(responses, grade(load(file, "ours"), responses), strict=True))
    assert [scores[r].value for r in ("4", "5", "true", "score")] == [1.0, 0.0, 1.0, 0.5]
    assert scores["score"].reasons == ("half",)
    for response in responses[4:]:
        score = scores[response]
        assert score.outcome is Outcome.INFRA_ERROR and score.value is None, response
        assert score.reasons and score.reasons[0].encode()
    assert "outside its range 0 to 1" in scores["high"].reasons[0]


def test_a_hang_and_a_crash_are_killed_and_masked(file: Path) -> None:
    scores = grade(load(file, "ours", deadline_s=0.5), ["hang", "4", "die", "4"])
    assert [s.value for s in scores] == [None, 1.0, None, 1.0]
    assert "longer than 0.5 s" in scores[0].reasons[0]
    assert "code 7" in scores[2].reasons[0]


def test_trl_form_gets_columns_and_answers_for_the_group(file: Path) -> None:
    assert [s.value for s in grade(load(file, "trl"), ["4", "5"])] == [1.0, 0.0]
    assert [s.value for s in grade(load(file, "strict"), ["4", "5"])] == [1.0, 1.0]


def test_trl_form_gets_messages_where_the_row_had_messages(file: Path) -> None:
    task = Task.make("math", "2+2?", "4", {"conversational": True})
    scores = grade(load(file, "chat", low=0, high=4), ["4444", "4"], task)
    assert [s.value for s in scores] == [1.0, 0.25]


@pytest.mark.parametrize(("name", "says"), [("short", "1 numbers for 2"), ("single", "a list")])
def test_trl_form_of_wrong_length_masks_the_group(file: Path, name: str, says: str) -> None:
    scores = grade(load(file, name), ["4", "5"])
    assert {s.outcome for s in scores} == {Outcome.INFRA_ERROR}
    assert says in scores[0].reasons[0]


def test_a_trl_reward_that_returns_none_abstains(file: Path) -> None:
    scores = grade(load(file, "abstaining"), ["4", "pass", "5"])
    assert [s.value for s in scores] == [1.0, None, 0.0]
    assert scores[1].outcome is Outcome.ABSTAIN and "returned None" in scores[1].reasons[0]
    assert grade(load(file, "own_abstains"), ["4"])[0] == Score.abstain("own_abstains", "not mine")


def test_trl_form_gets_tokens_and_the_trainers_state(file: Path) -> None:
    reward = load(file, "given")
    answer = Trajectory(messages=[Message(role="assistant", content="x")])
    answer.extend_context([1, 2])
    answer.extend_sampled(Completion([7, 8], [-1.0, -1.0], "stop", 0))
    group = Group(Task.make("math", "2+2?", "4"), [answer])
    try:
        scores = asyncio.run(reward(group, RewardContext(step=3, num_steps=40)))
    finally:
        reward.close()
    assert (scores[0].value, scores[0].reasons) == (1.0, ("returned 1", "step: 3", "length: 2"))


def test_a_column_is_none_where_only_other_rows_have_it_and_refused_where_none_has(
    file: Path,
) -> None:
    rows = [Task.make("math", "2+2?", "4", {"level": 1}), Task.make("math", "2+3?", "4")]
    reward = load(file, "levels")
    with pytest.raises(ConjointError, match=r"levels asks for 'level', which no row of rows\.csv"):
        reward.fit(rows[1:], "rows.csv")
    reward.fit(rows, "rows.csv")
    assert [s.value for s in grade(reward, ["x", "y"], rows[1])] == [0.5, 0.5]
    asking = load(file, "trl")
    with pytest.raises(ConjointError, match="asks for 'answer'"):  # open rows have no reference
        asking.fit([Task.make("open", "Why?", None, {"level": 1})], "rows")
    with pytest.raises(ConjointError, match="asks for 'completion_ids'"):
        load(file, "given").fit(rows, "rows", tokens=False)


def test_verls_function_is_taken_as_it_is(file: Path) -> None:
    row = Task.make("math", "2+2?", "4", {"data_source": "x/y", "ability": "m", "index": 3})
    scores = grade(load(file, "compute_score"), ["4", "5", "dict", "bad", "none"], row)
    assert [s.value for s in scores] == [1.0, 0.0, 0.5, None, None]
    assert scores[2].reasons == ("returned 0.5", "acc: True", "pred: dict")
    assert {s.outcome for s in scores[3:]} == {Outcome.INFRA_ERROR}
    assert "without 'score'" in scores[3].reasons[0]
    assert [s.value for s in grade(load(file, "compute_score"), ["4"])] == [1.0]  # a TRL row
    assert [s.value for s in grade(load(file, "verl_batch"), ["4", "5"], row)] == [1.0, 0.0]


def test_a_missing_column_masks_and_names_it(file: Path) -> None:
    scores = grade(load(file, "trl"), ["4"], Task.make("math", "2+2?", "4"))
    assert scores[0].value is None and "level" in scores[0].reasons[0]


def test_async_functions_and_modules(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [s.value for s in grade(load(file, "later"), ["x"])] == [1.0]
    file.rename(file.with_name("my_rewards.py"))
    monkeypatch.chdir(file.parent)
    reward = load_plugin(PluginConfig("my_rewards:ours"), "k")
    assert [s.value for s in grade(reward, ["4", "5"])] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_colon", "must be module:function"),
        ("a:b c", "must be module:function"),
        ("nowhere.py:f", "no file nowhere.py"),
        ("no_such_module_here:f", "No module named"),
        ("json:nothing", "no function nothing"),
    ],
)
def test_a_reward_that_cannot_be_imported_is_refused_at_start(function: str, says: str) -> None:
    with pytest.raises(ConjointError, match=says) as caught:
        load_plugin(PluginConfig(function), "reward.plugins.mine")
    assert str(caught.value).startswith("reward.plugins.mine: ")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("three", r"parameters are \(a, b, c\)"),
        ("NOT_A_FUNCTION", "no function"),
        ("verl_more", "asks for 'tokenizer'; verl gives data_source"),
        ("verifiers", "seems to be verifiers' form; expected"),
    ],
)
def test_a_function_of_another_form_is_refused(file: Path, name: str, says: str) -> None:
    with pytest.raises(ConjointError, match=says):
        load(file, name)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"deadline_s": 0}, "deadline_s=0"),
        ({"low": 1.0}, "range 1.0 to 1.0"),
    ],
)
def test_limits_are_checked(file: Path, settings: dict, says: str) -> None:
    with pytest.raises(ConjointError, match=rf"reward\.plugins\.mine: .*{says}"):
        load(file, "ours", **settings)


def test_a_syntax_error_in_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def f(:\n")
    with pytest.raises(ConjointError, match="SyntaxError"):
        load(path, "f")
