"""The wire: what clients of OpenAI's API send, what they get, and what is refused."""

import json
import logging
from typing import Any

import httpx
import pytest

from conjoint.envs.types import Completion, StopRun
from conjoint.rollouts.gateway.parameters import read_chat
from conjoint.rollouts.gateway.server import MAX_BODY, Gateway
from tests.agents import ROOMY, TOOLS, Scripted, call, served, tool_renderer

HELLO = {"role": "user", "content": "hello"}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "policy", "messages": [HELLO]} | more


async def test_models_and_a_whole_chat_answer():
    engine = Scripted("hi\n there ")
    async with served(engine) as (client, _):
        assert [m.id async for m in await client.models.list()] == ["policy"]
        reply = await client.chat.completions.create(
            **chat(model="gpt-4o", logprobs=True), extra_body={"return_token_ids": True}
        )
        assert (await client.models.retrieve("policy")).id == "policy"
    drawn = engine.given[0]
    assert reply.model == "policy" and reply.choices[0].message.content == "hi\n there"
    assert reply.prompt_token_ids == engine.asked[0]
    assert reply.choices[0].token_ids == drawn.tokens
    shown = reply.choices[0].logprobs.content
    assert [e.logprob for e in shown] == drawn.logprobs
    assert "".join(e.token for e in shown) == "hi\n there <|end|>"
    assert [bytes(e.bytes).decode() for e in shown] == [e.token for e in shown]
    usage = reply.usage
    assert usage.prompt_tokens == len(engine.asked[0]) and usage.completion_tokens == 11
    assert usage.total_tokens == usage.prompt_tokens + 11


async def test_a_stream_says_what_the_whole_answer_says():
    text = "I look at the weather of each of the two cities, one after the other, then I add. "
    async with served(Scripted(text + call("weather", city="Paris"))) as (client, session):
        stream = await client.chat.completions.create(
            **chat(tools=TOOLS, stream=True, stream_options={"include_usage": True}),
            logprobs=True,
            extra_body={"return_token_ids": True},
        )
        chunks = [chunk async for chunk in stream]
        t = session.trajectory()
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    contents = [d.delta.content for d in deltas if d.delta.content]
    assert "".join(contents) == t.messages[-1]["content"] and len(contents) > 1
    calls = [c for d in deltas for c in d.delta.tool_calls or []]
    assert [(c.index, c.id, c.function.name) for c in calls] == [
        (0, "functions.weather:0", "weather")
    ]
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["tool_calls"]
    assert chunks[0].prompt_token_ids + deltas[0].token_ids == t.tokens
    assert len(deltas[0].logprobs.content) == t.num_sampled
    assert chunks[-1].usage.completion_tokens == t.num_sampled and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_clients_own_helper_puts_a_stream_with_calls_together():
    engine = Scripted(call("weather", city="Paris"), "18")
    async with served(engine) as (client, session):
        async with client.chat.completions.stream(**chat(tools=TOOLS)) as stream:
            message = (await stream.get_final_completion()).choices[0].message
        said = message.model_dump(exclude={"parsed"})
        for tool_call in said["tool_calls"]:
            tool_call["function"].pop("parsed_arguments", None)
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "18"}
        await client.chat.completions.create(**chat(messages=[HELLO, said, result], tools=TOOLS))
        assert session.trajectory().metrics["agent/branches"] == 1


