"""What is recorded: branches, limits, seeds, parts; and what a client may do to it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from conjoint.envs.types import Completion, Status
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.gateway.session import Session
from tests.agents import ROOMY, TOOLS, Scripted, call, served, tool_renderer

HELLO = {"role": "user", "content": "hello"}


async def ask(client: Any, *messages: Any, **how: Any) -> Any:
    """The first answer's message."""
    reply = await client.chat.completions.create(model="policy", messages=list(messages), **how)
    return reply.choices[0].message


def sampled_text(session: Session) -> list[str]:
    """The runs of sampled tokens of the trajectory, as text."""
    t = session.trajectory()
    runs: list[list[int]] = []
    for i, token in enumerate(t.tokens):
        if t.sampled[i]:
            if not t.sampled[i - 1]:
                runs.append([])
            runs[-1].append(token)
    return [tool_renderer().raw_text(run) for run in runs]


# -- going on ---------------------------------------------------------------------------------


async def test_what_a_client_may_change_in_an_answer_without_leaving_its_branch():
    engine = Scripted("  I look. " + call("weather", city="Paris"), "warm")
    async with served(engine) as (client, session):
        first = await ask(client, HELLO, tools=TOOLS)
        said = first.model_dump()
        said["content"] = " I look."
        said["tool_calls"][0]["function"]["arguments"] = '{"city"   :"Paris"}'
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "18"}
        await ask(client, HELLO, said, result, tools=TOOLS)
        assert session.trajectory().metrics["agent/branches"] == 1
        assert sampled_text(session) == [engine.script[0], "warm"]
        assert engine.asked[1][: len(engine.asked[0])] == engine.asked[0]
        assert engine.given[0].tokens == session.trajectory().tokens[
            len(engine.asked[0]) : len(engine.asked[0]) + len(engine.given[0].tokens)
        ]  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"content": "I looked."},
        {"tool_calls": [("functions.weather:0", "weather", '{"city": "Rome"}')]},
        {"tool_calls": [("functions.weather:0", "add", '{"city": "Paris"}')]},
        {"tool_calls": [("x", "weather", '{"city": "Paris"}')]},
    ],
)
async def test_a_rewritten_answer_is_context_in_a_branch_of_its_own(changed: dict[str, Any]):
    engine = Scripted("I look." + call("weather", city="Paris"), "warm")
    async with served(engine) as (client, session):
        said = (await ask(client, HELLO, tools=TOOLS)).model_dump()
        for key, value in changed.items():
            said[key] = value
            if key == "tool_calls":
                said[key] = [
                    {"id": i, "type": "function", "function": {"name": n, "arguments": a}}
                    for i, n, a in value
                ]
        result = {
            "role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "18"
        }  # fmt: skip
        await ask(client, HELLO, said, result, tools=TOOLS)
        t = session.trajectory()
        assert t.metrics["agent/branches"] == 2 and t.metrics["agent/turns"] == 1
        assert sampled_text(session) == ["warm"]
        assert t.tokens[: len(engine.asked[1])] == engine.asked[1]


@pytest.mark.parametrize("said", ["yes", "<think>\nhm\n</think>\n\nyes", " yes\n"])
async def test_thinking_stays_in_the_record_whatever_the_client_keeps_of_it(said: str):
    engine = Scripted("<think>\nhm\n</think>\n\nyes", "end")
    async with served(engine) as (client, session):
        assert (await ask(client, HELLO)).content == engine.script[0]
        await ask(client, HELLO, {"role": "assistant", "content": said}, HELLO)
        assert sampled_text(session) == engine.script


async def test_other_tools_and_another_system_prompt_begin_anew():
    engine = Scripted("one", "two", "three")
    async with served(engine) as (client, session):
        first = await ask(client, HELLO, tools=TOOLS)
        said = {"role": "assistant", "content": first.content}
        await ask(client, HELLO, said, HELLO, tools=TOOLS[:1])
        assert session.trajectory().metrics["agent/branches"] == 2
        await ask(client, {"role": "system", "content": "be brief"}, HELLO, said, HELLO)
        assert session.trajectory().metrics["agent/branches"] == 3
        assert sampled_text(session) == ["three"]


