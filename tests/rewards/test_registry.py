"""The one table: a reward entered there is known to everything that names rewards."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from conjoint.envs.types import Group, Message, Score, Status, Task, Trajectory
from conjoint.rewards import registry
from conjoint.rewards.base import RewardContext
from conjoint.rewards.calibration import correctness
from conjoint.rewards.combine import each
from conjoint.rewards.registry import REWARDS, OwnRewards, Parts, Reward, RewardConfig, reward_table
from conjoint.rewards.scoring import Scorer
from conjoint.rl.config.compose import load_config
from conjoint.rl.critic.tasks import CriticConfig, critic_tasks
from conjoint.rl.report.load import sort_kinds
from conjoint.scripts.main import app

MODULE = """
from conjoint.envs.types import Score, Task
from conjoint.rewards.base import Example
from conjoint.rewards.combine import each
from conjoint.rewards.registry import Reward

def syllables(task, response):
    return Score.of("haiku", float(response.count("-") == task.reference))

def validate_reference(reference):
    if not isinstance(reference, int):
        raise ValueError("expected a number of syllables")

def examples():
    return [Example(Task.make("poem", "A haiku?", 2), "a-b-c", {"own cheat": "a-b"})]

REWARD = Reward(
    name="haiku", kinds=("poem",), make=lambda parts: each("haiku", syllables),
    validate_reference=validate_reference, examples=examples, asks_judge="always",
)
"""


@pytest.fixture
def haiku(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reward:
    """A reward of a module of its own, entered as the shipped ones are."""
    module = ModuleType("haiku_reward")
    exec(MODULE, module.__dict__)
    monkeypatch.setitem(sys.modules, "haiku_reward", module)
    monkeypatch.setitem(REWARDS, "haiku", module.__dict__["REWARD"])
    return REWARDS["haiku"]


def test_it_pays_its_kinds_by_default_and_has_its_place_in_reports(haiku: Reward):
    assert RewardConfig().kinds["poem"] == ["haiku"]
    assert load_config(["tasks.poem.path=rows.jsonl"]).kinds["poem"].path == "rows.jsonl"
    assert sort_kinds({"zebra", "poem", "math"}) == ["math", "poem", "zebra"]


def test_grade_and_its_probes_know_it(haiku: Reward, tmp_path: Path):
    rows = [{"prompt": "?", "reference": 2, "response": text} for text in ("a-b-c", "a")]
    rows.append({"prompt": "?", "reference": "two", "response": "a"})
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["grade", "reward=haiku", f"input={file}", f"output={out}"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2  # it asks a judge, and none is named
    probed = CliRunner().invoke(app, ["grade", "--probe", "reward=haiku"])
    assert "haiku" in probed.output and "own cheat" in probed.output
    unknown = CliRunner().invoke(app, ["grade", "reward=tanka", "input=x", "output=y"])
    assert "haiku" in unknown.output or "haiku" in unknown.stderr


async def test_its_scores_are_a_judges_opinion_and_prove_nothing(haiku: Reward):
    none: Any = None
    config = RewardConfig(kinds={"poem": ["haiku"]})
    table = reward_table(Parts(config, none, none, []), OwnRewards({}))
    answers = [
        Trajectory(messages=[Message(role="assistant", content=text)], status=Status.COMPLETED)
        for text in ("a-b-c", "a")
    ]
    group = Group(Task.make("poem", "A haiku?", 2), answers)
    await Scorer(table, RewardContext()).score(group, 0)
    assert [score.value for t in answers for score in t.scores] == [1.0, 0.0]
    assert all(score.judged for t in answers for score in t.scores)
    assert [correctness(t) for t in answers] == [None, None]
    assert critic_tasks([group], CriticConfig(), 0, judge=none, due=2, step=0) == []


@pytest.mark.parametrize("name", list(REWARDS))
def test_an_entry_has_its_own_name_and_examples(name: str):
    entry = REWARDS[name]
    assert entry.name == name and entry.examples()
    assert registry.may_ask_judge(name) == (entry.asks_judge != "never")


async def test_a_judge_that_breaks_is_no_proof_either():
    def broken(task: Task, response: str) -> Score:
        raise RuntimeError("down")

    group = Group(Task.make("open", "?"), [Trajectory(status=Status.COMPLETED)])
    await Scorer({"open": {"rubric": each("rubric", broken)}}, RewardContext()).score(group, 0)
    [score] = group.trajectories[0].scores
    assert score.value is None and score.judged
