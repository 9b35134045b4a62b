"""Any text, of any depth, from a row, a policy or a server to a file, page, terminal, tracker,
tokenizer and wire. A few examples of each path here, 10,000 as proofs."""

import asyncio
import io
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from conjoint.envs.agent import _plain as agent_stdin
from conjoint.envs.mixture import plain_task, restored_task
from conjoint.envs.sources.dataset import DatasetSource
from conjoint.envs.text import MAX_LEVELS, digest, escaped, from_json, sound, to_json
from conjoint.envs.types import ConjointError, Group, Message, Score, Task, Trajectory, derive_seed
from conjoint.rewards.judge.prompt import TEMPLATES, judge_messages
from conjoint.rl.report.build import build_report
from conjoint.rl.run.checkpoint import read_checkpoint, save_checkpoint
from conjoint.rl.run.console import RunConsole
from conjoint.rl.run.folder import RunFolder, read_jsonl, write_jsonl
from conjoint.rl.run.metrics import JsonlTracker, Trackers, WandbTracker
from conjoint.rollouts.endpoint import EndpointConfig, EndpointPolicy
from conjoint.rollouts.gateway.server import Gateway
from conjoint.rollouts.renderer import Renderer
from conjoint.scripts.new_file import new_file
from conjoint.scripts.rubric.shared.page import Card, Page, Table
from tests.agents import ROOMY, TOOL_TEMPLATE, TOOLS, Scripted, call, tokenizer

SPLITS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Where `str.splitlines` ends a line."""
HOSTILE = (
    *("\ud800", "\udbff", "\udc80", "\udfff", "\ud83d\ude00", "\ude00\ud83d", "\U0010ffff"),
    *("\0", "\x1b[2J", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\ufeff", *SPLITS),
    *("<|end|>", "<|assistant|>", "<|", "|>", "</script>", "{{ 1 }}", '"', "\\", "\\ud800", "%s"),
)  # fmt: skip
ALL = "x".join(HOSTILE)
TEXT = st.lists(st.characters(exclude_categories=()) | st.sampled_from(HOSTILE), max_size=12).map(
    "".join
)


def nested(depth: int) -> Any:
    value: Any = "\ud800"
    for i in range(depth):
        value = [value] if i % 2 else {"\udfff": value}
    return value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DEEP = st.sampled_from((0, MAX_LEVELS - 5, MAX_LEVELS, 199, 200, 900, 5000)).map(nested)


@pytest.fixture(
    params=[
        pytest.param(12, id="few"),
        pytest.param(10_000, id="many", marks=[pytest.mark.proof, pytest.mark.timeout(7200)]),
    ]
)
def every(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`every(strategy, check, worst)` runs the check on `worst` and on many examples."""

    def run(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], worst: Any) -> None:
        check(worst)
        few = request.param < 1000
        wanted = settings(
            max_examples=request.param,
            deadline=None,
            database=None,
            derandomize=few,
            suppress_health_check=list(HealthCheck),
        )
        wanted(given(strategy)(lambda example: check(example)))()

    return run


def is_plain(text: str) -> bool:
    """Whether every viewer can take it, line by line."""
    text.encode()
    return not any(c in text for c in f"{SPLITS}\0\x1b\r\x7f\x9b\u202e\u2066\u200f\ufeff")


# -- files ---------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(every: Any, tmp_path: Path):
    def check(value: Any) -> None:
        rows = [{"v": value, "k": {str(value)[:20]: 1}}] * 2
        expected = json.loads(json.dumps(rows))
        assert read_jsonl(write_jsonl(tmp_path / "rows.jsonl", rows)) == expected
        with new_file(str(tmp_path / "new.jsonl"), overwrite=True) as out:
            out.write(rows[0])
        for name in ("rows.jsonl", "new.jsonl"):
            text = (tmp_path / name).read_text("utf-8")
            assert is_plain(text) and [json.loads(line) for line in text.splitlines()]
        assert json.loads(to_json(value)) == json.loads(json.dumps(value))

    every(VALUES, check, {ALL: [ALL]})


