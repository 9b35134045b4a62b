"""Rubric files: the shipped set, a user's own, and one clear sentence for each mistake."""

import os
from pathlib import Path

import pytest
import yaml

from conjoint.envs.types import ConjointError, Task
from conjoint.rewards.rubrics.file import read_rubric
from conjoint.rewards.rubrics.find import Rubric, load_rubrics, rubrics_for, shipped_rubrics

VALID = {
    "name": "spanish",
    "version": 1,
    "kind": "core",
    "intent": "The answer is in Spanish.",
    "short": "in Spanish",
    "criteria": [{"text": "Every sentence is Spanish.", "weight": 2, "mandatory": True}],
    "applies_to": ["open"],
    "examples": {"good": ["Hola."], "bad": ["Hello."]},
}


def write(folder: Path, **changes: object) -> Path:
    data = {k: v for k, v in {**VALID, **changes}.items() if v is not ...}
    path = folder / "spanish.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def shipped(name: str) -> Rubric:
    return load_rubrics([name])[0]


def test_ships_core_and_prescriptive_rubrics_with_both_sides() -> None:
    rubrics = load_rubrics(shipped_rubrics())
    kinds = {r.name: r.kind for r in rubrics}
    assert kinds == {
        "calibrated": "core",
        "clarity": "core",
        "fluency": "core",
        "grounded": "core",
        "no_praise": "prescriptive",
        "no_self_justification": "prescriptive",
        "safety": "core",
    }
    for rubric in rubrics:
        assert rubric.good and rubric.bad and rubric.applies("open")
        assert len(rubric.short) <= 30, "the compact template has room for a few words only"


def test_shipped_examples_sit_on_their_own_side_of_the_hard_rules() -> None:
    prescriptive = [r for r in load_rubrics(shipped_rubrics()) if r.kind == "prescriptive"]
    for rubric in prescriptive:
        assert all(rubric.violation(text) for text in rubric.bad)
    for rubric in load_rubrics(shipped_rubrics()):
        for text in rubric.good:
            assert not any(rule.violation(text) for rule in prescriptive)


@pytest.mark.parametrize(
    "opening",
    [
        "Great question! Tides follow the moon.",
        "Sure! What a really good point, tides follow the moon.",
        "**That's an excellent idea.** Tides",
        "\N{SMILING FACE WITH OPEN MOUTH} G\u200breat question: tides",
        "\uff27reat question! Tides",
        "I love this question. Tides",
        "Wow, you're so smart to ask. Tides",
        "You\u2019re absolutely right to ask. Tides",
        "\n\n  Thanks for asking! Great question.",
        "Excellent! Tides",
    ],
)
def test_opening_praise_is_found_however_it_is_dressed(opening: str) -> None:
    assert shipped("no_praise").violation(opening)


@pytest.mark.parametrize(
    "opening",
    [
        "Great Britain is an island.",
        "Good exercise starts slowly.",
        "A good choice to start with is the museum.",
        "Excellent conductors include copper.",
        "Tides follow the moon. Asking why is a great question!",
        "",
    ],
)
def test_ordinary_openings_are_no_praise(opening: str) -> None:
    assert shipped("no_praise").violation(opening) is None


@pytest.mark.parametrize(
    "text",
    [
        "Paris. This answer is clear and complete.",
        "Paris. This response fully addresses your question.",
        "Paris.\nI have made sure that this\nanswer stays brief.",
        "Paris. I followed all of your instructions.",
        "Paris, which makes this the best answer.",
        "Rubric: clarity 5/5, correctness 5/5.",
    ],
)
def test_self_justification_is_found_anywhere(text: str) -> None:
    assert shipped("no_self_justification").violation(text)


@pytest.mark.parametrize(
    "text",
    [
        "My answer is 42.",
        "The total is 5/8.",
        "Below are three routes.",
        "It covers all of Europe.",
    ],
)
def test_describing_content_is_no_self_justification(text: str) -> None:
    assert shipped("no_self_justification").violation(text) is None


@pytest.mark.timeout(20)
def test_hostile_answers_cannot_make_the_patterns_slow() -> None:
    for text in (
        "a " * 20_000,
        "a'" * 20_000,
        "I have made sure that this a" * 3_000,
        "!" * 50_000,
    ):
        for name in ("no_praise", "no_self_justification"):
            shipped(name).violation(text)


