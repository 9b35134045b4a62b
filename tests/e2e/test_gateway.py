"""The official client and a real engine: what the engine was given and drew is the trajectory."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoint.envs.agent import CommandAgent
from conjoint.envs.types import Completion, Message, Status, Task, Trajectory
from conjoint.rl.run.folder import read_jsonl
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.gateway.play import Agents
from conjoint.rollouts.gateway.server import Gateway
from conjoint.rollouts.renderer import Renderer
from tests.agents import TOOLS, call, tokenizer, tool_renderer
from tests.e2e.conftest import PLAIN, SMALL, conjoint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TASK = Task.make("travel", "How warm are Paris and Rome together?")
ANSWERS = (
    call("weather", city="Paris") + call("weather", city="Rome"),
    call("add", a=18, b=25),
    "43 degrees",
)
LIMITS = EpisodeLimits(budget=200, max_model_len=480, max_turns=8, temperature=1.0)


def dialogue(renderer: Renderer) -> list[int]:
    """The tokens of an episode as the policy is to learn it."""
    results: tuple[list[Message], ...] = (
        [
            {"role": "tool", "content": '{"degrees": 18}', "tool_call_id": "functions.weather:0"},
            {"role": "tool", "content": '{"degrees": 25}', "tool_call_id": "functions.weather:1"},
        ],
        [{"role": "tool", "content": "43", "tool_call_id": "functions.add:2"}],
        [],
    )
    tokens = renderer.prompt(TASK.messages, TOOLS)
    for answer, messages in zip(ANSWERS, results, strict=True):
        tokens += [*renderer.encode(answer), renderer.stop_ids[0]]
        tokens += renderer.next_turn(messages, TOOLS) if messages else []
    return tokens


def trained_policy(folder: Path) -> Path:
    """A nano that knows one dialogue by heart, well enough to be sampled at temperature 1."""
    from conjoint.rl.nano.model import NanoConfig, build_model, save_policy

    torch.manual_seed(0)
    model = build_model(tokenizer(), NanoConfig(vocab_size=400), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    ids = torch.tensor([dialogue(tool_renderer())])
    labels = ids.clone()
    labels[0, : len(tool_renderer().prompt(TASK.messages, TOOLS))] = -100
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    for _ in range(150):
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.001:
            break
    torch.set_num_threads(threads)
    save_policy(model, tokenizer(), folder)
    return folder


class Recording:
    """Keeps what the engine is given and what it gives."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.calls: list[tuple[list[int], Completion]] = []

    async def __call__(self, tokens: Sequence[int], **how: Any) -> Completion:
        completion = await self.engine(tokens, **how)
        self.calls.append((list(tokens), completion))
        return completion


def replayed(t: Trajectory, calls: list[tuple[list[int], Completion]]) -> Trajectory:
    """The trajectory that the engine's own record gives, turn by turn."""
    made = Trajectory()
    for prompt, completion in sorted(calls, key=lambda call: len(call[0])):
        whole = [*prompt, *completion.tokens]
        if t.tokens[: len(whole)] != whole or prompt[: len(made.tokens)] != made.tokens:
            continue
        # Another episode may have drawn the same tokens, in another batch.
        if t.behavior_logprobs[len(prompt) : len(whole)] != completion.logprobs:
            continue
        made.extend_context(prompt[len(made.tokens) :])
        made.extend_sampled(completion)
    return made


async def test_an_agent_on_a_real_engine_is_recorded_as_the_engine_recorded_it(
    tmp_path: Path, ray_running: None
):
    from conjoint.rollouts.engine.driver import VllmEngine

    folder = trained_policy(tmp_path / "policy")
    cfg = RolloutConfig(backend="transformers", max_tokens=200, max_model_len=480, threads=1)
    engine = VllmEngine.launch(str(folder), cfg, 0, "shm")
    try:
        renderer = Renderer.load(folder)
        await engine.ready(renderer.stop_ids, 600)
        engine.use_loaded_weights()
        recording = Recording(engine)
        gateway = Gateway(recording, renderer)
        await gateway.start()
        agent = CommandAgent((sys.executable, "-m", "tests.agents"), deadline_s=240)
        agents = Agents(gateway, {"travel": agent})
        played = await asyncio.gather(
            *(agents.episode(TASK, LIMITS, seed, "group") for seed in range(4))
        )
        await gateway.close()
        for t in played:
            assert t.metrics["agent/branches"] == 1
            record = replayed(t, recording.calls)
            assert (t.tokens, t.sampled) == (record.tokens, record.sampled)
            assert t.behavior_logprobs == record.behavior_logprobs
            assert t.versions == record.versions and t.engine == record.engine
            # Under the weights that it names, from its first token to its last.
            again = await engine.prompt_logprobs(t.tokens)
            gaps = [
                abs(mine - other)
                for mine, other, sampled in zip(
                    t.behavior_logprobs[1:], again, t.sampled[1:], strict=True
                )
                if sampled
            ]
            assert len(gaps) == t.num_sampled and max(gaps) < 1e-4
        # Sampled at temperature 1, so that one may have slipped.
        right = [t for t in played if t.status is Status.COMPLETED and t.response == ANSWERS[-1]]
        assert len(right) >= 2 and {t.metrics["agent/turns"] for t in right} == {3}
    finally:
        await engine.close()


AGENT = """
from openai import AsyncOpenAI

async def twice(base_url, task):
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        messages = list(task.messages)
        for question in ("Say it again.", None):
            reply = await client.chat.completions.create(model="policy", messages=messages)
            messages.append(reply.choices[0].message)
            if question:
                messages.append({"role": "user", "content": question})
"""


@pytest.mark.parametrize("staleness", [pytest.param(0, marks=pytest.mark.proof), 1])
def test_a_run_trains_on_what_an_agent_played(runs: Path, tmp_path: Path, staleness: int):
    """By config, through the whole loop; the learner agrees with the engine on every token."""
    (tmp_path / "mine.py").write_text(AGENT)
    path = runs / f"agent-{staleness}"
    ended = conjoint(
        "quickstart",
        *SMALL,
        *PLAIN,
        f"run_dir={path}",
        "num_steps=2",
        "rollout.groups_per_step=4",
        "rollout.max_turns=3",
        "rollout.max_tokens=60",
        "budget.tokens.math=60",
        f"rollout.max_staleness={staleness}",
        "eval.tasks=0",
        "eval.judge_pairs=0",
        f"tasks.math.agent.run={tmp_path}/mine.py:twice",
        *(f"tasks.{kind}.weight=0" for kind in ("code", "instruction", "open")),
        "reward.rubrics=[]",
        "critic.refine=false",
    )
    assert ended.code == 0, ended.output
    for step in (1, 2):
        rows = read_jsonl(path / "rollouts" / f"step-{step:06d}.jsonl")
        assert len(rows) == 16 and {row["kind"] for row in rows} == {"math"}
        assert not [row for row in rows if row["status"] == "failed"]
        whole = [row for row in rows if row["status"] == "completed"]
        assert whole and all(row["metrics"]["agent/turns"] == 2 for row in whole)
        for row in whole:
            assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * 2
    steps = [row for row in read_jsonl(path / "metrics.jsonl") if "loss/policy" in row]
    assert [row["masked/math"] for row in steps] == [0, 0]
    assert all(row.get("gap/mean", 0.0) < 1e-4 for row in steps)