def test_any_depth_is_written_and_read(every: Any):
    def check(value: Any) -> None:
        text = to_json({"meta": value})
        assert is_plain(text) and json.loads(text)

    every(DEEP, check, nested(20_000))
    assert json.loads(to_json(nested(MAX_LEVELS))) == nested(MAX_LEVELS)
    for depth in (MAX_LEVELS + 2, 900, 100_000):
        with pytest.raises(ValueError, match="nested"):
            from_json("[" * depth + "]" * depth)


def test_a_run_folder_and_its_report(every: Any, tmp_path: Path):
    numbers = iter(range(100_000))

    def check(example: tuple[str, Any]) -> None:
        text, value = example
        run = RunFolder.create(tmp_path / str(next(numbers)), "x")
        run.write_config({"name": text, "more": [value]}, [text])
        run.write_versions(more=value)
        messages: list[Any] = [{"role": "user", "content": text}]
        call = {"name": text, "arguments": text}
        calls = [{"id": text, "type": "function", "function": call}]
        said = {"role": "assistant", "content": text, "name": text, "tool_calls": calls}
        messages.append(said)
        task = Task.make("math", text, reference=value, meta={"unused": value})
        t = Trajectory(messages=messages, scores=[Score.of("math", 0.0, text)], reward=0.0)
        run.write_rollouts(1, [Group(task, [t])])
        JsonlTracker(run.metrics).log(1, {f"reward/{text}": 0.5})
        run.write_eval("start", [{"task_id": text, "kind": "math", "score": 1, "reasons": [text]}])
        (row,) = read_jsonl(run.rollouts_of(1))
        assert row["messages"] == json.loads(json.dumps(messages))
        assert yaml.safe_load(run.config.read_text("utf-8"))["name"] == text
        page = build_report(run.path).read_text("utf-8")
        assert is_plain(page.replace(run.path.name, ""))

    every(st.tuples(TEXT, VALUES | DEEP), check, (ALL, {ALL: [ALL]}))


async def no_save(folder: Path) -> None:
    """A learner without weights."""


def test_a_checkpoint(every: Any, tmp_path: Path):
    numbers = iter(range(1, 100_000))

    def check(example: tuple[str, Any]) -> None:
        text, value = example
        task = Task(text, "math", (Message(role="user", content=text),), value, {text: value})
        state = {"queue": [[0, plain_task(task)]]}
        root, step = tmp_path / str(next(numbers)), 1
        learner: Any = SimpleNamespace(save=no_save)
        asyncio.run(save_checkpoint(root, step, learner, state))
        _, _, read = read_checkpoint(root)
        assert read == json.loads(json.dumps(state))
        assert restored_task(read["queue"][0][1]) == restored_task(plain_task(task))

    every(st.tuples(TEXT, VALUES), check, (ALL, {ALL: [ALL]}))


def test_rows_with_any_further_column(every: Any, tmp_path: Path):
    path = tmp_path / "rows.jsonl"

    def check(example: tuple[str, Any]) -> None:
        text, value = example
        for prompt in ("2+2?", text):
            row = {"prompt": prompt, "answer": "4", "meta": value, text or "x": text}
            path.write_text(json.dumps(row) + "\n")
            try:
                task = DatasetSource(path, "math").task(0)
            except ConjointError as error:
                assert prompt == text or "already" not in str(error)
                continue
            assert task.meta["meta"] == json.loads(json.dumps(value))

    names = TEXT.filter(lambda name: name not in ("prompt", "answer", "meta"))
    every(st.tuples(names, VALUES), check, (ALL, {ALL: [ALL]}))
    path.write_text(json.dumps({"prompt": "x", "answer": "4", "meta": nested(900)}))
    with pytest.raises(ConjointError, match="line 1: nested more than 100 levels deep"):
        DatasetSource(path, "math")


