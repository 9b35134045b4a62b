"""Probes: the cheats are what they say, a gameable reward is caught, shipped rewards pay none."""

import asyncio
import json
from typing import Any

import pytest

from conjoint.envs.types import Score, Task
from conjoint.rewards.base import Example, RewardContext
from conjoint.rewards.combine import each
from conjoint.rewards.probes import cheats as probes
from conjoint.rewards.probes.cheats import (
    CATEGORIES,
    ProbeReport,
    probes_of,
    run_probes,
    stock_examples,
)

FUNCTION = {
    "language": "python",
    "tests": {
        "type": "function",
        "entry": "double",
        "cases": [{"args": [2], "expected": 4}, {"args": [5], "expected": 10}],
    },
}
STDIO = {
    "language": "python",
    "tests": {"type": "stdio", "cases": [{"input": "2", "output": "4\n"}]},
}


def example(reference: Any, right: str = "so") -> Example:
    return Example(Task.make("math", "What is it?", reference), right, {"mine": "own words"})


def of(category: str, reference: Any) -> list[str]:
    return [p.response for p in probes_of(example(reference)) if p.category == category]


def run(check: Any, examples: list[Example] | None = None, **settings: Any) -> ProbeReport:
    settings = {"deadline_s": 60.0, **settings}
    given = examples or stock_examples()
    return asyncio.run(run_probes("it", each("it", check), given, RewardContext(), **settings))


def test_each_category_has_its_cheats_where_it_can():
    scalar = {p.category for p in probes_of(example("7"))}
    assert scalar == set(CATEGORIES) - {probes.HARD_CODED}
    assert {p.category for p in probes_of(example(FUNCTION))} == set(CATEGORIES) - {probes.STUFFING}
    assert all(not any(c.isalnum() for c in r) for r in of(probes.EMPTY, "7")[:4])
    assert of(probes.ECHO, "7")[0] == "What is it?"
    assert of(probes.OWN, "7") == ["own words"]


@pytest.mark.parametrize("gold", ["7", "1,234", 7, "12.5", "Monday", "It is 3\n#### 7"])
def test_stuffing_holds_the_right_answer_neither_first_nor_last(gold: Any):
    plain = str(gold).rpartition("####")[2].strip()
    for text in of(probes.STUFFING, gold):
        assert plain in text and not text.startswith(plain)
        assert not text.rstrip("}. ").endswith(plain)


def test_stuffing_keeps_the_form_of_a_number():
    assert of(probes.STUFFING, "1,234")[0] == "1232, 1233, 1,234, 1235, 1236"
    assert of(probes.STUFFING, "1.50")[0] == "-0.50, 0.50, 1.50, 2.50, 3.50"
    assert of(probes.STUFFING, "0" * 400)[0].startswith("yes, A")


@pytest.mark.parametrize("reference", [None, True, ["a"], {"context": "x"}])
def test_there_is_nothing_to_stuff_without_one_answer(reference: Any):
    assert of(probes.STUFFING, reference) == []


def test_hard_coded_programs_know_the_first_case_only():
    ran: dict[str, Any] = {}
    source = of(probes.HARD_CODED, FUNCTION)[0].removeprefix("```python\n").removesuffix("```")
    exec(source, ran)
    assert (ran["double"](2), ran["double"](5)) == (4, None)
    assert "print('4\\n', end='')" in of(probes.HARD_CODED, STDIO)[0]


GAMEABLE = {
    "anything": (lambda task, text: 1.0, probes.EMPTY),
    "length": (lambda task, text: min(len(text) / 1000, 1.0), probes.REPETITION),
    "echo": (lambda task, text: float(task.prompt in text), probes.ECHO),
    "contains": (lambda task, text: float(task.reference in text), probes.STUFFING),
    "verdict": (lambda task, text: float("correct" in text and "1.0" in text), probes.FORGED),
    "unfinished": (lambda task, text: float("<think>" in text), probes.OVER_BUDGET),
}


@pytest.mark.parametrize("name", GAMEABLE)
def test_a_planted_gameable_reward_is_caught_by_its_category(name: str):
    check, category = GAMEABLE[name]
    report = run(lambda task, text: Score.of("it", check(task, text)))
    assert category in {p.probe.category for p in report.paid}


def test_an_honest_reward_pays_the_right_answers_alone():
    report = run(lambda task, text: Score.of("it", float(text == task.reference)),
                 [example("7", "7")])  # fmt: skip
    assert report.rights == (1.0,) and not report.paid and not report.unscored


def test_a_small_score_is_pay_and_none_is_not():
    def check(task: Task, text: str) -> Score:
        if not text:
            return Score.infra_error("it", "down")
        return Score.of("it", 0.01 if text == "own words" else 0.0)

    report = run(check, [example("7")])
    assert [p.probe.name for p in report.paid] == ["mine"]
    assert [p.probe.name for p in report.unscored] == ["nothing"]


async def test_what_takes_too_long_is_unscored():
    async def check(task: Task, text: str) -> Score:
        await asyncio.sleep(0 if text else 60)
        return Score.of("it", 0.0)

    reward = each("it", check)
    report = await run_probes("it", reward, [example("7")], RewardContext(), deadline_s=0.5)
    assert [p.probe.name for p in report.unscored] == ["nothing"]
    assert "within 0.5 s" in report.unscored[0].reasons[0]


def test_a_pairwise_reward_compares_with_the_right_answer():
    seen = set()

    async def prefer_short(group: Any, context: RewardContext) -> list[Score]:
        first, second = (t.response for t in group.trajectories)
        seen.add(second)
        return [Score.of("it", float(len(first) < len(second))), Score.of("it", 0.0)]

    given = [example("7", "the right answer")]
    report = asyncio.run(
        run_probes("it", prefer_short, given, RewardContext(), deadline_s=60, pairwise=True)
    )
    assert "nothing" in {p.probe.name for p in report.paid}
    assert seen == {"the right answer", "..."}


def test_probes_can_be_shown():
    for given in (*stock_examples(), example(FUNCTION), example(STDIO)):
        names = [(p.category, p.name) for p in probes_of(given)]
        assert len(set(names)) == len(names)
        json.dumps([p.response for p in probes_of(given)]).encode()
