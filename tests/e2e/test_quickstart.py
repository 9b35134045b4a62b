"""The joint loop on real engines: a whole run, and one that is interrupted and resumed."""

import hashlib
import json
import re
import signal
from pathlib import Path

import pytest

from conjoint.rl.run.folder import read_jsonl
from tests.e2e.conftest import SMALL, Ended, conjoint, interrupted, left_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


SHORT = [*SMALL, "num_steps=3", "checkpoint.every=1", "eval.tasks=8"]
Sittings = tuple[Path, Ended, list[str]]
"""Run folder, the interrupted sitting, and the processes that it left behind."""


@pytest.fixture(scope="module")
def both(runs: Path) -> tuple[Path, Sittings]:
    """A run from start to end, and the same run in two sittings."""
    path = runs / "whole"
    ended = conjoint("quickstart", *SHORT, f"run_dir={path}", timeout=900)
    sittings = sit_twice(runs / "resumed")
    assert ended.code == 0, ended.output
    assert re.search(r"report: .*report\.html", ended.output) and "next:" in ended.output
    assert "(raylet)" not in ended.output, "Ray reports deaths that are none"
    return path, sittings


def sit_twice(path: Path) -> Sittings:
    """A run stopped by SIGTERM after step 1, then ended. (Ctrl-C: tests/e2e/test_async.py.)"""
    stopped, started = interrupted(
        signal.SIGTERM, lambda: len(steps_of(path)) >= 1, "quickstart", *SHORT, f"run_dir={path}"
    )
    left = left_running(started)
    last = conjoint("train", f"resume={path}")
    assert last.code == 0, last.output
    return path, stopped, left


def steps_of(path: Path) -> list[dict]:
    """Metrics of the steps done, without the evaluations' own rows."""
    return [r for r in read_jsonl(path / "metrics.jsonl") if "loss/policy" in r]


@pytest.fixture(scope="module")
def whole(both: tuple[Path, Sittings]) -> Path:
    return both[0]


@pytest.fixture(scope="module")
def resumed(both: tuple[Path, Sittings]) -> Sittings:
    return both[1]


def test_the_run_folder_is_complete(whole: Path):
    names = {p.name for p in whole.iterdir()}
    assert {"config.yaml", "versions.json", "metrics.jsonl", "summary.json", "report.html"} <= names
    assert len(steps_of(whole)) == 3
    rows = read_jsonl(whole / "rollouts" / "step-000001.jsonl")
    assert len(rows) == 32 and all(r["scores"] for r in rows)
    assert {"math", "code", "instruction"} <= set(
        json.loads((whole / "summary.json").read_text())["heldout"]
    )


def test_all_four_parts_of_the_loss_and_the_gap_are_in_the_metrics(whole: Path):
    last = steps_of(whole)[-1]
    for name in ("loss/policy", "loss/ptx", "reward/math", "reward/open", "truncated/code"):
        assert name in last, name
    assert last["gap/max"] < 1e-3 and last["judge/calls"] > 0
    assert any("reward/critic" in row for row in read_jsonl(whole / "metrics.jsonl"))


def test_the_checkpoint_opens_in_transformers_and_differs_from_the_start(whole: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, last = (whole / "checkpoints" / f"step-00000{n}" / "hf" for n in (2, 3))
    model = AutoModelForCausalLM.from_pretrained(last)
    assert AutoTokenizer.from_pretrained(last).chat_template
    assert sum(p.numel() for p in model.parameters()) > 500_000
    assert weights(first) != weights(last)


def test_an_interrupt_exits_with_the_signals_code_and_leaves_nothing_behind(resumed):
    path, stopped, left = resumed
    assert stopped.code == 128 + signal.SIGTERM, stopped.output
    assert f"resume={path}" in stopped.output
    for part in ("raylet", "VLLM", "ray::RankActor"):
        assert any(part in name for name in stopped.names), (part, stopped.names)
    assert not left


def test_interrupted_equals_uninterrupted(whole: Path, resumed):
    check_equal(resumed[0], whole)
    # It holds although the engine serves prompts from its prefix cache; the judge's fill its blocks
    # whatever the policy says.
    assert any(m.get("engine/prefix_hits", 0) > 0 for m in steps_of(whole))


@pytest.mark.proof
def test_interrupted_twice_equals_uninterrupted(whole: Path, runs: Path):
    """SIGTERM after the first step, Ctrl-C after the second."""
    path = runs / "twice"
    for number, steps, words in (
        (signal.SIGTERM, 1, ("quickstart", *SHORT, f"run_dir={path}")),
        (signal.SIGINT, 2, ("train", f"resume={path}")),
    ):
        stopped, started = interrupted(number, lambda n=steps: len(steps_of(path)) >= n, *words)
        assert stopped.code == 128 + number, stopped.output
        assert not left_running(started)
    last = conjoint("train", f"resume={path}")
    assert last.code == 0, last.output
    check_equal(path, whole)


def check_equal(path: Path, whole: Path) -> None:
    """Both runs stored the same answers and ended with the same weights."""
    for step in range(1, 4):
        name = f"rollouts/step-{step:06d}.jsonl"
        for ours, theirs in zip(read_jsonl(path / name), read_jsonl(whole / name), strict=True):
            for key in ("task_id", "member", "tokens", "behavior_logprobs", "scores", "reward"):
                assert ours[key] == theirs[key], f"{name}: {ours} != {theirs}"
    final = "checkpoints/step-000003/hf"
    assert weights(path / final) == weights(whole / final)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
