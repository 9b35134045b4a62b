"""Episodes and the collector, on a fake engine."""

import asyncio
from dataclasses import replace

import pytest

from conjoint.envs.base import SingleTurn
from conjoint.envs.types import Completion, Message, Status, Task, Trajectory
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.episode import Episode, EpisodeLimits, to_the_end
from tests.fakes import CharRenderer, FakeEngine

LIMITS = EpisodeLimits(budget=8, max_model_len=64, max_turns=1, temperature=1.0)
TASK = Task.make("math", "1+1")


async def play(answer: str, limits: EpisodeLimits = LIMITS):
    engine = FakeEngine(lambda prompt, seed: answer)
    return await Episode(engine, CharRenderer(), limits, 0, "s").play(SingleTurn(TASK))  # type: ignore[arg-type]


async def test_a_finished_answer_is_completed_and_aligned():
    t = await play("2")
    assert t.status is Status.COMPLETED and t.response == "2"
    assert len(t.tokens) == len(t.sampled) == len(t.behavior_logprobs) == len(t.versions)
    assert t.num_sampled == 2  # the digit and the end token
    assert t.sampled[0] is False and t.versions[0] == -1


async def test_the_record_says_how_it_was_drawn():
    t = await play("2", EpisodeLimits(8, 64, 1, 0.9, top_p=0.8))
    assert (t.budget, t.temperature, t.top_p) == (8, 0.9, 0.8)


async def test_the_budget_truncates():
    t = await play("x" * 100)
    assert t.status is Status.TRUNCATED and t.num_sampled == LIMITS.budget


async def test_the_context_truncates():
    prompt = len(CharRenderer().prompt(list(TASK.messages)))
    t = await play("x" * 100, EpisodeLimits(80, prompt + 3, 1, 1.0))
    assert t.status is Status.TRUNCATED and len(t.tokens) == prompt + 3


async def test_a_prompt_without_room_is_truncated_before_it_is_sampled():
    t = await play("2", EpisodeLimits(8, 5, 1, 1.0))
    assert t.status is Status.TRUNCATED and t.num_sampled == 0


class Quiz:
    """Asks once more, then ends."""

    def __init__(self) -> None:
        self.closed = False
        self.asked = 0

    async def start(self) -> list[Message]:
        return [Message(role="user", content="first")]

    async def reply(self, message: Message) -> list[Message]:
        self.asked += 1
        return [Message(role="user", content="again")] if self.asked == 1 else []

    async def close(self) -> None:
        self.closed = True


async def test_turns_are_appended_and_the_environment_is_closed():
    env = Quiz()
    engine = FakeEngine(lambda prompt, seed: "ok")
    episode = Episode(engine, CharRenderer(), EpisodeLimits(50, 200, 3, 1.0), 0, "s")  # type: ignore[arg-type]
    t = await episode.play(env)
    assert t.status is Status.COMPLETED and env.closed
    first = CharRenderer().prompt([Message(role="user", content="first")])
    assert t.tokens[: len(first)] == first
    assert [m["content"] for m in t.messages] == ["first", "ok", "again", "ok"]
    assert sum(t.sampled) == 6 and not all(t.sampled)


class Broken(Quiz):
    async def reply(self, message: Message) -> list[Message]:
        raise OSError("no network")


async def test_a_broken_environment_fails_its_own_trajectories_only():
    engine = FakeEngine(lambda prompt, seed: "ok")
    other = Task.make("math", "2+2")
    collector = Collector(
        engine,
        CharRenderer(),  # type: ignore[arg-type]
        lambda task: Broken() if task is TASK else SingleTurn(task),
        seed=0,
    )
    groups = [g async for g in collector.stream([TASK, other], 3, lambda _: LIMITS, tag=0)]
    by_id = {g.task.id: g for g in groups}
    assert {t.status for t in by_id[TASK.id].trajectories} == {Status.FAILED}
    assert {t.status for t in by_id[other.id].trajectories} == {Status.COMPLETED}


async def test_seeds_depend_on_run_step_task_and_sample_only():
    async def seeds(run_seed: int, tag: int) -> list[int]:
        seen: list[int] = []
        engine = FakeEngine(lambda prompt, seed: seen.append(seed) or "ok")  # type: ignore[func-returns-value]
        collector = Collector(engine, CharRenderer(), SingleTurn, seed=run_seed)  # type: ignore[arg-type]
        async for _ in collector.stream([TASK, TASK], 2, lambda _: LIMITS, tag=tag):
            pass
        return seen

    first = await seeds(0, 0)
    assert len(set(first)) == 4, "equal tasks at other places draw other samples"
    assert first == await seeds(0, 0)
    assert not set(first) & set(await seeds(0, 1)) and not set(first) & set(await seeds(1, 0))


