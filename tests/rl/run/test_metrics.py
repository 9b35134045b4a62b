"""Figures by kind, the plain-words line, and trackers that cannot end a run."""

import json
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conjoint.envs.types import Completion, ConjointError, Group, Score, Status, Task, Trajectory
from conjoint.rl.run.folder import RunFolder
from conjoint.rl.run.metrics import (
    JsonlTracker,
    Trackers,
    TrackingConfig,
    answer_score,
    plain_words,
    step_metrics,
    wandb_mode,
)


def answer(reward: float | None, n: int = 4, status: Status = Status.COMPLETED) -> Trajectory:
    t = Trajectory(status=status, reward=reward, budget=16)
    t.extend_context([1, 2])
    t.extend_sampled(Completion([5] * n, [-1.0] * n, "stop", 0))
    if reward is None:
        t.scores = [Score.infra_error("check", "the worker died")]
    else:
        t.scores = [Score.of("check", max(0.0, reward))]
    return t


def group(kind: str, *answers: Trajectory) -> Group:
    return Group(Task.make(kind, f"{kind} {id(answers)}"), list(answers))


def test_figures_by_kind() -> None:
    cut = answer(-0.5, 8, Status.TRUNCATED)
    cut.scores = [Score.of("check", 1.0)]
    groups = [
        group("math", answer(1.0, 4), answer(0.0, 6), cut, answer(None, 2, Status.FAILED)),
        group("math", answer(1.0, 4), answer(1.0, 4)),
        group("code", answer(0.0, 4), answer(None, 4)),
    ]
    groups[2].trajectories[0].budget = 0  # not known: no share of it
    m = step_metrics(groups)
    assert m["groups"] == 3 and m["groups/math"] == 2 and m["groups/code"] == 1
    assert m["reward/math"] == pytest.approx((1 + 0 - 0.5 + 1 + 1) / 5)
    assert m["score/math"] == pytest.approx((1 + 0 + 0 + 1 + 1) / 5)
    assert m["truncated/math"] == pytest.approx(1 / 5)
    assert m["length/math"] == pytest.approx((4 + 6 + 8 + 4 + 4) / 5)
    assert m["length_over_budget/math"] == pytest.approx(m["length/math"] / 16)
    assert (m["length_p50/math"], m["length_p90/math"], m["budget/math"]) == (4, 8, 16)
    shares = [m[f"length_over_budget_p{q}/math"] for q in (10, 50, 90)]
    assert shares == [4 / 16, 4 / 16, 8 / 16]
    assert m["masked/math"] == pytest.approx(1 / 6) and m["masked/code"] == 0.5
    assert m["zero_variance/math"] == 0.5
    assert m["masked_share"] == pytest.approx(2 / 8)
    assert m["graded_share"] == pytest.approx(6 / 8)
    assert m["reward_std/math"] > 0
    # A figure nobody can have is absent, not 0.
    assert "length_over_budget/code" not in m
    assert "zero_variance/code" not in m and "reward_std/code" not in m


def test_lengths_are_measured_against_each_answer_s_own_budget() -> None:
    """A schedule moves, and an answer that was carried over has the budget that it began with."""
    old, new = answer(1.0, 8), answer(1.0, 4)
    old.budget, new.budget = 16, 8
    m = step_metrics([group("math", old, new)])
    assert m["length_over_budget/math"] == 0.5 and m["budget/math"] == 12


def test_what_length_cost_and_paid_is_counted_among_the_answers_it_concerned() -> None:
    answers = [answer(1.0), answer(0.0), answer(1.0, 8, Status.TRUNCATED)]
    for t, over, bonus in zip(answers, (0.0, 1.0), (0.5, -0.25), strict=False):
        t.metrics |= {"above_limit": over, "length_reward": bonus}
    m = step_metrics([group("math", *answers), group("code", answer(1.0))])
    assert (m["above_limit/math"], m["length_reward/math"]) == (0.5, 0.125)
    assert "above_limit/code" not in m and "length_reward/code" not in m


def test_a_masked_answer_is_not_a_zero() -> None:
    m = step_metrics([group("math", answer(1.0), answer(None))])
    assert m["reward/math"] == 1.0 and m["score/math"] == 1.0
    m = step_metrics([group("math", answer(None), answer(None))])
    assert "reward/math" not in m and m["graded_share"] == 0.0


def test_no_groups_give_no_shares() -> None:
    assert step_metrics([]) == {"groups": 0.0}