async def test_an_older_turn_can_be_gone_on_from_with_its_own_tokens():
    engine = Scripted("one", "two", "other two")
    async with served(engine) as (client, session):
        said = {"role": "assistant", "content": (await ask(client, HELLO)).content}
        await ask(client, HELLO, said, {"role": "user", "content": "more"})
        await ask(client, HELLO, said, {"role": "user", "content": "else"})
        t = session.trajectory()
        assert sampled_text(session) == ["one", "other two"]
        assert t.metrics["agent/branches"] == 2 and t.metrics["agent/turns"] == 2
        both = engine.given[0].logprobs + engine.given[2].logprobs
        assert [x for x, s in zip(t.behavior_logprobs, t.sampled, strict=True) if s] == both
        assert [m["content"] for m in t.messages] == ["hello", "one", "else", "other two"]


async def test_of_several_choices_the_one_that_is_gone_on_from_is_the_branch():
    async def play(engine: Scripted, chosen: int) -> tuple[Session, list[str]]:
        async with served(engine) as (client, session):
            reply = await client.chat.completions.create(
                model="policy", messages=[HELLO], n=2, logprobs=True
            )
            said = [choice.message.content for choice in reply.choices]
            await ask(client, HELLO, {"role": "assistant", "content": said[chosen]}, HELLO)
            return session, sampled_text(session)

    for chosen in (0, 1):
        # The script tells the two apart by their seeds.
        engine = Scripted(lambda seed: f"answer {seed}", lambda seed: f"answer {seed}", "end")
        session, runs = await play(engine, chosen)
        assert engine.text_of(0) == engine.text_of(1)
        seed = engine.how[chosen]["seed"]
        assert engine.how[0]["seed"] != engine.how[1]["seed"]
        assert runs == [f"answer {seed}", "end"]
        assert session.trajectory().metrics["agent/branches"] == 2


async def test_requests_of_one_session_are_answered_one_after_the_other():
    running = peak = 0

    class Slow(Scripted):
        async def __call__(self, tokens: Any, **how: Any) -> Completion:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.01)
            running -= 1
            return await super().__call__(tokens, **how)

    engine = Slow("x" * 30)
    limits = EpisodeLimits(budget=70, max_model_len=500, max_turns=5, temperature=1.0)
    async with served(engine, limits) as (client, _):
        await asyncio.gather(*(ask(client, HELLO) for _ in range(3)))
    assert peak == 1
    assert sum(len(c.tokens) for c in engine.given) == 70, "never more than the budget"


# -- seeds and parts --------------------------------------------------------------------------


async def test_the_same_question_asked_again_is_another_sample_and_replays():
    async def seeds(**how: Any) -> list[int]:
        engine = Scripted("a")
        async with served(engine) as (client, _):
            for _ in range(3):
                await ask(client, HELLO, **how)
        return [h["seed"] for h in engine.how]

    first = await seeds()
    assert len(set(first)) == 3 and first == await seeds()
    mixed = await seeds(seed=1)
    assert not set(mixed) & set(first), "a client's seed is mixed in"
    assert not set(mixed) & set(await seeds(seed=2))


class InParts(Scripted):
    """Is taken out of the engine after every third token; each part has new weights."""

    async def __call__(self, tokens: Any, *, max_tokens: int, **how: Any) -> Completion:
        got = await super().__call__(tokens, max_tokens=max_tokens, **how)
        done = len(tokens) - len(self.asked[0])
        part = got.tokens[done : done + 3]
        stop = "abort" if done + 3 < len(got.tokens) else got.stop_reason
        version = 1 + done // 3
        self.given[-1] = Completion(part, [-float(version)] * len(part), stop, version, "e")
        return self.given[-1]


