"""The mutation study: no near miss is paid, hardly a rewriting refused; whole in proofs."""

import asyncio
from random import Random

import pytest

from conjoint.scripts.bench.rewards.mutations import FORMS, WAYS, cases, number_case
from conjoint.scripts.bench.rewards.study import REFERENCES, labelled, ours, table, theirs


def test_each_form_has_its_rewritings_and_near_misses() -> None:
    made = cases(3 * len(FORMS), seed=5)
    assert {case.form for case in made} == set(FORMS)
    assert all(len(case.same) == WAYS for case in made)
    assert sum(len(case.other) for case in made) > 9.9 * len(made)
    assert not any(set(case.same) & set(case.other) for case in made)


def test_no_near_miss_is_paid_and_no_rewriting_refused() -> None:
    found = [*cases(2 * len(FORMS), seed=11)]
    tally = asyncio.run(ours(found))
    assert (tally.accepted, tally.refused) == (0, 0), tally.wrong
    assert tally.same == WAYS * len(found)


def test_the_table_counts_what_a_grader_gets_wrong() -> None:
    found = cases(1, seed=0)
    shown = table({"one": (asyncio.run(ours(found)), theirs(found))})
    assert "| one | conjoint | 0 of 10 (0.00 %) | 0 of 10 (0.00 %) |" in shown
    assert len(list(labelled(found[0]))) == 2 * WAYS


@pytest.mark.proof
def test_the_whole_study() -> None:
    numbers = [number_case("number", str(n), Random(n)) for n in range(1300)]
    for seed in (0, 1):
        found = [*cases(REFERENCES, seed), *numbers]
        tally = asyncio.run(ours(found))
        assert tally.accepted == 0 and tally.other > 5_000, tally.wrong
        assert tally.refused <= 0.01 * tally.same, tally.wrong