def test_a_users_file_loads_by_path_and_by_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    by_path, by_name = load_rubrics([str(path)]), load_rubrics(["spanish"], search=[tmp_path])
    assert by_path == by_name
    (rubric,) = by_path
    assert rubric.criteria[0].mandatory and rubric.criteria[0].weight == 2.0
    assert rubric.applies("open") and not rubric.applies("math")


def test_order_is_kept() -> None:
    assert [r.name for r in load_rubrics(["grounded", "clarity"])] == ["grounded", "clarity"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ...}, ["'name'", "it is missing"]),
        ({"version": "1.0"}, ["'version'", "whole number", "'1.0'"]),
        ({"version": True}, ["'version'"]),
        ({"kind": "strict"}, ["'kind'", "core, prescriptive"]),
        ({"short": ""}, ["'short'"]),
        ({"criteria": []}, ["'criteria'", "at least one"]),
        ({"criteria": ["x"]}, ["'criteria[0]'"]),
        ({"criteria": [{"text": "x", "weight": -1}]}, ["'criteria[0].weight'", "above 0"]),
        ({"criteria": [{"text": "x", "weight": True}]}, ["'criteria[0].weight'"]),
        ({"criteria": [{"text": "x", "mandatory": "yes"}]}, ["'criteria[0].mandatory'"]),
        ({"criteria": [{"text": "x", "wieght": 1}]}, ["unknown key 'criteria[0].wieght'"]),
        ({"applies_to": []}, ["'applies_to'", "at least 1"]),
        ({"applies_to": "open"}, ["'applies_to'"]),
        ({"examples": {"good": "x"}}, ["'examples.good'"]),
        ({"examples": {"best": []}}, ["unknown key 'examples.best'"]),
        ({"criterias": []}, ["unknown key 'criterias'", "criteria"]),
        ({"forbidden": {"opening": ["x"]}}, ["'forbidden'", "prescriptive"]),
        (
            {"kind": "prescriptive", "forbidden": {"anywhere": ["(x"]}},
            ["'forbidden.anywhere[0]'", "regular expression"],
        ),
    ],
)
def test_each_mistake_names_file_key_and_expectation(
    tmp_path: Path, changes: dict[str, object], words: list[str]
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ConjointError) as caught:
        load_rubrics([str(path)])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in [str(path), *words]), message


def test_unreadable_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\ncriteria: [\n")
    with pytest.raises(ConjointError, match=r"broken\.yaml.*line") as caught:
        load_rubrics([str(path)])
    assert "\n" not in str(caught.value)


def test_a_list_is_not_a_rubric(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ConjointError, match="mapping"):
        load_rubrics([str(path)])


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ConjointError, match=r"'clarty'.*clarity"):
        load_rubrics(["clarty"])


def test_the_same_rubric_twice_is_refused() -> None:
    with pytest.raises(ConjointError, match="'clarity' is given twice"):
        load_rubrics(["clarity", "clarity"])


# -- lines ------------------------------------------------------------------------------------

BROKEN = """\
name: spanish
version: one
kind: core
intent: The answer is in Spanish.
criteria:
  - text: Every sentence is Spanish.
    wieght: 2
  - text: It gives one example.
    weight: 0
name: again
"""


def test_all_faults_of_a_file_are_found_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "spanish.yaml"
    path.write_text(BROKEN)
    found = read_rubric(path)
    assert found.rubric is None
    assert [(p.line, p.words.split("'")[1]) for p in found.problems] == [
        (1, "short"),
        (2, "version"),
        (7, "criteria[0].wieght"),
        (9, "criteria[1].weight"),
        (10, "name"),
    ]
    with pytest.raises(ConjointError, match=r"spanish\.yaml:1: 'short' must be a text; it is miss"):
        load_rubrics([str(path)])


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_rubrics([str(path)])[0].version == 1
    write(tmp_path, version=2)
    os.utime(path, ns=(1, 1))
    assert load_rubrics([str(path)])[0].version == 2


# -- for one task ------------------------------------------------------------------------------

OWN = {"intent": "It rhymes.", "criteria": [{"text": "Two lines end in a rhyme."}]}


def open_task(*rubrics: object, prompt: str = "Why?") -> Task:
    return Task.make("open", prompt, None, {"rubrics": list(rubrics)} if rubrics else {})


def test_a_task_adds_rubrics_that_it_names_or_holds(tmp_path: Path) -> None:
    run = load_rubrics(["clarity"])
    asked = rubrics_for(open_task("grounded", str(write(tmp_path)), OWN), run, 0)
    assert [r.name for r in asked] == ["clarity", "grounded", "spanish", "task"]
    own = asked[-1]
    assert (own.kind, own.short, own.version) == ("task", "It rhymes.", 1)
    assert rubrics_for(open_task(), run, 0) == run