async def test_an_answer_that_is_taken_out_goes_on_from_its_tokens_under_newer_weights():
    engine = InParts("seven c")
    async with served(engine) as (client, session):
        assert (await ask(client, HELLO)).content == "seven c"
        t = session.trajectory()
    start = len(engine.asked[0])
    assert [len(tokens) - start for tokens in engine.asked] == [0, 3, 6]
    assert t.versions[start:] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert t.behavior_logprobs[start:] == [-float(v) for v in t.versions[start:]]
    assert len({how["seed"] for how in engine.how}) == 3, "no random number is drawn twice"


# -- limits -----------------------------------------------------------------------------------


def limited(**changed: Any) -> EpisodeLimits:
    return replace(ROOMY, **changed)


async def test_the_budget_counts_over_the_turns_and_cuts_the_last():
    engine = Scripted("x" * 9)  # ten tokens with the end
    async with served(engine, limited(budget=25)) as (client, session):
        said = {"role": "assistant", "content": "x" * 9}
        turns = [HELLO]
        for _ in range(2):
            assert (await ask(client, *turns)).content == "x" * 9
            turns += [said, HELLO]
        reply = await client.chat.completions.create(model="policy", messages=turns)
        assert reply.choices[0].finish_reason == "length"
        assert reply.choices[0].message.content == "x" * 5
        t = session.trajectory()
        assert t.num_sampled == 25 and t.status is Status.TRUNCATED


@pytest.mark.parametrize("which", ["budget", "max_model_len", "max_turns"])
async def test_without_room_an_empty_answer_says_length_and_the_next_is_refused(which: str):
    from openai import BadRequestError

    engine = Scripted("x" * 9)
    first = len(tool_renderer().prompt([HELLO]))  # type: ignore[list-item]
    most = {"budget": 10, "max_model_len": first + 12, "max_turns": 1}[which]
    async with served(engine, limited(**{which: most})) as (client, session):
        turns = [HELLO, {"role": "assistant", "content": (await ask(client, HELLO)).content}, HELLO]
        reply = await client.chat.completions.create(model="policy", messages=turns)
        assert reply.choices[0].finish_reason == "length"
        assert reply.choices[0].message.content == "" and reply.usage.completion_tokens == 0
        with pytest.raises(BadRequestError) as refused:
            await ask(client, *turns)
        assert refused.value.code == "context_length_exceeded"
        t = session.trajectory()
        assert t.status is Status.TRUNCATED and t.num_sampled == 10
        assert t.tokens == engine.asked[0] + engine.given[0].tokens, "and nothing beyond the limit"
        assert len(engine.asked) == 1


async def test_a_first_prompt_without_room_samples_nothing():
    async with served(Scripted("x"), limited(max_model_len=3)) as (client, session):
        assert (await ask(client, HELLO)).content == ""
        t = session.trajectory()
        assert t.status is Status.TRUNCATED and t.tokens == [] and session.asked


async def test_an_agent_that_shortens_its_history_goes_on():
    engine = Scripted("x" * 9, "short")
    first = len(tool_renderer().prompt([HELLO]))  # type: ignore[list-item]
    async with served(engine, limited(max_model_len=first + 12)) as (client, session):
        said = {"role": "assistant", "content": (await ask(client, HELLO)).content}
        await ask(client, HELLO, said, HELLO)
        assert session.trajectory().status is Status.TRUNCATED
        assert (await ask(client, {"role": "user", "content": "hi"})).content == "short"
        assert session.trajectory().status is Status.COMPLETED


async def test_a_clients_own_limit_is_no_truncation_and_its_turn_is_closed_as_context():
    engine = Scripted("x" * 50, "end")
    end = tool_renderer().stop_ids[0]
    async with served(engine) as (client, session):
        cut = await ask(client, HELLO, max_tokens=5)
        assert cut.content == "x" * 5 and session.trajectory().status is Status.COMPLETED
        await ask(client, HELLO, {"role": "assistant", "content": "x" * 5}, HELLO)
        t = session.trajectory()
    place = len(engine.asked[0]) + 5
    assert (t.tokens[place], t.sampled[place]) == (end, False)
    assert t.metrics["agent/branches"] == 1 and t.sampled[place - 5 : place] == [True] * 5
    assert tool_renderer().raw_text(t.tokens).count("<|end|>\n") == 3