# -- terminal and tracker --------------------------------------------------------------------------


def test_the_terminal_and_the_page_of_a_rubric(every: Any, tmp_path: Path):
    def check(text: str) -> None:
        for terminal in (False, True):
            raw = io.BytesIO()
            file = io.TextIOWrapper(raw, "utf-8")
            console = Console(
                file=file, force_terminal=terminal, color_system=None, width=80, highlight=False
            )
            shown = RunConsole(2, console)
            shown.header(text, [text])
            shown.step(1, {f"reward/{text}": 0.5, "time/train": 1.0}, [text])
            shown.message(text)
            page = Page("t", [text], [text], [Table("t", ["c"], [[text]])], "c", [])
            page.show(console)
            file.flush()
            drawn = raw.getvalue().decode()
            assert terminal or is_plain(drawn)
        page.cards = [Card(text, text, [(text, text)])]
        page.write(tmp_path / "page.html")
        assert is_plain((tmp_path / "page.html").read_text("utf-8"))

    every(TEXT, check, ALL)


def test_the_tracker(every: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logged: list[str] = []

    class Run:
        summary: Any = SimpleNamespace(update=lambda names: logged.extend(names))

        def log(self, metrics: dict[str, float], step: int) -> None:
            logged.extend(metrics)

    fake: Any = SimpleNamespace(
        init=lambda **_: Run(), Settings=dict, teardown=None, util=SimpleNamespace()
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = RunFolder.create(tmp_path / "run", "x")
    trackers = Trackers([JsonlTracker(run.metrics), WandbTracker(run, "p")])

    def check(text: str) -> None:
        logged.clear()
        trackers.log(1, {f"reward/{text}": 1.0})
        trackers.summarise({text: 1.0})
        assert len(logged) == 2 and all(map(is_plain, logged)), "protobuf takes UTF-8 alone"

    every(TEXT, check, ALL)
    assert read_jsonl(run.metrics)


# -- tokenizer -------------------------------------------------------------------------------------


@cache
def renderer() -> Renderer:
    return Renderer(tokenizer(TOOL_TEMPLATE))


def own(tokens: list[int]) -> list[int]:
    special = set(tokenizer(TOOL_TEMPLATE).all_special_ids)
    return [t for t in tokens if t in special]


def test_the_tokenizer_and_the_judges_prompt(every: Any):
    def dialogue(text: str, arguments: str) -> list[Any]:
        call = {"name": text, "arguments": arguments}
        return [
            {"role": "user", "content": text, "name": text},
            {"role": "assistant", "content": text,
             "tool_calls": [{"id": text, "type": "function", "function": call}]},
            {"role": "tool", "content": text, "tool_call_id": text},
        ]  # fmt: skip

    def check(example: tuple[str, Any]) -> None:
        text, value = example
        tools = [{"type": "function", "function": {"name": text, "parameters": value}}]
        assert own(renderer().encode(text)) == []
        assert renderer().raw_text(renderer().encode(text)) == sound(text)
        ours = renderer().prompt(dialogue(text, to_json(value)), tools)
        assert own(ours) == own(renderer().prompt(dialogue("a", "{}"), TOOLS[:1]))
        turn: list[Any] = [{"role": "user", "content": text}]
        other: list[Any] = [{"role": "user", "content": "a"}]
        assert own(renderer().next_turn(turn)) == own(renderer().next_turn(other))
        task = Task.make("open", text)
        for template in TEMPLATES:
            asked = judge_messages(task, text, f"{text}.", (), template)
            plain = judge_messages(Task.make("open", "x"), "a", "b", (), template)
            assert own(renderer().prompt(asked)) == own(renderer().prompt(plain))

    every(st.tuples(TEXT, VALUES | st.just(nested(MAX_LEVELS))), check, (ALL, {ALL: [ALL]}))


def test_hashes_of_any_text(every: Any):
    def check(text: str) -> None:
        assert Task.make(text, text).id and derive_seed(text) >= 0 and len(digest(text)) == 64

    every(TEXT, check, ALL)
    text = "é\u2028\x7f"
    content = json.dumps(["math", [{"content": text, "role": "user"}]], ensure_ascii=False)
    assert Task.make("math", text).id == f"math-{digest(content)[:16]}", "as in earlier runs"


# -- wires -----------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_the_gateway(every: Any, loop: asyncio.AbstractEventLoop):
    """Whatever a client sends it gets JSON back, whatever the policy calls; the policy is asked."""
    engine = Scripted(call("add", a="\ud800", **{"\udfff": "\u202e"}))
    gateway = Gateway(engine, engine.renderer)

    async def post(text: str, value: Any) -> None:
        called = {"name": "f", "arguments": to_json(value)}
        messages = [
            {"role": "user", "content": text, "name": text},
            {"role": "assistant", "content": text, "tool_calls": [
                {"id": text, "type": "function", "function": called}]},
            {"role": "tool", "content": text, "tool_call_id": text or "x"},
        ]  # fmt: skip
        tool = {"type": "function", "function": {"name": "f", "description": text}}
        body = {"messages": messages, "tools": [tool], "user": text}
        with gateway.open(ROOMY, 7, "s") as (url, session):
            async with httpx.AsyncClient(trust_env=False) as client:
                for ask in (body, body | {"stream": True}):
                    reply = await client.post(f"{url}/chat/completions", content=json.dumps(ask))
                    assert reply.status_code == 200, reply.text
                    assert is_plain(reply.text.replace("\r", ""))
                    if "stream" not in ask:
                        (called,) = reply.json()["choices"][0]["message"]["tool_calls"]
                        arguments = called["function"]["arguments"]
                        assert json.loads(arguments) == {"a": "\ufffd", "\ufffd": "\u202e"}
                bad = f'{{"x": {"[" * 900}{"]" * 900}}}'
                reply = await client.post(f"{url}/chat/completions", content=bad)
                assert reply.status_code == 400 and "levels" in reply.text
                assert not session.failed.done()
        to_json(session.trajectory().messages)

    loop.run_until_complete(gateway.start())

    def check(example: tuple[str, Any]) -> None:
        loop.run_until_complete(post(*example))

    every(st.tuples(TEXT, VALUES | DEEP), check, (ALL, {ALL: [ALL]}))
    loop.run_until_complete(gateway.close())


def test_the_endpoint(every: Any, loop: asyncio.AbstractEventLoop):
    from openai import AsyncOpenAI

    policy = EndpointPolicy(EndpointConfig("http://127.0.0.1:1/v1", "m", retries=0))

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)["messages"][0]["content"]
        message = {"role": "assistant", "content": f"{asked}\ud800"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        return httpx.Response(200, content=json.dumps(body | {"choices": [choice]}),
                              headers={"content-type": "application/json"})  # fmt: skip

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    policy._client = AsyncOpenAI(
        base_url=policy.cfg.url, api_key="none", max_retries=0, http_client=http
    )

    def check(text: str) -> None:
        said = loop.run_until_complete(
            policy.chat([{"role": "user", "content": text}], max_tokens=1, temperature=0, seed=0)
        )
        assert said.text == f"{sound(text)}\ufffd"

    every(TEXT, check, ALL)
    loop.run_until_complete(policy.close())


def test_an_agents_standard_input(every: Any):
    def check(example: tuple[str, Any]) -> None:
        text, value = example
        task = Task(text, "math", (Message(role="user", content=text),), None, {text: value})
        line = agent_stdin(task).decode()
        assert is_plain(line) and "\\ud" not in escaped(line).replace("\\\\ud", "")
        assert json.loads(line)["messages"][0]["content"] == sound(text)

    every(st.tuples(TEXT, VALUES | DEEP), check, (ALL, {ALL: [ALL]}))