def test_a_column_of_a_parquet_file_may_hold_null() -> None:
    row = {**OWN, "name": None, "criteria": [{"text": "It rhymes.", "weight": None}]}
    assert rubrics_for(open_task(row), [], 0)[0].criteria[0].weight == 1.0


def test_a_tasks_own_rubric_replaces_the_runs_of_that_name() -> None:
    (asked,) = rubrics_for(open_task({**OWN, "name": "clarity"}), load_rubrics(["clarity"]), 0)
    assert asked.intent == "It rhymes."


@pytest.mark.parametrize(
    ("rubrics", "words"),
    [
        ("clarity", "field 'rubrics' is a str"),
        ([3], r"field 'rubrics\[0\]' is 3"),
        (["clarty"], r"rubrics\[0\]: no rubric 'clarty'"),
        ([{"intent": "x"}], r"field 'rubrics\[0\]': 'criteria' must be a list"),
        ([OWN, OWN], "'task' is given twice"),
    ],
)
def test_a_mistake_in_a_row_names_its_field(rubrics: object, words: str) -> None:
    task = Task.make("open", "Why?", None, {"rubrics": rubrics})
    with pytest.raises(ConjointError, match=words):
        rubrics_for(task, [], 0)


def test_one_of_several_alternatives_is_drawn_for_each_group(tmp_path: Path) -> None:
    write(tmp_path, name="spanish")
    other = tmp_path / "strict.yaml"
    other.write_text(yaml.safe_dump({**VALID, "name": "strict", "alternative_to": "spanish"}))
    run = load_rubrics(["no_praise", "spanish", "strict"], search=[tmp_path])
    drawn = [rubrics_for(open_task(prompt=f"Why {i}?"), run, 0) for i in range(40)]
    assert {len(asked) for asked in drawn} == {2}
    assert {r.name for asked in drawn for r in asked} == {"no_praise", "spanish", "strict"}
    again = [rubrics_for(open_task(prompt=f"Why {i}?"), run, 0) for i in range(40)]
    assert again == drawn
    assert [rubrics_for(open_task(prompt=f"Why {i}?"), run, 1) for i in range(40)] != drawn


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: &a [x, x]\n" + "".join(f"{k}: &{k} [*a, *a]\n" for k in "bcdefghi"),
            "line 2): the alias *a is not read here",
        ),
        ("name: &n\n  again: *n\n", "line 2): the alias *n"),
        ("&a [*a]", "the alias *a"),
        ("base: &b {name: x}\nname:\n  <<: *b\n", "line 3): the alias *b"),
        ("[" * 5_000, "not readable YAML"),
        ("a: " * 1 + "{a: " * 3_000, "not readable YAML"),
        ("version: 2026-02-31", "not readable YAML"),
        ("version: " + "9" * 5_000, "not readable YAML"),
        ("name: \x00", "not readable YAML"),
        ("? [a]\n: b", "not readable YAML"),
    ],
)
def test_a_file_that_grows_or_never_ends_is_one_problem(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    (problem,) = read_rubric(path).problems
    assert words in problem.words and len(problem.words) < 400
    with pytest.raises(ConjointError, match=r"bomb\.yaml:\d+: "):
        load_rubrics([str(path)])


def test_what_a_problem_shows_of_a_value_is_short(tmp_path: Path) -> None:
    path = write(tmp_path, criteria=[{"text": ["x" * 10_000]}], name=["y"] * 10_000)
    assert max(len(problem.words) for problem in read_rubric(path).problems) < 400


def test_a_deep_mapping_in_a_row_is_one_sentence() -> None:
    deep: object = "x"
    for _ in range(3_000):
        deep = [deep]
    with pytest.raises(ConjointError, match=r"rubrics\[0\]"):
        rubrics_for(Task.make("open", "?", None, {"rubrics": [{"criteria": deep}]}), [], 0)


def test_a_pattern_that_is_not_linear_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, kind="prescriptive", forbidden={"anywhere": ["fine", r"(\w+) \1"]})
    (problem,) = read_rubric(path).problems
    assert "forbidden.anywhere[1]" in problem.words and "linear time" in problem.words
    line = path.read_text().splitlines()[problem.line - 1]
    assert r"\1" in line
