"""`conjoint rubric lint`: each planted fault is found at its line, and a sound file has none."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from conjoint.rewards.rubrics.file import read_rubric
from conjoint.rewards.rubrics.find import find_rubric, shipped_rubrics
from conjoint.scripts.main import app
from conjoint.scripts.rubric.lint import FAULT, Finding, lint
from conjoint.scripts.rubric.wording import contradiction, same, vague_terms

SOUND: dict[str, Any] = {
    "name": "spanish",
    "version": 1,
    "kind": "core",
    "intent": "The answer is in Spanish.",
    "short": "in Spanish",
    "criteria": [{"text": "Every sentence is in Spanish."}, {"text": "It names one example."}],
    "examples": {"good": ["Hola."], "bad": ["Hello."]},
}


def findings(folder: Path, *files: dict[str, Any]) -> list[Finding]:
    paths = []
    for i, changes in enumerate(files):
        data = {k: v for k, v in {**SOUND, **changes}.items() if v is not ...}
        paths.append(folder / f"r{i}.yaml")
        paths[-1].write_text(yaml.safe_dump(data, sort_keys=False))
    return lint([read_rubric(path) for path in paths])


def texts(*said: str) -> dict[str, Any]:
    return {"criteria": [{"text": text} for text in said]}


def test_the_shipped_rubrics_and_a_sound_one_have_no_findings(tmp_path: Path):
    assert lint([read_rubric(find_rubric(name)) for name in shipped_rubrics()]) == []
    assert findings(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("changes", "rule", "line", "words"),
    [
        ({"version": "1"}, "schema", 2, "whole number"),
        (texts("Every sentence is Spanish.", "All sentences are Spanish."), "duplicate", 8, "same"),
        (texts("It is in Spanish.", "It is in English."), "contradiction", 8, "'english'"),
        (texts("It is short.", "It is detailed."), "contradiction", 8, "'short'"),
        (texts("It cites a source.", "It never cites a source."), "contradiction", 8, "forbids"),
        (texts("At most 50 words.", "At least 90 words."), "contradiction", 8, "at most 50"),
        (texts("It is well written."), "unverifiable", 7, "'well written'"),
        (texts("The length is appropriate."), "unverifiable", 7, "'appropriate'"),
        (texts("word " * 60), "long", 7, "60 words"),
        ({"examples": {"good": ["Hola."]}}, "examples", 9, "no bad example"),
        ({"examples": ...}, "examples", 1, "no good example"),
        ({"examples": {"good": ["a"], "bad": ["a"]}}, "examples", 13, "among the good and the bad"),
        ({"short": "x" * 31}, "short", 5, "31 characters"),
        ({"applies_to": ["opem"]}, "kinds", 15, "'opem'"),
        ({"kind": "prescriptive"}, "kinds", 3, "mandatory"),
    ],
)
def test_a_planted_fault_is_found_at_its_line(
    tmp_path: Path, changes: dict[str, Any], rule: str, line: int, words: str
):
    found = [f for f in findings(tmp_path, changes) if f.rule == rule]
    assert [(f.line, f.path.name) for f in found if words in f.words] == [(line, "r0.yaml")]
    assert all(f.todo for f in found)


def test_a_forbidden_pattern_and_the_examples_must_fit(tmp_path: Path):
    rule = {"kind": "prescriptive", "criteria": [{"text": "No thanks.", "mandatory": True}]}
    rule["forbidden"] = {"anywhere": ["hola"]}
    found = {f.words: f.level for f in findings(tmp_path, rule)}
    assert found == {
        "a forbidden pattern matches 'Hola' in a good example": FAULT,
        "no forbidden pattern matches the bad example 'Hello.'": "advice",
    }


def test_two_rubrics_of_one_run_are_compared_unless_they_are_alternatives(tmp_path: Path):
    other = {"name": "english", **texts("Every sentence is in English.")}
    (found,) = findings(tmp_path, {}, other)
    assert (found.rule, found.path.name, found.line) == ("contradiction", "r1.yaml", 7)
    assert found.level != FAULT, "each file by itself is sound"
    assert findings(tmp_path, {}, {**other, "alternative_to": "spanish"}) == []


def test_a_changed_rubric_of_the_same_version_is_told(tmp_path: Path):
    (found,) = findings(tmp_path, {}, texts("Every sentence is in French."))
    assert found.rule == "version" and "same name and version" in found.words
    assert findings(tmp_path, {}, {**texts("Every sentence is in French."), "version": 2}) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Every sentence is Spanish.", "It gives one concrete example."),
        ("It has no more than 50 words.", "It has exactly 40 words."),
        ("The answer is in Spanish.", "The answer is not in English."),
        ("Its paragraphs are short.", "Its arguments are detailed."),
        ("It is short.", "It is not long."),
    ],
)
def test_what_can_be_met_together_is_no_contradiction(one: str, other: str):
    assert contradiction(one, other) == contradiction(other, one) == ""
    assert not same(one, other)


def test_what_a_criterion_quotes_or_forbids_is_no_vague_wording():
    assert vague_terms('It does not open with "great".') == []
    assert vague_terms('The word "great" stands in it.') == []
    assert [term for term, _ in vague_terms("A great answer.")] == ["great"]


def test_the_command_prints_places_writes_a_page_and_exits_with_3_on_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("name: x\nversion: 1\ncriteria: [\n")
    done = CliRunner().invoke(app, ["rubric", "lint", "bad.yaml", "output=out"])
    assert done.exit_code == 3, done.output
    assert "bad.yaml:4" in done.stdout and "not readable YAML" in " ".join(done.stdout.split())
    page = Path("out/index.html").read_text()
    assert "bad.yaml:4" in page and "src=" not in page and "href=" not in page
    assert CliRunner().invoke(app, ["rubric", "lint", "clarity"]).exit_code == 0
    assert len(list(Path("rubric-reports").glob("lint-*/index.html"))) == 1
    again = CliRunner().invoke(app, ["rubric", "lint", "output=out"])
    assert again.exit_code == 2 and "holds something already" in again.stderr
    unknown = CliRunner().invoke(app, ["rubric", "lind"])
    assert unknown.exit_code == 2 and "expected lint, preview" in unknown.stderr
    wrong = CliRunner().invoke(app, ["rubric", "lint", "clarity", "judge.template=full"])
    assert wrong.exit_code == 2 and "unknown config key judge" in wrong.stderr
