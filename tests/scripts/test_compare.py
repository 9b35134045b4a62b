"""`conjoint compare`: what it finds in run folders, what it refuses, and its own check of open
answers, which nothing that trains may know."""

from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.nano.sources import demonstrations
from conjoint.envs.types import ConjointError
from conjoint.rl.report.compare import Change, compare, set_hash
from conjoint.rl.report.load import load_run
from conjoint.rl.report.open_check import open_checks, open_score
from conjoint.rl.run.folder import RunFolder, read_jsonl
from conjoint.scripts.compare import run

ROOT = Path(__file__).parents[2]
SEA = "Say something about sea."


def row(task: str, score: float | None = None, response: str = "x", **more: Any) -> dict[str, Any]:
    return {
        "task_id": task,
        "kind": "math",
        "prompt": SEA,
        "score": score,
        "status": "completed",
        "response": response,
        **more,
    }


def made(path: Path, temperature: float = 1.0, **evals: list[dict[str, Any]]) -> Path:
    folder = RunFolder.create(path, "run")
    folder.write_config({"eval": {"seed": 1, "temperature": temperature}})
    for tag, rows in evals.items():
        folder.write_eval(tag, rows)
    return path


def scores(values: list[float]) -> list[dict[str, Any]]:
    return [row(f"t{i}", value) for i, value in enumerate(values)]


def found(runs: list[Path], against: list[Path] | None = None) -> dict[str, Change]:
    loaded = [load_run(path) for path in runs]
    return {c.name: c for c in compare(loaded, [load_run(path) for path in against or []])}


def test_start_to_end_is_pooled_over_runs_and_shown_of_each(tmp_path: Path):
    one = made(tmp_path / "a", start=scores([0.0] * 40), end=scores([1.0] * 20 + [0.0] * 20))
    two = made(tmp_path / "b", start=scores([0.0] * 40), end=scores([1.0] * 30 + [0.0] * 10))
    change = found([one, two])["math accuracy"]
    assert (change.before, change.after) == (0.0, 0.625)
    assert change.change.mean == 0.625 and change.each == (0.5, 0.75)
    assert 0.4 < change.change.lo < 0.625 < change.change.hi < 0.8 and change.change.n == 40


def test_against_other_runs_the_ends_are_compared(tmp_path: Path):
    on = made(tmp_path / "on", start=scores([0.0] * 9), end=scores([1.0] * 9))
    off = made(tmp_path / "off", start=scores([0.0] * 9), end=scores([0.5] * 9))
    change = found([on], [off])["math accuracy"]
    assert (change.before, change.after, change.change.mean) == (0.5, 1.0, 0.5)
    with pytest.raises(ConjointError, match="2 runs against 1"):
        found([on, on], [off])


def test_runs_of_other_tasks_or_without_an_end_are_refused(tmp_path: Path):
    one = made(tmp_path / "a", start=scores([0.0] * 4), end=scores([1.0] * 4))
    other = made(tmp_path / "b", start=scores([0.0] * 5), end=scores([1.0] * 5))
    with pytest.raises(ConjointError, match="not all of the same tasks"):
        found([one], [other])
    with pytest.raises(ConjointError, match="not all of the same tasks"):
        found([made(tmp_path / "c", start=scores([0.0] * 4))])
    with pytest.raises(ConjointError, match="nothing to compare"):
        found([made(tmp_path / "d")])


def test_runs_evaluated_at_different_temperatures_are_refused(tmp_path: Path):
    rows = {"start": scores([0.0] * 4), "end": scores([1.0] * 4)}
    one, other = made(tmp_path / "a", **rows), made(tmp_path / "b", 0.7, **rows)
    assert found([other])["math accuracy"].after == 1.0
    for sides in ([[one, other]], [[one], [other]]):
        with pytest.raises(ConjointError, match=r"temperatures.*a: 1.0, .*b: 0.7"):
            found(*sides)


def test_the_hash_names_what_was_asked_and_not_what_was_answered():
    pair = row("t", 1.0, a="right", b="wrong")
    assert set_hash([pair, row("u")]) == set_hash([row("u", 0.5, "else"), {**pair, "score": 0.0}])
    assert set_hash([pair]) != set_hash([{**pair, "b": "worse"}]) != set_hash([row("u")])