async def test_an_answer_that_the_engine_gave_up_is_truncated():
    class Repeats(Scripted):
        async def __call__(self, tokens: Any, **how: Any) -> Completion:
            return replace(await super().__call__(tokens, **how), stop_reason="repeat")

    async with served(Repeats("ha ha ha ha")) as (client, session):
        reply = await client.chat.completions.create(
            model="policy", messages=[HELLO], max_tokens=90
        )
        assert reply.choices[0].finish_reason == "length"
        assert session.trajectory().status is Status.TRUNCATED


async def test_a_stop_string_keeps_the_tokens_up_to_its_end():
    engine = Scripted("think Observation: made up", "end")
    async with served(engine) as (client, session):
        reply = await client.chat.completions.create(
            model="policy", messages=[HELLO], stop=["Observation:", "nope"], logprobs=True
        )
        assert reply.choices[0].message.content == "think"
        assert reply.choices[0].finish_reason == "stop"
        kept = "think Observation:"
        assert sampled_text(session) == [kept]
        t = session.trajectory()
        assert t.num_sampled == len(kept) == len(reply.choices[0].logprobs.content)
        assert t.behavior_logprobs[-len(kept) :] == engine.given[0].logprobs[: len(kept)]
        await ask(client, HELLO, {"role": "assistant", "content": "think"}, HELLO)
        assert session.trajectory().metrics["agent/branches"] == 1


# -- prompts that are no chat -----------------------------------------------------------------


async def test_a_text_prompt_that_grows_keeps_the_tokens_it_was_answered_with():
    engine = Scripted("one ", "two")
    async with served(engine) as (client, session):
        first = await client.completions.create(model="policy", prompt="Q: ", max_tokens=50)
        assert first.choices[0].text == "one "
        await client.completions.create(model="policy", prompt="Q: one Q: ", max_tokens=50)
        t = session.trajectory()
    assert sampled_text(session) == ["one ", "two"] and t.metrics["agent/branches"] == 1
    first_turn = engine.asked[0] + engine.given[0].tokens
    assert engine.asked[1] == first_turn + tool_renderer().encode("Q: ")
    assert [m["content"] for m in t.messages] == ["Q: ", "one ", "Q: ", "two"]


async def test_a_loop_over_stop_strings_is_one_branch():
    engine = Scripted("act Obs: no", "end")
    async with served(engine) as (client, session):
        first = await client.completions.create(
            model="policy", prompt="Q ", max_tokens=50, stop="Obs:"
        )
        prompt = "Q " + first.choices[0].text + "Obs: 5 "
        await client.completions.create(model="policy", prompt=prompt, max_tokens=50)
    assert sampled_text(session) == ["act Obs:", "end"]


async def test_token_prompts_go_on_from_a_chat_and_from_each_other():
    engine = Scripted("one", "two", "three")
    encode = tool_renderer().encode
    async with served(engine) as (client, session):
        body = {"return_token_ids": True}
        chat = await client.chat.completions.create(
            model="policy", messages=[HELLO], extra_body=body
        )
        tokens = [*chat.prompt_token_ids, *chat.choices[0].token_ids, *encode(" more ")]
        reply = await client.completions.create(
            model="policy", prompt=tokens, max_tokens=20, extra_body=body
        )
        assert reply.choices[0].prompt_token_ids == tokens
        tokens += [*reply.choices[0].token_ids, *encode(" and ")]
        await client.completions.create(model="policy", prompt=tokens, max_tokens=20)
        t = session.trajectory()
    assert sampled_text(session) == ["one", "two", "three"]
    assert t.tokens == engine.asked[2] + engine.given[2].tokens
    assert t.metrics["agent/branches"] == 1
