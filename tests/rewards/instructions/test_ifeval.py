"""IFEval's 25 types: both sides of each boundary, the public checker's verdicts, bad references."""

import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.instructions.reference import IFEVAL, RULES
from conjoint.rewards.instructions.reward import (
    InstructionsConfig,
    loose_variants,
    validate_reference,
)
from conjoint.rewards.instructions.rule import COUNT, Rule
from tests.rewards.instructions.scored import scored

GOLDEN = Path(__file__).parent / "labelled" / "ifeval_golden.jsonl"
OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "ifeval_input_data.jsonl"
STRICT = InstructionsConfig()
LOOSE = InstructionsConfig(mode="loose")
PARTIAL = InstructionsConfig(partial=True)


def reference(*asked: tuple[str, dict[str, Any] | None]) -> dict[str, Any]:
    return {"instruction_id_list": [n for n, _ in asked], "kwargs": [k for _, k in asked]}


def score(
    response: str,
    *asked: tuple[str, dict[str, Any] | None],
    config: InstructionsConfig = STRICT,
) -> Score:
    return scored(Task.make("instruction", "Go.", reference(*asked)), response, config)


WORDS, SENTENCES = "length_constraints:number_words", "length_constraints:number_sentences"
PARAGRAPHS, NTH = (
    "length_constraints:number_paragraphs",
    "length_constraints:nth_paragraph_first_word",
)
BULLETS, JSON = "detectable_format:number_bullet_lists", "detectable_format:json_format"
HIGHLIGHTS = "detectable_format:number_highlighted_sections"
SECTIONS, TITLE = "detectable_format:multiple_sections", "detectable_format:title"
OPTION = "detectable_format:constrained_response"
HOLES, POST = "detectable_content:number_placeholders", "detectable_content:postscript"
EXISTENCE, FREQUENCY = "keywords:existence", "keywords:frequency"
FORBIDDEN, LETTERS = "keywords:forbidden_words", "keywords:letter_frequency"
LANGUAGE, LOUD = "language:response_language", "change_case:capital_word_frequency"
UPPER, LOWER = "change_case:english_capital", "change_case:english_lowercase"
TWO, REPEAT = "combination:two_responses", "combination:repeat_prompt"
END, QUOTES, NO_COMMA = "startend:end_checker", "startend:quotation", "punctuation:no_comma"

FEW, MANY = {"relation": "less than"}, {"relation": "at least"}
THIRD = {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "rain"}
ENGLISH = "the harbour is quiet and the boats are waiting for the wind"

