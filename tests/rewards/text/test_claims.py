"""Sentences of an answer: abbreviations, lists, wrapped lines, and what counts as the same."""

import pytest

from conjoint.rewards.text.claims import distinct, repeats_itself, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is odd. Two is even.", ["One is odd.", "Two is even."]),
        ("Dr. Amsel lives in the U.S. today.", ["Dr. Amsel lives in the U.S. today."]),
        (
            "It costs 3.5 dollars (e.g. in Hale). Is it dear? No!",
            ["It costs 3.5 dollars (e.g. in Hale).", "Is it dear?", "No!"],
        ),
        ("- red\n* blue\n1. green\n(b) black", ["red", "blue", "green", "black"]),
        ("# Facts\nAnn is tall.\n> Bob is not.", ["Facts", "Ann is tall.", "Bob is not."]),
        ("Name: Ann\nAge: 9", ["Name: Ann", "Age: 9"]),
        ("The bridge is\nvery old.", ["The bridge is very old."]),
        (
            "The bridge over the river that was built by the old monks of\nHale is old.",
            ["The bridge over the river that was built by the old monks of Hale is old."],
        ),
        ("Ann is tall\n\nand so is Bob", ["Ann is tall", "and so is Bob"]),
        ("...\n---\n\n!?", []),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]):
    assert sentences(text) == expected


def test_a_long_hostile_text_takes_no_time_to_speak_of():
    for text in ("a" * 100_000, "." * 100_000, "- " * 50_000, "\n" * 100_000, "a. " * 30_000):
        sentences(text)


def test_equal_sentences_count_once_where_they_stand_first():
    found = ["Ann is tall.", "Bob is.", "ann is TALL!", "Bob - is", "Carl."]
    assert distinct(found) == ["Ann is tall.", "Bob is.", "Carl."]


@pytest.mark.parametrize(
    ("found", "repeats"),
    [(["a"] * 5, True), (["a"] * 4, False), (["a"] * 5 + list("bcdefg"), False), ([], False)],
)
def test_repetition_needs_several_repeats_that_are_the_most_of_it(found: list[str], repeats: bool):
    assert repeats_itself(found) is repeats
