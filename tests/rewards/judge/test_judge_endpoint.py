"""A judge behind an OpenAI-compatible endpoint: judge.endpoint instead of the policy."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Group, Message, Status, StopRun, Task, Trajectory
from conjoint.rewards.assign import assign_rewards
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.faithfulness import faithfulness_reward
from conjoint.rewards.judge.judge import Judge, rubric_reward
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rewards.scoring import Scorer
from conjoint.rl.algo.advantages import assign_advantages
from conjoint.rl.config.compose import load_config
from conjoint.rl.config.tree import Config
from conjoint.rl.critic.context import check_judge, judge_endpoint, judging_context
from conjoint.rl.run.guard import Guard
from conjoint.rl.run.metrics import step_metrics
from conjoint.rollouts.chat import EngineChat
from conjoint.rollouts.endpoint import EndpointPolicy
from tests.fakes import CharRenderer, FakeEngine, quoted


class Judging(BaseHTTPRequestHandler):
    """Prefers the longer answer and supports what has "hat" in it; fails while `server.broken`."""

    server: Any

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "critic-7b"}]})

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sent.append(sent)
        if self.server.hangs:
            return self.server.released.wait(20) and None
        if self.server.broken:
            return self._send(400, {"error": {"message": "no"}})
        prompt = sent["messages"][-1]["content"]
        if "[SENTENCE" in prompt:
            hat = "hat" in quoted(prompt, "SENTENCE")
            reply = {"reason": "", "verdict": "supported" if hat else "unsupported"}
        else:
            longer = len(quoted(prompt, "A")) > len(quoted(prompt, "B"))
            reply = {"reasons": {}, "better": "A" if longer else "B"}
        message = {"role": "assistant", "content": json.dumps(reply)}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        self._send(200, {"id": "1", "object": "chat.completion", "choices": choices})

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Judging)
    made.sent, made.broken, made.hangs, made.daemon_threads = [], False, False, True
    made.released = threading.Event()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.released.set()
    made.shutdown()
    made.server_close()


def config(server: Any, *overrides: str) -> Config:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return load_config([f"judge.endpoint={url}", "judge.endpoint_model=critic-7b", *overrides])


def group(task: Task, *answers: str) -> Group:
    messages = ([Message(role="assistant", content=a)] for a in answers)
    return Group(task, [Trajectory(messages=m, status=Status.COMPLETED) for m in messages])


def refuse(*args: Any, **how: Any) -> Any:
    raise AssertionError("the policy was asked")


async def test_rubrics_and_verdicts_come_from_the_endpoint_and_not_from_the_policy(server: Any):
    cfg = config(server, "judge.max_tokens=77", "judge.temperature=0.25")
    policy = EndpointPolicy(cfg.judge.endpoint_config())
    context = RewardContext(refuse, CharRenderer(), 0, policy)  # type: ignore[arg-type]
    judge = Judge(cfg.judge)
    try:
        pairs = rubric_reward(judge, load_rubrics(["clarity"]))
        scores = await pairs(group(Task.make("open", "Why?"), "so", "because"), context)
        assert [s.value for s in scores] == [0.0, 1.0]
        task = Task.make("faithfulness", "What?", {"context": "Ann has a hat."})
        answers = group(task, "Ann has a hat. Ann has a cat.")
        scores = await faithfulness_reward(judge)(answers, context)
        assert [s.value for s in scores] == [0.5]
        assert {(s["model"], s["max_tokens"], s["temperature"]) for s in server.sent} == {
            ("critic-7b", 77, 0.25)
        }
        server.broken = True
        scores = await faithfulness_reward(judge)(answers, context)
        assert [s.value for s in scores] == [None]
    finally:
        await policy.close()


async def test_switching_from_the_policy_to_the_endpoint_changes_the_reward(server: Any):
    """The policy prefers the shorter answer, the endpoint the longer one."""

    def shorter(prompt: str, seed: int) -> str:
        brief = len(quoted(prompt, "A")) < len(quoted(prompt, "B"))
        return json.dumps({"reasons": {}, "better": "A" if brief else "B"})

    cfg = config(server)
    live = RewardContext(FakeEngine(shorter), CharRenderer())  # type: ignore[arg-type]
    endpoint = judge_endpoint(cfg.judge)
    reward = rubric_reward(Judge(cfg.judge), load_rubrics(["clarity"]))
    answers = group(Task.make("open", "Why?"), "so", "because")
    try:
        by = [
            [s.value for s in await reward(answers, judging_context(live, None, judge))]
            for judge in (None, endpoint)
        ]
    finally:
        assert endpoint is not None
        await endpoint.close()
    assert by == [[1.0, 0.0], [0.0, 1.0]]


async def test_an_endpoint_that_times_out_masks_is_counted_and_never_pays_0(server: Any):
    server.hangs = True
    cfg = config(server)
    slow = replace(cfg.judge.endpoint_config(), timeout_s=0.1, deadline_s=0.2, retries=1)
    policy, judge = EndpointPolicy(slow), Judge(cfg.judge)
    table = {"open": {"rubric": rubric_reward(judge, load_rubrics(["clarity"]))}}
    answers = group(Task.make("open", "Why?"), "so", "because", "as it is")
    try:
        await Scorer(table, RewardContext(judge=policy)).score(answers, 0)
    finally:
        await policy.close()
    assign_rewards([answers], cfg.budget, cfg.reward.weights)
    metrics = assign_advantages([answers], cfg.advantage, 0, cfg.reward.weights)
    for answer in answers.trajectories:
        assert answer.scores[0].value is None and answer.reward is None
        assert "within 0.2 s" in answer.scores[0].reasons[0]
        assert not answer.advantage
    assert metrics is not None and judge.drain_metrics()["judge/failed_share"] == 1.0
    with pytest.raises(StopRun, match="0% of the answers of this batch could be graded"):
        Guard(cfg.guard).check_batch(step_metrics([answers]))


async def test_the_policy_as_a_chat_can_be_the_judge_too():
    """What `conjoint eval` and the data tools have: an engine behind the chat seam."""
    engine = FakeEngine(lambda prompt, seed: '{"verdict": "supported"}')
    chat = EngineChat(engine, CharRenderer(), 5_000)  # type: ignore[arg-type]
    task = Task.make("faithfulness", "What?", {"context": "Ann has a hat."})
    reward = faithfulness_reward(Judge(load_config([]).judge))
    answers = group(task, "Ann has a hat.")
    assert [s.value for s in await reward(answers, RewardContext(judge=chat))] == [1.0]
    short = EngineChat(engine, CharRenderer(), 50)  # type: ignore[arg-type]
    assert [s.value for s in await reward(answers, RewardContext(judge=short))] == [None]


async def test_a_run_reaches_the_endpoint_before_anything_heavy_starts(server: Any):
    assert judge_endpoint(load_config([]).judge) is None
    found = judge_endpoint(config(server).judge)
    assert found is not None and found.cfg.model == "critic-7b"
    await check_judge(found)
    await found.close()
    other = judge_endpoint(config(server, "judge.endpoint_model=other").judge)
    assert other is not None
    with pytest.raises(ConjointError, match=r"judge\.endpoint=.* has no model 'other'"):
        await check_judge(other)
    await other.close()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["judge.endpoint_model=m"], r"judge\.endpoint_model has no effect without"),
        (["judge.api_key_env=K"], r"judge\.api_key_env has no effect without"),
        (["judge.endpoint=http://h/v1"], r"judge\.endpoint_model=NAME"),
        (["judge.endpoint=h", "judge.endpoint_model=m"], r"judge\.endpoint='h' is not an address"),
        (
            ["judge.endpoint=http://h/v1", "judge.endpoint_model=m", "judge.api_key_env=NO_SUCH"],
            r"judge\.api_key_env=NO_SUCH: there is no such environment variable",
        ),
    ],
)
def test_mistakes_are_named_before_anything_loads(overrides: list[str], words: str):
    with pytest.raises(ConjointError, match=words):
        load_config(overrides)


def test_the_safety_rubric_is_read_before_anything_loads(tmp_path: Any):
    from conjoint.rl.plan import prepare

    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Do it.", "reference": {"harmful": True}}) + "\n")
    keys = [f"tasks.{kind}.weight=0" for kind in ("math", "code", "instruction", "open")]
    keys += ["critic.refine=false", "eval.tasks=0", "eval.judge_pairs=0"]
    keys += ["tasks.safety.weight=1", f"tasks.safety.path={rows}"]
    assert prepare(load_config(keys)).tasks.mixture.next(1)[0].reference == {"harmful": True}
    with pytest.raises(ConjointError, match=r"reward\.safety_rubric: no rubric 'mine'"):
        prepare(load_config([*keys, "reward.safety_rubric=mine"]))
    rows.write_text(json.dumps({"prompt": "Do it.", "reference": {"harmful": "yes"}}) + "\n")
    with pytest.raises(ConjointError, match=r"rows\.jsonl line 1: field 'reference': expected"):
        prepare(load_config(keys))
