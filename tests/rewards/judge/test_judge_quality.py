"""What is measured of a judge at an evaluation, by hand and with judges of one fault each."""

import pytest

from conjoint.envs.types import Task
from conjoint.rewards.judge.prompt import Verdict
from conjoint.rewards.judge.quality import AskedPair, quality

TASK = Task.make("math", "How many?")


def pair(first: str | None, second: str | None, a: str = "seven", b: str = "six") -> AskedPair:
    """Verdicts as they were answered: in the second order A is answer b."""
    verdicts = [None if word is None else Verdict(word) for word in (first, second)]
    return AskedPair(TASK, a, b, *verdicts)


def test_the_figures_by_hand() -> None:
    asked = [pair("A", "B"), pair("A", "A"), pair("B", "A"), pair("tie", "tie"), pair("A", None)]
    found = quality(asked)
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0 + 0.5 + 0.5) / 5)
    assert found["swap_consistency"] == 3 / 4
    assert found["tie_share"] == 2 / 4
    assert found["unparsable_share"] == 1 / 10
    assert found["first_position_share"] == pytest.approx(5 / 7)
    assert "self_preference" not in found
    assert [p.winner for p in asked] == ["A", "tie", "B", "tie", None]
    assert asked[1].said == ["A", "A"]


def judged(right: str, wrong: str, prefers_right: bool) -> AskedPair:
    return pair("A", "B", right, wrong) if prefers_right else pair("B", "A", right, wrong)


@pytest.mark.parametrize("long_right", [1, 8])
def test_length_bias_is_not_fooled_by_right_answers_that_are_long(long_right: int) -> None:
    """A good judge is at 0.5 however often the right answer is the longer one."""
    fair = [judged("long one", "short", True)] * long_right + [judged("short", "long one", True)]
    assert quality(fair)["length_bias"] == 0.5
    biased = [judged("long one", "short", True)] * long_right
    biased += [judged("short", "long one", False)]
    assert quality(biased)["length_bias"] == 1.0
    assert "length_bias" not in quality([judged("long one", "short", True)])
    ties = [pair("tie", "tie", "long one", "short"), pair("A", "A", "short", "long one")]
    assert "length_bias" not in quality(ties)


def test_self_preference_is_what_the_present_answer_wins_of_equal_ones() -> None:
    equal = [pair("A", "B"), pair("A", "B"), pair("A", "A"), pair("B", None)]
    found = quality([], equal)
    assert found == {"self_preference": pytest.approx(2.5 / 3), "self_preference_pairs": 3.0}
    assert quality([]) == {}