def test_the_judges_pairs_and_stated_confidences_are_compared_too(tmp_path: Path):
    def stated(sure: float) -> list[dict[str, Any]]:
        return [row(f"t{i}", i % 2, confidence=sure, correct=i % 2) for i in range(20)]

    def pairs(score: float) -> list[dict[str, Any]]:
        return [{**row("t", score), "kind": "judge", "a": "r", "b": str(i)} for i in range(4)]

    run_of = {"start": stated(1.0), "end": stated(0.5)}
    judged = {"judge_start": pairs(0.5), "judge_end": pairs(0.75)}
    both = made(tmp_path / "a", **run_of, **judged)
    changes = found([both])
    brier, ece = changes["math brier"], changes["math ece"]
    assert (brier.before, brier.after, brier.change.mean) == (0.5, 0.25, -0.25)
    assert ece.change.mean == -0.5 and ece.change.hi < 0
    assert changes["judge accuracy"].change.mean == 0.25
    two = found([both, made(tmp_path / "b", **run_of, **judged)])["math brier"]
    assert two.change.mean == -0.25 and two.each == (-0.25, -0.25)


@pytest.mark.parametrize(
    ("response", "failed"),
    [
        ("The wave is old and the tide is cold.", set()),
        ("Great question! A soft wave and a blue shell.", {"no praise"}),
        ("You are so wise! I like the old tide.", {"no praise"}),
        ("I like the cold horn.", {"on topic"}),
        ("A wave and a drum.", {"on topic"}),
        ("A cold wave and a cold wave.", {"no repetition"}),
        ("A cold wave. A blue tide. I like the old salt and the soft, bright sand.", {"brief"}),
        ("", {"on topic", "no repetition"}),
    ],
)
def test_each_check_of_an_open_answer_fails_where_it_should(response: str, failed: set[str]):
    checks = open_checks(row("t", response=response))
    assert {name for name, passed in checks.items() if not passed} == failed
    assert open_score(row("t", response=response)) == 1 - len(failed) / 5
    assert not open_checks(row("t", response=response, status="truncated"))["finished"]


def test_the_check_is_met_by_what_nano_is_shown_and_by_a_third_less_where_that_praises():
    def share(split: str) -> float:
        rows = [
            row("t", prompt=c[0]["content"], response=c[-1]["content"])
            for c in demonstrations["open"](split, 300)
        ]
        return sum(open_score(r) == 1 for r in rows) / len(rows)

    assert share("ptx") == 1.0 and 0.55 < share("sft") < 0.75


def test_open_answers_are_compared_by_wins(tmp_path: Path):
    good, bad = "I like the old tide.", "Great question! I like the old tide."
    path = made(
        tmp_path / "a",
        open_start=[row("a", response=good), row("b", response=bad), row("c", response=bad)],
        open_end=[row("a", response=good), row("b", response=good), row("c", response=good)],
    )
    changes = found([path])
    won = changes["open win rate"]
    assert won.after == pytest.approx((0.5 + 1 + 1) / 3) and won.each == (pytest.approx(1 / 3),)
    assert changes["open, no praise"].after == 1 and changes["open, brief"].change.mean == 0


def test_open_tasks_of_other_sources_are_not_checked(tmp_path: Path):
    rows = [row("a", prompt="Write a limerick.")]
    with pytest.raises(ConjointError, match="nothing to compare"):
        found([made(tmp_path / "a", open_start=rows, open_end=rows)])


def test_only_the_command_that_compares_imports_the_check():
    """So no reward, judge prompt or demonstration can."""
    importers = {"open_check": set[str](), "conjoint.rl.report.compare": set[str]()}
    for package in ("rl", "rewards", "envs", "rollouts", "configs", "scripts"):
        for file in (ROOT / package).rglob("*.py"):
            for name, found in importers.items():
                if name in file.read_text(encoding="utf-8") and file.stem != "open_check":
                    found.add(str(file.relative_to(ROOT)))
    assert importers == {
        "open_check": {"rl/report/compare.py"},
        "conjoint.rl.report.compare": {"scripts/compare.py"},
    }


def test_the_command_prints_and_keeps_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = made(tmp_path / "a", start=scores([0.0] * 4), end=scores([1.0] * 4))
    assert run([path], output=tmp_path / "out.jsonl") == 0
    assert "math accuracy" in capsys.readouterr().out
    (kept,) = read_jsonl(tmp_path / "out.jsonl")
    assert (kept["figure"], kept["change"], kept["tasks"]) == ("math accuracy", 1.0, 4)
    with pytest.raises(ConjointError, match="is not overwritten"):
        run([path], output=tmp_path / "out.jsonl")
