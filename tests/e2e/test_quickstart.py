"""The joint loop on real engines: a whole run, and one that is interrupted twice and resumed."""

import hashlib
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conjoint.rl.run.folder import read_jsonl
from tests.e2e.conftest import SMALL, Ended, conjoint, interrupted, left_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


Sittings = tuple[Path, list[Ended], list[str]]
"""Run folder, the interrupted sittings, and the processes that these left behind."""


@pytest.fixture(scope="module")
def both(runs: Path) -> tuple[Path, Sittings]:
    """A run from start to end, and beside it the same run in three sittings: starting the engines
    leaves a core idle."""
    assert conjoint("sft").code == 0  # so that not both build nano
    path = runs / "whole"
    with ThreadPoolExecutor() as pool:
        run = pool.submit(conjoint, "quickstart", *SMALL, f"run_dir={path}", timeout=900)
        sittings = sit_three_times(runs / "resumed")
    ended = run.result()
    assert ended.code == 0, ended.output
    assert re.search(r"report: .*report\.html", ended.output) and "next:" in ended.output
    assert "(raylet)" not in ended.output, "Ray reports deaths that are none"
    return path, sittings


def sit_three_times(path: Path) -> Sittings:
    """A run stopped by SIGTERM after step 1 and by Ctrl-C after step 3, then ended."""

    def steps_done(count: int):
        return lambda: len(steps_of(path)) >= count

    first, started = interrupted(
        signal.SIGTERM, steps_done(1), "quickstart", *SMALL, f"run_dir={path}"
    )
    left = left_running(started)
    second, started = interrupted(signal.SIGINT, steps_done(3), "train", f"resume={path}")
    left += left_running(started)
    last = conjoint("train", f"resume={path}")
    assert last.code == 0, last.output
    return path, [first, second], left


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
    assert len(steps_of(whole)) == 4
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

    first, last = (whole / "checkpoints" / f"step-00000{n}" / "hf" for n in (2, 4))
    model = AutoModelForCausalLM.from_pretrained(last)
    assert AutoTokenizer.from_pretrained(last).chat_template
    assert sum(p.numel() for p in model.parameters()) > 500_000
    assert weights(first) != weights(last)


def test_interrupts_exit_with_the_signals_code_and_leave_nothing_behind(resumed):
    path, (terminated, stopped), left = resumed
    assert terminated.code == 128 + signal.SIGTERM, terminated.output
    assert stopped.code == 128 + signal.SIGINT, stopped.output
    assert f"resume={path}" in terminated.output
    for names in (terminated.names, stopped.names):
        for part in ("raylet", "VLLM", "ray::RankActor"):
            assert any(part in name for name in names), (part, names)
    assert not left


def test_interrupted_equals_uninterrupted(whole: Path, resumed):
    path = resumed[0]
    for step in range(1, 5):
        name = f"rollouts/step-{step:06d}.jsonl"
        for ours, theirs in zip(read_jsonl(path / name), read_jsonl(whole / name), strict=True):
            for key in ("task_id", "member", "tokens", "behavior_logprobs", "scores", "reward"):
                assert ours[key] == theirs[key], f"{name}: {ours} != {theirs}"
    final = "checkpoints/step-000004/hf"
    assert weights(path / final) == weights(whole / final)
    # It holds although the engine serves prompts from its prefix cache.
    rollouts = sorted((path / "rollouts").glob("*.jsonl"))
    assert any(hits_the_prefix_cache(read_jsonl(file)) for file in rollouts)


def hits_the_prefix_cache(rows: list[dict]) -> bool:
    """Whether members of one group share a prompt that fills a block of the cache (32 tokens)."""
    long = [r["group"] for r in rows if r["sampled"].index(1) > 32]
    return len(long) > len(set(long))


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