def test_an_answer_with_one_ungraded_check_has_no_score() -> None:
    t = answer(1.0)
    t.scores.append(Score.infra_error("other"))
    assert answer_score(t) is None


def test_plain_words_name_what_happened() -> None:
    cut = [answer(0.0, 16, Status.TRUNCATED) for _ in range(8)]
    groups = [group("math", *cut), group("math", *cut), group("code", answer(0.0), answer(1.0))]
    assert plain_words(groups) == [
        "all 8 answers of every math group got reward 0; 100 % truncated at 16 tokens"
    ]


def test_plain_words_are_silent_while_anything_is_learned() -> None:
    flat, useful = group("math", answer(1.0), answer(1.0)), group("math", answer(1.0), answer(0.0))
    assert plain_words([flat, useful]) == []
    assert plain_words([flat, group("math", answer(0.0), answer(0.0))]) == [
        "all 2 answers of every math group got the same reward; 0 % truncated"
    ]
    assert plain_words([group("math", answer(None), answer(1.0))]) == []


def test_jsonl_keeps_floats_exactly_and_stays_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonlTracker(path).log(3, {"a": 0.1 + 0.2, "b": math.nan, "c": math.inf})
    row = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert row["step"] == 3 and row["a"] == 0.1 + 0.2 and row["b"] is None and row["c"] is None


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "a')
    JsonlTracker(path).log(2, {"a": 1.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


class Broken:
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        raise OSError("no space left")

    def finish(self) -> None:
        raise OSError("no space left")


def test_a_failing_tracker_warns_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    trackers = Trackers([Broken(), JsonlTracker(path)])
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            trackers.log(step, {"a": 1.0})
        trackers.finish()
    assert len(path.read_text().splitlines()) == 3
    assert len(caplog.records) == 1


def fake_wandb(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[Any]:
    calls: list[Any] = []

    def init(**arguments: Any) -> Any:
        if error:
            raise error
        calls.append(arguments)
        return SimpleNamespace(
            log=lambda metrics, step: calls.append((step, metrics)),
            summary=SimpleNamespace(update=calls.append),
            finish=lambda: None,
        )

    fake = SimpleNamespace(init=init, Settings=dict, teardown=lambda: calls.append("teardown"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return calls


def test_wandb_gets_the_same_metrics_and_a_resume_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_wandb(monkeypatch)
    run = RunFolder.create(tmp_path / "r", "r")
    for step in (1, 2):
        trackers = Trackers.open(TrackingConfig(project="p"), run)
        trackers.log(step, {"reward/math": 0.5})
        trackers.finish()
    first, logged, ended, second, _, _ = calls
    assert logged == (1, {"reward/math": 0.5}) and ended == "teardown"
    assert first["project"] == "p" and first["dir"] == str(run.path)
    assert first["id"] == second["id"] and first["resume"] == "allow"
    other = RunFolder.create(tmp_path / "other", "r")
    Trackers.open(TrackingConfig(), other)
    assert calls[-1]["id"] != first["id"]


def test_the_outcome_of_a_run_reaches_wandb_and_a_broken_tracker_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_wandb(monkeypatch)
    trackers = Trackers.open(TrackingConfig(), RunFolder.create(tmp_path / "r", "r"))
    trackers.summarise({"heldout/math/end": 0.5})
    assert calls[-1] == {"heldout/math/end": 0.5}
    broken = SimpleNamespace()
    Trackers([broken]).summarise({})  # type: ignore[list-item]


def test_wandb_off_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_wandb(monkeypatch)
    run = RunFolder.create(tmp_path / "r", "r")
    Trackers.open(TrackingConfig(wandb=False), run).log(1, {"a": 1.0})
    assert calls == [] and not run.wandb.exists()
    assert len(run.metrics.read_text().splitlines()) == 1


def test_wandb_that_cannot_start_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_wandb(monkeypatch, RuntimeError("no service"))
    run = RunFolder.create(tmp_path / "r", "r")
    Trackers.open(TrackingConfig(), run).log(1, {"a": 1.0})
    assert "no service" in caplog.text
    assert len(run.metrics.read_text().splitlines()) == 1


def test_wandb_is_offline_unless_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    assert wandb_mode() == "offline"
    file.write_text("machine example.org login user password x\n")
    assert wandb_mode() == "offline"
    file.write_text("machine api.wandb.ai login user password x\n")
    assert wandb_mode() == "online"
    file.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


def test_an_empty_project_is_refused() -> None:
    with pytest.raises(ConjointError, match=r"tracking\.project"):
        TrackingConfig(project="").validate()
