"""The contract of a reward of one's own, checked before a run: what it does with hard inputs.

`inputs_of` makes the hard inputs of one task, `check` names every fault: a function that raises,
hangs, returns what is no score, changes its mind, or pays an answer that says nothing. Each call
runs in the worker that a run would use, with its deadline.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conjoint.envs.types import Group, Message, Score, Status, Task, Trajectory
from conjoint.rewards.base import Example
from conjoint.rewards.plugin_worker import FORMS, Fault
from conjoint.rewards.plugins import PluginReward

HUGE = 200_000
"""Characters of the huge answer: more than any budget of tokens lets a policy write."""
MAX_LATE = 2
"""Inputs that may take too long before the rest is left untried."""
_SLOW_SHARE = 0.25
"""Share of the deadline that a call may take: on a busy machine it takes longer."""


@dataclass(frozen=True, slots=True)
class Input:
    """One hard input. An answer that `says_nothing` must not be paid."""

    name: str
    task: Task
    response: str
    says_nothing: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """`faults` are sentences that begin with the names of input and fault; `tried` the inputs'."""

    tried: tuple[str, ...]
    faults: tuple[str, ...]
    untried: int = 0


def inputs_of(example: Example) -> Iterator[Input]:
    """The hard inputs of one task."""
    task, right = example.task, example.right or "The answer is 42."
    yield Input("right answer", task, right)
    yield Input("empty", task, "", says_nothing=True)
    yield Input("blank", task, " \n\t\n", says_nothing=True)
    yield Input("prompt echo", task, task.prompt, says_nothing=True)
    yield Input("huge", task, ("I go on about it. " * HUGE)[:HUGE])
    yield Input("non-UTF-8 (lone surrogates)", task, f"{right}\udcff\ud800")
    yield Input("non-UTF-8 (replaced and null bytes)", task, f"\ufffd\x00{right}\ufffd\x1b[0m")
    # What patterns with nested repeats, and evaluated formulas, never come back from.
    yield Input("slow (one letter many times)", task, "a" * 40_000 + "!")
    yield Input("slow (open brackets)", task, "(" * 20_000 + "1")
    yield Input("slow (a tower of powers)", task, "9**9**9**9")
    for kind, reference in (
        ("null", None),
        ("a number", 42),
        ("text", "forty-two"),
        ("a list", ["4", "2"]),
        ("an object", {"answer": "42"}),
    ):
        yield Input(f"wrong type (reference is {kind})", replace(task, reference=reference), right)


async def check(reward: PluginReward, examples: Sequence[Example]) -> Report:
    """Run every input of every example, and again: what is random, remembers or only took long
    because its worker was starting shows then."""
    tried: dict[str, None] = {}
    faults: dict[str, None] = {}
    late = scored = 0
    todo = [each for example in examples for each in inputs_of(example)]
    for number, given in enumerate(todo):
        first, fault = await _score(reward, given)
        found = list(_faults(given, first, fault))
        late += fault is Fault.SLOW
        if first.value is not None:
            scored += 1
            started = time.monotonic()
            again, _ = await _score(reward, given)
            took = time.monotonic() - started
            if again.value != first.value:
                found.append(_unsteady(first, again))
            if took > _SLOW_SHARE * reward.deadline_s:
                found.append(
                    f"{Fault.SLOW}: took {took:.1f} s, and its deadline is {reward.deadline_s:g} s"
                )
                late += 1
        tried[given.name] = None
        faults |= dict.fromkeys(f"{given.name}: {fault}" for fault in found)
        if late >= MAX_LATE:
            return Report(tuple(tried), tuple(faults), untried=len(todo) - number - 1)
    if not scored and not faults:
        faults[f"all inputs: {Fault.FAILS}: it abstains from every one"] = None
    return Report(tuple(tried), tuple(faults))


async def _score(reward: PluginReward, given: Input) -> tuple[Score, Fault | None]:
    """The input's score and the fault; a form for groups gets a second answer beside it."""
    responses = [given.response] + (["."] if FORMS[reward.form].grouped else [])
    answers = [
        Trajectory(
            messages=[*given.task.messages, Message(role="assistant", content=text)],
            status=Status.COMPLETED,
        )
        for text in responses
    ]
    return (await reward.with_faults(Group(given.task, answers)))[0]


def _faults(given: Input, score: Score, fault: Fault | None) -> Iterator[str]:
    if fault is not None:
        yield f"{fault}: {'; '.join(score.reasons)}"
    elif given.says_nothing and score.value:
        yield f"{Fault.GAMEABLE}: pays {score.value:g} for an answer that says nothing"


def _unsteady(first: Score, again: Score) -> str:
    if again.value is None:
        return f"{Fault.NOT_REPEATABLE}: fails at the second call: {'; '.join(again.reasons)}"
    return f"{Fault.NOT_REPEATABLE}: gave {first.value:g}, then {again.value:g} for the same answer"
