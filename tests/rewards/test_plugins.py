"""Rewards named in config: both forms work, and every way of failing masks instead of paying 0."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Group, Message, Outcome, Score, Task, Trajectory
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
    ("name", "says"), [("three", r"parameters are \(a, b, c\)"), ("NOT_A_FUNCTION", "no function")]
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
