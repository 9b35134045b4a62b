"""Procedural sources: splits, purity, demonstrations and their verifiers, hostile answers."""

import asyncio
import re
from itertools import combinations, product

import pytest

from conjoint.envs.nano.functions import HIDDEN_INPUTS, SHOWN_INPUT
from conjoint.envs.nano.sources import (
    SOURCES,
    VERIFIABLE,
    demonstrations,
    open_pairs,
    verifiable_pairs,
)
from conjoint.envs.nano.words import TOPICS
from conjoint.envs.sources.splits import SPLITS, Item, split_of
from conjoint.envs.types import ConjointError, Task
from conjoint.rewards.math.reward import math_verifier
from conjoint.rewards.rubrics.find import load_rubrics, shipped_rubrics
from tests.rewards.instructions.scored import scored


def value(task: Task, answer: str) -> float | None:
    """The verifier's score; programs of the `code` kind are ours here and run without a jail."""
    if task.kind == "math":
        return asyncio.run(math_verifier()(task, answer)).value
    if task.kind == "instruction":
        return scored(task, answer).value
    names: dict = {}
    exec(answer, names)
    tests = task.reference["tests"]
    function = names[tests["entry"]]
    return float(all(function(*c["args"]) == c["expected"] for c in tests["cases"]))


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_is_pure_in_its_index(kind: str) -> None:
    there, back = SOURCES[kind]("train", 3), SOURCES[kind]("train", 3)
    forward = [there.task(i) for i in range(50)]
    backward = [back.task(i) for i in reversed(range(50))]
    assert forward == backward[::-1]
    assert forward != [SOURCES[kind]("train", 4).task(i) for i in range(50)]


@pytest.mark.parametrize("kind", SOURCES)
def test_splits_are_disjoint_by_content_and_by_id(kind: str) -> None:
    items: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for split, seed in product(SPLITS, (0, 1)):
        source = SOURCES[kind](split, seed)
        items[split] += [source.item(i) for i in range(150)]
    for one, other in combinations(items.values(), 2):
        assert not {i.content for i in one} & {i.content for i in other}
        assert not {i.task.id for i in one} & {i.task.id for i in other}


def test_buckets_cover_everything_once() -> None:
    assert sorted(b for buckets in SPLITS.values() for b in buckets) == list(range(20))
    assert split_of("math", "1+1") == split_of("math", "1+1")


@pytest.mark.parametrize("kind", VERIFIABLE)
def test_1024_held_out_tasks_are_distinct(kind: str) -> None:
    source = SOURCES[kind]("heldout")
    assert len({source.item(i).content for i in range(1024)}) == 1024


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConjointError, match="unknown split 'test'"):
        SOURCES["math"]("test")


@pytest.mark.parametrize("kind", VERIFIABLE)
def test_every_demonstration_passes_its_verifier(kind: str) -> None:
    source = SOURCES[kind]("sft", 5)
    rows = demonstrations[kind]("sft", 600, 5)
    for index, row in enumerate(rows):
        task = source.task(index)
        assert tuple(row[:-1]) == task.messages
        assert row[-1]["role"] == "assistant"
        assert value(task, row[-1]["content"]) == 1.0, row


@pytest.mark.parametrize("kind", VERIFIABLE)
def test_pairs_hold_a_right_and_a_wrong_answer(kind: str) -> None:
    for task, right, wrong in verifiable_pairs[kind]("heldout", 300, 0):
        assert value(task, right) == 1.0
        assert value(task, wrong) == 0.0, (task.prompt, wrong)


def test_the_better_answer_of_an_open_pair_breaks_no_rubric() -> None:
    rubrics = load_rubrics(shipped_rubrics())
    pairs = open_pairs("heldout", 200)
    assert not any(r.violation(better) for _, better, _ in pairs for r in rubrics)
    praised = [any(r.violation(worse) for r in rubrics) for _, _, worse in pairs]
    assert 0.15 < sum(praised) / len(praised) < 0.4


def test_the_worse_answers_of_open_pairs_have_every_fault_of_a_policy_that_drifts() -> None:
    worse = [answer for _, _, answer in open_pairs("heldout", 300)]
    sentences = [answer for answer in worse if answer.endswith(".")]
    assert any(re.fullmatch(r"[\d+,=-]+", answer) for answer in worse), "of another kind"
    assert any(set(answer.split()) <= set(TOPICS["sea"]) for answer in worse), "a list of nouns"
    assert any(re.fullmatch(r"A (\w+ \w+) and a \1\.", answer) for answer in sentences), "twice"
    assert any(len(answer.split()) < 3 for answer in worse), "broken off"
    assert any(answer.count(".") == 3 for answer in sentences), "too long"


def test_only_sft_demonstrations_of_open_tasks_hold_praise() -> None:
    rubrics = load_rubrics(shipped_rubrics())

    def praised(split: str) -> int:
        rows = demonstrations["open"](split, 100)
        return sum(any(r.violation(row[-1]["content"]) for r in rubrics) for row in rows)

    assert praised("sft") > 20
    assert praised("ptx") == 0


def test_constants_and_lookup_tables_score_0() -> None:
    source = SOURCES["code"]("heldout")
    for index in range(200):
        task = source.task(index)
        cases = task.reference["tests"]["cases"]
        assert SHOWN_INPUT not in {c["args"][0] for c in cases}
        assert SHOWN_INPUT not in HIDDEN_INPUTS
        for case in cases:
            assert value(task, f"def f(x):\n return {case['expected']}") == 0.0
        shown = task.prompt.partition(f"f({SHOWN_INPUT})=")[2] or "7"
        table = f"def f(x):\n return {{{SHOWN_INPUT}: {shown}}}.get(x, {shown})"
        assert value(task, table) == 0.0
        assert value(task, "def f(x):\n return x") in (0.0, float(_is_identity(cases)))


def _is_identity(cases: list[dict]) -> bool:
    return all(c["args"][0] == c["expected"] for c in cases)


def test_the_reference_is_not_in_the_prompt() -> None:
    for index in range(100):
        task = SOURCES["math"]("train").task(index)
        assert f"={task.reference}" not in task.prompt
