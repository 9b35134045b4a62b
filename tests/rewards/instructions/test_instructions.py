"""Instruction checks: each holds where a reader says so, and nothing empty ever pays."""

import pytest

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.instructions.reference import HOUSE
from conjoint.rewards.instructions.reward import validate_reference
from tests.rewards.instructions.scored import scored


def score(response: str, *checks: dict) -> Score:
    return scored(Task.make("instruction", "Write.", {"checks": list(checks)}), response)


COUNT = {"name": "word_count", "relation": "exactly", "count": 4}
LOWER = {"name": "case", "style": "lower"}


@pytest.mark.parametrize(
    ("check", "passes", "fails"),
    [
        (COUNT, "one two - three four!", "one two three"),
        ({**COUNT, "relation": "at_least"}, "a b c d e", "a b c"),
        ({**COUNT, "relation": "at_most"}, "a b", "a b c d e"),
        ({"name": "starts_with", "text": "Sun"}, "sun is up", "Sunday it is"),
        ({"name": "starts_with", "text": "The sun"}, '"The sun is up"', "A sun"),
        ({"name": "ends_with", "text": "done"}, "All is DONE.", "undone"),
        ({"name": "ends_with", "text": "the end."}, "It is the end.", "It is the end?"),
        ({"name": "includes", "keyword": "blue sea"}, "The Blue\n sea!", "blueish seas"),
        (LOWER, "all small, 3 of them", "Not small"),
        ({"name": "case", "style": "upper"}, "ALL BIG 3", "ALL BIg"),
        (LOWER, "ok", "123"),
    ],
)
def test_each_check(check: dict, passes: str, fails: str) -> None:
    assert score(passes, check).value == 1.0
    failed = score(fails, check)
    assert failed.value == 0.0 and failed.reasons[0].startswith(check["name"])


def test_every_check_must_hold_and_each_failure_is_named_in_words() -> None:
    result = score("One Two three", COUNT, LOWER, {"name": "includes", "keyword": "three"})
    assert result.value == 0.0
    assert result.reasons == (
        "word_count: 3 words, wanted exactly 4",
        "case: 'One' is not lower case",
    )


@pytest.mark.parametrize("response", ["", "   \n", "...", "\u200b\u200b", "<think>a b c</think>"])
def test_an_empty_answer_never_passes(response: str) -> None:
    checks = [{**COUNT, "relation": "at_most"}, LOWER]
    for check in checks:
        assert score(response, check).value == 0.0


def test_thinking_and_text_after_the_end_do_not_count() -> None:
    assert score("<think>one</think>two three four five<|im_end|>six", COUNT).value == 1.0


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (None, "checks"),
        ({"checks": []}, "checks"),
        ({"checks": ["word_count"]}, "check 1"),
        ({"checks": [{"name": "rhymes"}]}, "'rhymes'"),
        ({"checks": [{"name": []}]}, "check 1"),
        ({"checks": [LOWER, {**COUNT, "count": 0}]}, r"check 2 \(word_count\): count is 0"),
        ({"checks": [{**COUNT, "count": True}]}, "count is True"),
        ({"checks": [{**COUNT, "relation": "about"}]}, "at_least"),
        ({"checks": [{"name": "includes", "keyword": " "}]}, "keyword"),
        ({"checks": [{**LOWER, "text": "x"}]}, "unknown parameter 'text'"),
        ({"checks": [{"name": "case", "style": ["lower"]}]}, "lower or upper"),
    ],
)
def test_a_bad_reference_names_check_and_parameter(reference: object, says: str) -> None:
    with pytest.raises(ConjointError, match=says):
        validate_reference(reference)
    task = Task.make("instruction", "Write.", reference)
    assert scored(task, "some words").outcome is Outcome.INFRA_ERROR


def test_null_columns_of_a_parquet_row_are_absent_parameters() -> None:
    validate_reference({"checks": [{**COUNT, "text": None, "style": None}]})


def test_hostile_text_is_reported_and_not_raised() -> None:
    for check in ({"name": "ends_with", "text": "x"}, {"name": "starts_with", "text": "x"}):
        result = score("a\ud800\u202eb" * 1000, check)
        assert result.value == 0.0
        assert result.reasons[0].encode()
    assert len(HOUSE) == 5