async def test_leaving_the_stream_early_cancels_what_runs():
    cancelled = asyncio.Event()

    class Slow(FakeEngine):
        async def __call__(self, *args, **kwargs):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    collector = Collector(Slow(lambda p, s: ""), CharRenderer(), SingleTurn, seed=0)  # type: ignore[arg-type]

    async def consume():
        async for _ in collector.stream([TASK], 2, lambda _: LIMITS, tag=0):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consume(), 0.05)
    assert cancelled.is_set()


class TakenOut(FakeEngine):
    """Its first two calls end after one token, as an abort ends them."""

    def __init__(self, answer) -> None:
        super().__init__(answer)
        self.asked: list[tuple[int, int]] = []
        self.how: set[tuple[float, float]] = set()

    async def __call__(self, tokens, *, max_tokens, temperature, top_p=1.0, seed, session=""):
        self.asked.append((len(tokens), seed))
        self.how.add((temperature, top_p))
        n = len(self.asked) - 1
        whole = await super().__call__(
            tokens[: len(tokens) - n],
            max_tokens=max_tokens + n,
            temperature=temperature,
            seed=0,
        )
        rest = whole.tokens[n:]
        stop = whole.stop_reason
        if n < 2:
            rest, stop = rest[:1], "abort"
        return Completion(rest, [-float(n)] * len(rest), stop, n, f"fake-{n}")


async def test_a_call_taken_out_goes_on_with_its_tokens_and_another_seed():
    engine = TakenOut(lambda prompt, seed: "four")
    t = await Episode(engine, CharRenderer(), LIMITS, 0, "s").play(SingleTurn(TASK))  # type: ignore[arg-type]
    assert t.status is Status.COMPLETED and t.response == "four"
    assert [v for v in t.versions if v >= 0] == [0, 1, 2, 2, 2]
    drawn = [p for p, s in zip(t.behavior_logprobs, t.sampled, strict=True) if s]
    assert drawn == [0.0, -1.0, -2.0, -2.0, -2.0]
    lengths, seeds = zip(*engine.asked, strict=True)
    assert [n - lengths[0] for n in lengths] == [0, 1, 2] and len(set(seeds)) == 3


async def test_an_answer_goes_on_as_it_began_whatever_the_schedules_say_now():
    begun = Trajectory(temperature=0.9, top_p=0.8, budget=3)
    begun.messages.extend(TASK.messages)
    begun.extend_context(CharRenderer().prompt(list(TASK.messages)))
    begun.extend_sampled(Completion(CharRenderer().encode("f"), [-1.0], "abort", 0))
    engine = TakenOut(lambda prompt, seed: "our")
    now = EpisodeLimits(budget=8, max_model_len=64, max_turns=1, temperature=0.5)
    episode = Episode(engine, CharRenderer(), now, 0, "s")  # type: ignore[arg-type]
    t = await episode.play(SingleTurn(TASK), begun)
    assert engine.how == {(0.9, 0.8)}
    assert t.status is Status.TRUNCATED and t.num_sampled == t.budget == 3


async def test_callers_without_parts_get_the_whole():
    engine = TakenOut(lambda prompt, seed: "four")
    prompt = CharRenderer().prompt([Message(role="user", content="?")])
    whole = await to_the_end(engine)(prompt, max_tokens=8, temperature=0.9, top_p=0.8, seed=0)
    assert engine.how == {(0.9, 0.8)}
    assert CharRenderer().text(whole.tokens) == "four" and whole.stop_reason == "stop"
    assert whole.versions == [0, 1, 2, 2, 2]


async def test_an_answer_that_repeats_itself_is_cut_off():
    class Repeating(FakeEngine):
        async def __call__(self, *args, **kwargs):
            return replace(await super().__call__(*args, **kwargs), stop_reason="repetition")

    engine = Repeating(lambda prompt, seed: "2")
    t = await Episode(engine, CharRenderer(), LIMITS, 0, "s").play(SingleTurn(TASK))  # type: ignore[arg-type]
    assert t.status is Status.TRUNCATED
