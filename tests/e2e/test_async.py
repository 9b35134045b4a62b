"""The joint loop on real engines when it samples ahead, with two workers.

Updates under answers in flight are shown on vLLM in tests/e2e/test_in_flight.py."""

import json
import signal
from pathlib import Path

import pytest

from conjoint.envs.nano.sources import SOURCES
from conjoint.rl.run.folder import read_jsonl
from tests.e2e.conftest import PLAIN, SMALL, conjoint, interrupted, left_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
BOUND = 2
AHEAD = [
    *SMALL,
    *PLAIN,
    "num_steps=6",
    "rollout.engines=2",
    "rollout.threads=1",
    f"rollout.max_staleness={BOUND}",
    "eval.tasks=0",
    "eval.judge_pairs=0",
]


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    """A run that samples two steps ahead, stopped after its third step and resumed."""
    path = runs / "ahead"
    stopped, started = interrupted(
        signal.SIGINT, lambda: len(steps(path)) >= 3, "quickstart", *AHEAD, f"run_dir={path}"
    )
    assert stopped.code == 128 + signal.SIGINT, stopped.output
    assert not left_running(started)
    ended = conjoint("train", f"resume={path}")
    assert ended.code == 0, ended.output
    return path


def steps(path: Path) -> list[dict]:
    return [r for r in read_jsonl(path / "metrics.jsonl") if "loss/policy" in r]


def rollouts(path: Path) -> list[tuple[int, dict]]:
    """(step, weights trained) of every answer."""
    return [
        (step, row)
        for step in range(6)
        for row in read_jsonl(path / "rollouts" / f"step-{step + 1:06d}.jsonl")
    ]


def test_no_token_is_older_than_the_bound_and_some_are_as_old(run: Path):
    ages = [step - v for step, row in rollouts(run) for v in row["versions"] if v >= 0]
    assert min(ages) >= 0 and max(ages) == BOUND
    assert max(m["staleness/max"] for m in steps(run)) == BOUND


def test_every_step_has_its_groups_and_both_workers_served(run: Path):
    assert [m["step"] for m in steps(run)] == list(range(1, 7))
    per_step = [step for step, _ in rollouts(run)]
    assert [per_step.count(step) for step in range(6)] == [32] * 6
    assert len({row["engine"] for _, row in rollouts(run)}) == 2


def test_no_task_is_lost_or_trained_twice(run: Path):
    """Neither by the interruption nor by the answers that updates or the resume took out."""
    asked = [r["task_id"] for _, r in rollouts(run) if r["member"] == 0 and r["kind"] == "math"]
    source = SOURCES["math"]("train", 0)
    assert asked == [source.task(i).id for i in range(len(asked))]


def test_engine_and_learner_agree_on_what_the_newest_weights_drew(run: Path):
    gaps = [m["gap/max"] for m in steps(run) if "gap/max" in m]
    assert gaps and max(gaps) < 1e-3


def test_the_report_shows_the_ages(run: Path):
    assert "Age of the tokens" in (run / "report.html").read_text(encoding="utf-8")
    assert json.loads((run / "summary.json").read_text())["steps"] == 6
