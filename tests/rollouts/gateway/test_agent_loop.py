"""Agents as people write them, with the official client, through the gateway: every token that the
engine was given and drew is the trajectory, and nothing else is."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from conjoint.envs.agent import Agent, CommandAgent, FunctionAgent
from conjoint.envs.base import SingleTurn
from conjoint.envs.sources.dataset import DatasetSource
from conjoint.envs.types import Status, Task, Trajectory
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.gateway.play import Agents, play_agent
from conjoint.rollouts.gateway.server import Gateway
from tests.agents import Scripted, call, play, tool_renderer

LIMITS = EpisodeLimits(budget=400, max_model_len=2000, max_turns=8, temperature=0.7)
TASK = Task.make("travel", "How warm are Paris and Rome together?", reference="43")
SCRIPT = (
    "I look.\n" + call("weather", city="Paris") + call("weather", city="Rome"),
    call("add", a=18, b=25),
    " 43 degrees. ",
)
COMMAND = (sys.executable, "-m", "tests.agents")


async def episode(agent: Agent, engine: Scripted, task: Task = TASK) -> Trajectory:
    gateway = Gateway(engine, engine.renderer)
    await gateway.start()
    try:
        return await play_agent(agent, gateway, task, LIMITS, 5, "group-1")
    finally:
        await gateway.close()


def assert_is_record(trajectory: Trajectory, engine: Scripted) -> None:
    """The trajectory is what the engine saw and said: each prompt begins with all before it."""
    expected = Trajectory()
    for prompt, completion in zip(engine.asked, engine.given, strict=True):
        assert prompt[: len(expected.tokens)] == expected.tokens
        expected.extend_context(prompt[len(expected.tokens) :])
        expected.extend_sampled(completion)
    assert trajectory.tokens == expected.tokens
    assert trajectory.sampled == expected.sampled
    assert trajectory.behavior_logprobs == expected.behavior_logprobs
    assert trajectory.versions == expected.versions
    assert trajectory.engine == "fake-0"


@pytest.mark.parametrize("agent", [FunctionAgent(play), CommandAgent(COMMAND)])
async def test_an_unmodified_agent_with_tools_is_recorded_token_by_token(agent: Agent):
    engine = Scripted(*SCRIPT)
    t = await episode(agent, engine)
    assert_is_record(t, engine)
    assert t.status is Status.COMPLETED and t.response == "43 degrees."
    assert [m["role"] for m in t.messages] == [
        "user", "assistant", "tool", "tool", "assistant", "tool", "assistant"
    ]  # fmt: skip
    ids = [c["id"] for m in t.messages for c in m.get("tool_calls", ())]
    assert ids == ["functions.weather:0", "functions.weather:1", "functions.add:2"]
    assert t.messages[1]["content"] == "I look."
    assert t.messages[5]["content"] == "43" and t.messages[5].get("tool_call_id") == ids[2]
    assert {how["temperature"] for how in engine.how} == {0.7}, "the run's, whatever it asks for"
    assert {how["session"] for how in engine.how} == {"group-1"}
    assert t.temperature == 0.7
    assert t.metrics["agent/turns"] == 3 and t.metrics["agent/branches"] == 1


async def test_the_prompt_shows_tools_and_each_turn_is_closed_once():
    engine = Scripted(*SCRIPT)
    await episode(FunctionAgent(play), engine)
    first, second = engine.text_of(0), engine.text_of(1)
    assert '"name": "weather"' in first and first.endswith("together?<|end|>\n<|assistant|>")
    assert second == (
        f"{first}{SCRIPT[0]}<|end|>\n"
        '<|tool|>{"degrees": 18}<|end|>\n<|tool|>{"degrees": 25}<|end|>\n<|assistant|>'
    )


async def test_the_reference_stays_with_the_verifiers():
    seen: list[Task] = []

    async def agent(base_url: str, task: Task) -> None:
        seen.append(task)
        await play(base_url, task)

    await episode(FunctionAgent(agent), Scripted("hello"))
    assert seen[0].reference is None and seen[0].id == TASK.id

    script = "import sys; from tests.agents import main; assert '43' not in sys.stdin.read()"
    with pytest.raises(Exception, match="ended without asking"):
        await episode(CommandAgent((sys.executable, "-c", script)), Scripted("hello"))


ROWS = {
    "verl": {
        "prompt": [{"role": "user", "content": "3 apples and 4 pears?"}],
        "reward_model": {"ground_truth": "43"},
        "extra_info": {"answer": "40+3\n#### 43", "index": 0, "level": "easy"},
    },
    "trl": {"prompt": "3 and 4?", "reference": "43", "answer": "40+3=43", "level": "easy"},
    "gsm8k": {"question": "3 and 4?", "answer": "40+3\n#### 43", "full": "43", "level": "easy"},
}
R06 = Path(__file__).parents[4] / "shared" / "data" / "reports" / "R06-verl-extra-info.jsonl"
SAVES = """
import json, sys
from openai import OpenAI
given = sys.stdin.read()
open({file!r}, "w").write(given)
OpenAI().chat.completions.create(model="m", messages=json.loads(given)["messages"])
"""


@pytest.mark.parametrize("form", [*ROWS, "R06"])
async def test_only_columns_that_are_named_for_it_reach_an_agent(form: str, tmp_path: Path):
    path, answer, columns = tmp_path / "rows.jsonl", "43", ("level",)
    if form == "R06":
        if not R06.is_file():
            pytest.skip(f"there is no {R06}")
        path.write_bytes(R06.read_bytes())
        answer, columns = "7", ("split",)
    else:
        path.write_text(json.dumps(ROWS[form]))
    task = DatasetSource(path, "math").task(0)
    assert answer in str(task.reference) and answer in str(task.meta)
    seen: list[Task] = []

    async def agent(base_url: str, task: Task) -> None:
        seen.append(task)
        await play(base_url, task)

    engine, given = Scripted("hello"), tmp_path / "given"
    await episode(FunctionAgent(agent), engine, task)
    await episode(FunctionAgent(agent, columns=columns), engine, task)
    assert seen[0].meta == {} and seen[0].reference is None
    assert seen[1].meta == {columns[0]: task.meta[columns[0]]}
    script = SAVES.format(file=str(given))
    await episode(CommandAgent((sys.executable, "-c", script)), engine, task)
    prompts = [engine.text_of(i) for i in range(len(engine.asked))]
    for text in (str(seen), given.read_text(), *prompts):
        assert answer not in text.replace(task.id, "")


async def test_the_collector_lets_agents_play_their_kind_and_no_other():
    engine = Scripted("hello")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    agents = Agents(gateway, {"travel": FunctionAgent(play, concurrency=1)})
    collector = Collector(engine, tool_renderer(), SingleTurn, 0, agents)
    other = Task.make("math", "1+1")
    found = {
        g.task.kind: g.trajectories
        async for g in collector.stream([TASK, other], 2, lambda _: LIMITS, tag=0)
    }
    await gateway.close()
    assert ["agent/turns" in t.metrics for t in found["travel"]] == [True, True]
    assert ["agent/turns" in t.metrics for t in found["math"]] == [False, False]
    assert len({how["seed"] for how in engine.how}) == 4, "every answer is a sample of its own"


async def test_no_more_agents_run_at_once_than_their_kind_allows():
    running = peak = 0

    async def agent(base_url: str, task: Task) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await play(base_url, task)
        await asyncio.sleep(0)
        running -= 1

    engine = Scripted("hello")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    agents = Agents(gateway, {"travel": FunctionAgent(agent, concurrency=2)})
    await asyncio.gather(*(agents.episode(TASK, LIMITS, i, "s") for i in range(6)))
    await gateway.close()
    assert peak == 2


async def test_the_agent_of_the_docs_plays(tmp_path: Path):
    page = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
    file = tmp_path / "my_agent.py"
    file.write_text(page.split("```python\n")[1].split("```")[0])
    engine = Scripted("I think 43.", "43")
    t = await episode(CommandAgent((sys.executable, str(file))), engine)
    assert_is_record(t, engine)
    assert [m["content"] for m in t.messages] == [
        TASK.prompt, "I think 43.", "Check it, then say the result alone.", "43"
    ]  # fmt: skip