BOUNDARIES: list[tuple[str, dict[str, Any] | None, str, str]] = [
    (WORDS, {"num_words": 4, **MANY}, "one two three-four", "one two three"),
    (WORDS, {"num_words": 4, **FEW}, "one two three", "one two three-four"),
    (SENTENCES, {"num_sentences": 3, **MANY}, "Dr. A came. He sat. Why?", "Dr. A came. He sat."),
    (SENTENCES, {"num_sentences": 2, **FEW}, "At 3.5 p.m. on Jan. 3 it rained.", "No. It rained."),
    (PARAGRAPHS, {"num_paragraphs": 2}, "a\n\n***\n\nb\n***", "a\n\nb"),
    (PARAGRAPHS, {"num_paragraphs": 2}, "***\na *** b", "a\n***\n***\nb"),
    (NTH, THIRD, 'a\n\n"Rain," b\n\nc', "a\n\nRains b\n\nc"),
    (NTH, THIRD, "a\n\nrain.drop\n\nc", "a\n\nrain b\n\nc\n\nd"),
    (BULLETS, {"num_bullets": 2}, "So:\n* a\n - b", "* a\n** b"),
    (BULLETS, {"num_bullets": 2}, "* a\n\n\n* b", "* a\n* b\n---"),
    (HIGHLIGHTS, {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (HIGHLIGHTS, {"num_highlights": 1}, "**a** alone", "*a\nb* ** * *"),
    (
        SECTIONS,
        {"num_sections": 2, "section_spliter": "Part"},
        "Part 1 a\nPart2 b",
        "part 1 Part 2",
    ),
    (TITLE, None, "<<Rain>> falls", "<<Rain\n>> falls"),
    (TITLE, {}, "a << b >>", "<< >> a"),
    (JSON, {}, '```json\n{"a": [1, null]}\n```', 'Here: {"a": 1}'),
    (JSON, {}, '"a"', "{'a': 1}"),
    (OPTION, {}, "My answer is maybe.", "My answer is Maybe."),
    (HOLES, {"num_placeholders": 2}, "[a] b [c d]", "[a] b [c\nd] ]["),
    (POST, {"postscript_marker": "P.S."}, "a\np. s. b", "a\nPS b"),
    (POST, {"postscript_marker": "P.P.S"}, "a\nP.P.S b", "a\nP.S. b"),
    (EXISTENCE, {"keywords": ["sea", "c++"]}, "Seaside C++", "sea and c"),
    (FREQUENCY, {"keyword": "sea", "frequency": 2, **MANY}, "sea, overSEAS", "sea"),
    (FREQUENCY, {"keyword": "sea", "frequency": 2, **FEW}, "sea s e a", "seasea"),
    (FORBIDDEN, {"forbidden_words": ["rock", "c++"]}, "rocky c", "a ROCK."),
    (FORBIDDEN, {"forbidden_words": ["rock", "c++"]}, "rocks cc++", "in c++ code"),
    (LETTERS, {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "eE", "e"),
    (LETTERS, {"letter": "!", "let_frequency": 2, "let_relation": "less than"}, "a!", "a!!"),
    (LANGUAGE, {"language": "de"}, "Das Boot wartet im Hafen auf den Wind.", f"{ENGLISH}."),
    (UPPER, {}, f"{ENGLISH.upper()} 3!", f"{ENGLISH.upper()} a"),
    (UPPER, {}, ENGLISH.upper(), "DER HAFEN IST STILL UND DIE BOOTE WARTEN AUF DEN WIND"),
    (LOWER, {}, f"{ENGLISH} 3!", f"{ENGLISH} A"),
    (LOUD, {"capital_frequency": 2, "capital_relation": "at least"}, "WELL-KNOWN I", "WELL KNown"),
    (LOUD, {"capital_frequency": 2, "capital_relation": "less than"}, "NO 3 yes", "NO I"),
    (TWO, {}, "a\n******\nb\n******", "a\n******\na"),
    (TWO, {}, "a******b", "a\n******\n******\nb"),
    (REPEAT, {"prompt_to_repeat": "Say hi. "}, " say HI.\nHi.", "Sure. Say hi.\nHi."),
    (END, {"end_phrase": "The end."}, 'It is "the END."', "The end. Bye."),
    (QUOTES, {}, ' "a "b" c"\n', '"a" b'),
    (QUOTES, {}, '"a"', "\u201ca\u201d"),
    (NO_COMMA, {}, "a; b\u3002c", "a, b"),
    (NO_COMMA, {}, "a; b\u00b7c", "a\uff0cb"),
]


@pytest.mark.parametrize(("name", "asked", "holds", "fails"), BOUNDARIES)
def test_each_type_on_both_sides_of_its_boundary(
    name: str, asked: dict[str, Any] | None, holds: str, fails: str
):
    assert score(holds, (name, asked)).reasons == ("all 1 checks hold",)
    failed = score(fails, (name, asked))
    assert failed.value == 0.0 and failed.reasons[0].startswith(f"{name}: ")


def test_every_type_has_a_boundary():
    assert {name for name, *_ in BOUNDARIES} == set(IFEVAL) and len(IFEVAL) == 25


@pytest.mark.parametrize("name", [LANGUAGE, UPPER, LOWER])
@pytest.mark.parametrize("text", ["123 456 7", "3.14", "12:30 \u2014 45 %"])
def test_a_text_in_which_no_language_can_be_detected_is_not_paid(name: str, text: str):
    """The public checker counts it as followed."""
    asked = {"language": "en"} if name == LANGUAGE else {}
    for config in (STRICT, LOOSE):
        assert score(text, (name, asked), config=config).value == 0.0


# -- the public checker --------------------------------------------------------------------------


def golden() -> list[dict[str, Any]]:
    head, *rows = map(json.loads, GOLDEN.read_text(encoding="utf-8").splitlines())
    assert "lm-eval 0.4.13" in head["made"]
    return rows


@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_verdicts_agree_with_the_public_checker(mode: str):
    """On 99 of 100 rows and of 100 instructions, with both verdicts of every type among them."""
    rows, sides = golden(), set()
    wrong_rows, wrong, total = [], 0, 0
    for number, row in enumerate(rows):
        each = list(zip(row["instruction_id_list"], row["kwargs"], row[mode], strict=True))
        sides |= {(name, verdict) for name, _, verdict in each}
        config = InstructionsConfig(mode=mode)
        ours = [score(row["response"], (n, k), config=config).value == 1.0 for n, k, _ in each]
        wrong += sum(a != b for a, (*_, b) in zip(ours, each, strict=True))
        total += len(each)
        task = Task.make("instruction", "Go.", row)
        if (scored(task, row["response"], config).value == 1.0) != all(row[mode]):
            wrong_rows.append(number)
    assert len(rows) >= 500 and sides == {(n, v) for n in IFEVAL for v in (True, False)}
    assert wrong <= 0.01 * total
    assert len(wrong_rows) <= 0.01 * len(rows), wrong_rows


def test_the_official_prompts_load_with_and_without_a_language_prefix():
    if not OFFICIAL.exists():
        pytest.skip(f"{OFFICIAL} is not here")
    rows = [json.loads(line) for line in OFFICIAL.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 541
    names = set()
    for row in rows:
        validate_reference(row)
        bare = [name.removeprefix("en:") for name in row["instruction_id_list"]]
        validate_reference({**row, "instruction_id_list": bare})
        names |= set(bare)
    assert names == set(IFEVAL)


@pytest.mark.parametrize("prefix", ["", "en:", "es:", "zh-CN:"])
def test_a_prefix_changes_no_verdict(prefix: str):
    assert score("a b", (f"{prefix}{NO_COMMA}", None)).value == 1.0
    assert score("a, b", (f"{prefix}{NO_COMMA}", None)).value == 0.0


# -- how the checks combine ----------------------------------------------------------------------


def test_all_must_hold_and_partial_pays_their_share():
    asked = [(NO_COMMA, None), (TITLE, None), (HOLES, {"num_placeholders": 1})]
    found = score("a, b <<c>> [d]", *asked)
    assert (found.value, found.reasons) == (0.0, (f"{NO_COMMA}: 1 commas",))
    assert score("a, b <<c>> [d]", *asked, config=PARTIAL).value == pytest.approx(2 / 3)
    assert score("a b <<c>> [d]", *asked).value == 1.0


@pytest.mark.parametrize(
    ("name", "asked", "text"),
    [
        (JSON, {}, 'Sure:\n{"a": 1}'),
        (JSON, {}, '{"a": 1}\nHope it helps'),
        (JSON, {}, 'Sure:\n{"a": 1}\nHope it helps'),
        (END, {"end_phrase": "That is all."}, "a **That is all.**"),
        (END, {"end_phrase": "That is all."}, "a\n*That is all.*\nBye"),
        (NO_COMMA, {}, "Sure, here:\na b"),
    ],
)
def test_loose_reads_past_an_introduction_a_closing_line_and_asterisks(
    name: str, asked: dict[str, Any], text: str
):
    assert score(text, (name, asked)).value == 0.0
    assert score(text, (name, asked), config=LOOSE).value == 1.0


def test_loose_holds_nothing_that_only_an_empty_reading_follows():
    assert score("a, b", (NO_COMMA, {}), config=LOOSE).value == 0.0
    assert len(loose_variants("*a*\n*b*\n*c*")) == 7


def test_instructions_may_differ_in_the_reading_that_follows_them():
    text = 'Sure, I will:\n{"a": "*b*"}'
    assert score(text, (JSON, {}), (HIGHLIGHTS, {"num_highlights": 1}), config=LOOSE).value == 1.0


def test_a_dialogue_is_read_to_its_end():
    assert score("User: hi\nHuman: yes\n[a]", (HOLES, {"num_placeholders": 1})).value == 1.0


def test_an_endless_answer_is_not_paid():
    assert score("word " * 11_000, (WORDS, {"num_words": 5, **MANY})).value == 0.0
    assert score("x" * 200_000 + "</think>a b", (NO_COMMA, {})).value == 1.0


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConjointError, match=r"mode=lax is unknown; expected strict or loose"):
        InstructionsConfig(mode="lax").validate()


def test_a_type_of_ones_own_is_one_entry(monkeypatch: pytest.MonkeyPatch):
    def rhymes(text: str, asked: Any) -> str:
        return "" if text.count("ay") >= asked["times"] else "no rhyme"

    monkeypatch.setitem(RULES, "poem:rhymes", Rule({"times": COUNT}, rhymes))
    monkeypatch.setitem(IFEVAL, "poem:rhymes", RULES["poem:rhymes"])
    for named in (
        reference(("en:poem:rhymes", {"times": 2})),
        {"checks": [{"name": "poem:rhymes", "times": 2}]},
    ):
        task = Task.make("instruction", "Go.", named)
        assert scored(task, "a day of may").value == 1.0
        assert scored(task, "a day").reasons == ("poem:rhymes: no rhyme",)


# -- references ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "instruction_id_list"),
        ({"instruction_id_list": [], "kwargs": []}, "instruction_id_list"),
        ({"instruction_id_list": NO_COMMA, "kwargs": [{}]}, "expected a list"),
        ({"instruction_id_list": [NO_COMMA]}, "kwargs must be a list of 1"),
        ({"instruction_id_list": [NO_COMMA], "kwargs": [{}, {}]}, "kwargs must be a list of 1"),
        ({"instruction_id_list": [NO_COMMA], "kwargs": ["x"]}, r"kwargs\[0\] is 'x'"),
        (reference(("punctuation:no_commas", {})), f"did you mean {NO_COMMA}"),
        (reference(("en:number_bullets", {})), f"instruction 1 .*did you mean {BULLETS}"),
        ({"instruction_id_list": [None], "kwargs": [{}]}, "instruction 1 has the id None"),
        (reference((NO_COMMA, {}), (TITLE, {"commas": 1})), r"instruction 2 .*'commas'.*none"),
        (reference((WORDS, {"num_words": 5})), r"relation is None; expected 'at least' or"),
        (reference((WORDS, {"num_words": 5, "relation": "about"})), "relation is 'about'"),
        (reference((WORDS, {"num_words": "5", **MANY})), "num_words is '5'; expected a whole"),
        (reference((WORDS, {"num_words": 2.5, **MANY})), r"num_words is 2\.5"),
        (reference((WORDS, {"num_word": 5, **MANY})), "unknown parameter 'num_word'; expected num"),
        (reference((BULLETS, {"num_bullets": float("nan")})), "num_bullets is nan"),
        (reference((EXISTENCE, {"keywords": "sea"})), "keywords is 'sea'; expected a list"),
        (reference((EXISTENCE, {"keywords": ["sea", " "]})), "not blank"),
        (reference((LANGUAGE, {"language": "german"})), "language is 'german'; expected one of af"),
        (reference((LETTERS, {"letter": "ab", "let_frequency": 1})), "expected one character"),
        (reference((NTH, {**THIRD, "nth_paragraph": 4})), "beyond num_paragraphs 3"),
        ({"nuanced": [" "]}, "nuanced 1 is ' '"),
        ({"nuanced": "warm"}, "expected a list"),
        ({"checks": [{"name": "no_comma"}]}, f"did you mean {NO_COMMA}"),
        (reference(("a:b", {})), r"'a:b'.*; see docs/instructions\.md"),
    ],
)
def test_a_bad_reference_says_what_and_where(given: Any, says: str):
    with pytest.raises(ConjointError, match=says):
        validate_reference(given)
    found = scored(Task.make("instruction", "Go.", given), "some words")
    assert found.outcome is Outcome.INFRA_ERROR and found.value is None


def test_whole_numbers_may_be_floats_and_nulls_are_absent_as_tables_store_them():
    asked = {"num_words": 2.0, "relation": "at least", "keywords": None, "letter": None}
    assert score("a b", (WORDS, asked)).value == 1.0
    assert score("a", (WORDS, asked)).reasons == (f"{WORDS}: 1 words, wanted at least 2",)


HOSTILE = [
    *("a\ud800\u202eb" * 500, "[" * 2000, "<<" * 2000, '{"a":' * 2000, "* " * 2000),
    "a. " * 1000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:2].encode("ascii", "replace"))
def test_hostile_text_is_scored_by_every_type_and_raises_nothing(text: str):
    for name, asked, *_ in BOUNDARIES:
        found = score(text, (name, asked), config=LOOSE)
        assert found.value in (0.0, 1.0)
        assert "".join(found.reasons).encode()
