"""Agents by config: who plays a kind, and what of it the run is told."""

import json
from pathlib import Path

import pytest

from conjoint.envs.agent import CommandAgent, FunctionAgent
from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import load_config
from conjoint.rl.plan import prepare

AGENT = ["rollout.max_turns=4", "tasks.math.agent.run=tests.agents:play"]


def test_the_plan_holds_the_agent_of_each_kind_that_takes_part():
    assert prepare(load_config([])).agents == {}
    keys = [
        *AGENT,
        "tasks.math.agent.deadline_s=7",
        "tasks.math.agent.concurrency=3",
        "tasks.code.agent.run=sh -c true",
        "tasks.open.agent.run=sh",
        "tasks.open.weight=0",
    ]
    plan = prepare(load_config(keys))
    agents = plan.agents
    assert list(agents) == ["math", "code"]
    assert isinstance(agents["math"], FunctionAgent) and isinstance(agents["code"], CommandAgent)
    assert (agents["math"].deadline_s, agents["math"].concurrency) == (7.0, 3)
    assert agents["code"].words == ("sh", "-c", "true")
    assert "Tasks of kind math are played by tests.agents:play, 3 at a time." in plan.words
    assert "open are played" not in " ".join(plan.words)


def test_a_column_that_the_rows_do_not_have_is_refused_and_its_own_are_taken(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": "2+2?", "answer": "4", "level": "easy", "solution": "2+2=4"}
    rows.write_text("".join(json.dumps(row | {"prompt": f"{i}?"}) + "\n" for i in range(4)))
    keys = [*AGENT, f"tasks.math.path={rows}"]
    plan = prepare(load_config([*keys, "tasks.math.agent.columns=[level]"]))
    assert plan.agents["math"].columns == ("level",)
    words = r"^tasks\.math\.agent\.columns names 'topic', .* level, solution$"
    with pytest.raises(ConjointError, match=words):
        prepare(load_config([*keys, "tasks.math.agent.columns=[topic]"]))


def test_an_agent_that_is_not_there_is_refused_before_a_model_loads():
    with pytest.raises(ConjointError, match=r"^tasks\.math\.agent\.run='no-such-program' is"):
        prepare(load_config([AGENT[0], "tasks.math.agent.run=no-such-program"]))