async def test_text_completions_whole_and_streamed():
    engine = Scripted("ab")
    async with served(engine) as (client, _):
        whole = await client.completions.create(model="policy", prompt="Q: ", logprobs=0)
        stream = await client.completions.create(
            model="policy", prompt="Q: ", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        long = Scripted("x" * 50)
        async with served(long) as (other, _):
            cut = await other.completions.create(model="policy", prompt=[5, 6])
    choice = whole.choices[0]
    assert (choice.text, choice.finish_reason) == ("ab", "stop")
    assert choice.logprobs.tokens == ["a", "b", "<|end|>"]
    assert choice.logprobs.token_logprobs == engine.given[0].logprobs
    assert choice.logprobs.text_offset == [0, 1, 2]
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "ab"
    assert chunks[-1].usage.completion_tokens == 3
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 16


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"functions": []}, "functions"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"store": True}, "store"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [HELLO | {"audio": {}}]}, "messages[0].audio"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
            "messages[0].content[0].type",
        ),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_had_is_refused_by_name(more: dict[str, Any], param: str):
    engine = Scripted("x")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    with gateway.open(ROOMY, 0) as (url, _):
        async with httpx.AsyncClient() as client:
            reply = await client.post(f"{url}/chat/completions", json=chat(**more))
    await gateway.close()
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert not engine.asked


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": 1}, "logprobs"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": ["x", "y"]}, "prompt[0]"),
        ({"prompt": [0, 10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({}, "prompt"),
    ],
)
async def test_text_prompts_that_cannot_be_are_refused(body: dict[str, Any], param: str):
    from openai import BadRequestError

    engine = Scripted("x")
    async with served(engine) as (client, _):
        with pytest.raises(BadRequestError) as refused:
            await client.post("/completions", body={"model": "policy"} | body, cast_to=object)
    assert refused.value.param == param and not engine.asked


async def test_nulls_and_names_without_effect_pass_and_what_the_run_fixes_is_named():
    engine = Scripted("x")
    strict = [t | {"function": t["function"] | {"strict": True}} for t in TOOLS]
    body = chat(temperature=0, top_p=0.5, tools=strict, user="me", stop=None, n=None)
    async with served(engine) as (client, _):
        reply = await client.chat.completions.with_raw_response.create(
            **body, extra_body={"top_k": None}
        )
        plain = await client.chat.completions.with_raw_response.create(**chat())
    assert reply.headers["x-conjoint-overridden"] == "temperature, top_p, tools.strict"
    assert "x-conjoint-overridden" not in plain.headers
    assert engine.how[0]["temperature"] == ROOMY.temperature


def test_parts_of_text_and_the_developers_role_become_plain_messages():
    ask = read_chat(
        chat(
            messages=[
                {"role": "developer", "content": "brief"},
                {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hello"}]},
                {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
            ]
        )
    )
    assert ask.dialogue == [
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "hello", "name": "ann"},
        {"role": "assistant", "content": ""},
    ]


async def test_a_template_without_tools_refuses_them():
    from openai import BadRequestError

    from conjoint.rl.nano.model import CHAT_TEMPLATE

    async with served(Scripted("x", renderer=tool_renderer(CHAT_TEMPLATE))) as (client, _):
        with pytest.raises(BadRequestError) as refused:
            await client.chat.completions.create(**chat(tools=TOOLS))
        assert refused.value.param == "tools" and "knows no tools" in str(refused.value)
        await client.chat.completions.create(**chat())


async def test_malformed_calls_and_tool_choice_none_are_plain_content():
    broken = '<tool_call>{"name": "add"}</tool_call>'
    async with served(Scripted(broken, call("add", a=1, b=2))) as (client, _):
        reply = await client.chat.completions.create(**chat(tools=TOOLS))
        assert reply.choices[0].message.content == broken
        assert reply.choices[0].finish_reason == "stop" and not reply.choices[0].message.tool_calls
        reply = await client.chat.completions.create(**chat(tools=TOOLS, tool_choice="none"))
        assert reply.choices[0].message.content == call("add", a=1, b=2)


# -- doors ------------------------------------------------------------------------------------


async def test_sessions_are_reached_by_their_secret_alone_and_end_with_it(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    gateway = Gateway(Scripted("x"), tool_renderer())
    await gateway.start()
    async with httpx.AsyncClient() as client:
        with gateway.open(ROOMY, 0) as (url, _), gateway.open(ROOMY, 0) as (other, _):
            assert url != other and url.startswith("http://127.0.0.1:")
            secret = url.split("/")[-2]
            assert len(secret) >= 43  # 32 bytes
            assert (await client.get(f"{url}/models")).status_code == 200
            root = url.split("/s/")[0]
            for path in ("/v1/models", "/", "/s/x/v1/models", "/s//v1/models"):
                wrong = await client.get(root + path)
                assert wrong.status_code == 404 and wrong.json()["error"]["message"]
            assert (await client.get(f"{url}/chat/completions")).status_code == 405
        ended = await client.post(f"{url}/chat/completions", json=chat())
        assert ended.status_code == 404 and ended.json()["error"]["code"] == "no_session"
    await gateway.close()
    mine = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert not any(secret in r.getMessage() for r in mine)


async def test_bodies_are_bounded_and_must_be_json():
    engine = Scripted("x")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    with gateway.open(ROOMY, 0) as (url, _):
        async with httpx.AsyncClient() as client:
            big = await client.post(f"{url}/chat/completions", content=b"x" * (MAX_BODY + 1))
            assert big.status_code == 413 and big.json()["error"]["code"] == "too_large"
            for content in (b"{", b"[]", b"\xff", b"[" * 100_000):
                bad = await client.post(f"{url}/chat/completions", content=content)
                assert bad.status_code == 400 and bad.json()["error"]["message"]
    await gateway.close()
    assert not engine.asked


async def test_a_broken_engine_is_one_error_without_retries_or_its_words():
    from openai import InternalServerError, NotFoundError

    class Broken(Scripted):
        async def __call__(self, tokens: Any, **how: Any) -> Completion:
            self.asked.append(list(tokens))
            raise StopRun("secret words of a worker")

    engine = Broken("x")
    async with served(engine) as (client, session):
        with pytest.raises(InternalServerError) as failed:
            await client.chat.completions.create(**chat())
        assert "secret words" not in str(failed.value)
        assert isinstance(session.failed.result(), StopRun)
        with pytest.raises(NotFoundError):
            await client.chat.completions.create(**chat())
    assert len(engine.asked) == 1
