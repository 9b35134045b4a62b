"""`conjoint bench learner`: our learner against TRL's, interleaved in one process. Heavy."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from conjoint.envs.types import ConjointError, Group
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.batch import Batch, make_batch
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.models.resolve import resolve_model
from conjoint.rl.models.shape import ModelShape
from conjoint.scripts.bench.config import BenchRun, against_targets
from conjoint.scripts.bench.learner.head import HeadBench
from conjoint.scripts.bench.learner.random_groups import groups
from conjoint.scripts.bench.learner.trl_step import TrlStep, padded_tokens

Runs = dict[str, list[float]]
_ONE_CPU_RANK: dict[str, Any] = {"ranks": 1, "gpus_per_rank": 0, "dtype": "fp32", "zero_stage": 0}
"""What TRL's side is, so that ours must be too."""


def measure(cfg: BenchRun) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes minutes."""
    bench = cfg.bench
    folder = resolve_model(bench.model)
    if cfg.learner.attention.startswith("fl"):
        raise ConjointError("conjoint bench learner runs on CPU: set learner.attention=segments")
    if replace(cfg.learner, **_ONE_CPU_RANK) != cfg.learner:
        kept = ", ".join(f"learner.{key}={value}" for key, value in _ONE_CPU_RANK.items())
        raise ConjointError(f"conjoint bench learner compares one rank on CPU; leave {kept}")
    vocab = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    made = groups(bench, folder, vocab, cfg.seed)
    head = HeadBench(folder, bench.head_tokens, cfg.learner.logits_bytes)
    peaks, times = head.runs(bench.repeats)
    del head
    steps = _steps(cfg, folder, made)
    tokens = sum(len(t.tokens) for g in made for t in g.trajectories)
    trained = sum(t.num_sampled for g in made for t in g.trajectories)
    padding = padded_tokens(made) / tokens
    ours = "shared" if cfg.learner.share_prompts else "packed"
    values = {
        "head_memory": (_ratio(peaks, "ours", "table"), peaks),
        "head_time": (_ratio(times, "ours", "table"), times),
        "packing": (_ratio(steps, "trl", "packed") / padding, steps),
        "tokens_per_second": (_ratio(steps, "trl", ours), steps),
    }
    rates = {name: trained / median(runs) for name, runs in steps.items()}
    return {
        "ratios": against_targets(values, bench.targets),
        "setting": {
            "model": bench.model,
            "lengths": bench.rows or "drawn",
            "threads": cfg.learner.threads,
            "sequences": bench.groups * bench.group_size,
            "tokens": tokens,
            "trained_tokens": trained,
            "padded_over_real_tokens": padding,
            "trained_tokens_per_second": rates,
        },
    }


def _ratio(runs: Runs, over: str, under: str) -> float:
    return median(runs[over]) / median(runs[under])


def _steps(cfg: BenchRun, folder: Path, made: list[Group]) -> Runs:
    """Seconds of a whole update on the same groups, by TRL and by us, packed and prefix-shared."""
    learner = cfg.learner
    rank = LearnerRank(folder, learner, cfg.optim, LossConfig("dapo", clip_high=0.28), 1000)
    cost = ModelShape.cost_of(folder)

    def batch(shared: bool) -> Batch:
        cut = replace(learner, share_prompts=shared, updates_per_batch=1)
        return make_batch(made, [], cut, 0.0, cost)

    with tempfile.TemporaryDirectory(prefix="conjoint-bench-") as workdir:
        trl = TrlStep(folder, Path(workdir), cfg.optim.lr)
        variants: dict[str, Callable[[], Any]] = {
            "trl": lambda: trl(made),
            "packed": lambda: rank.step(batch(False), 0),
            "shared": lambda: rank.step(batch(True), 0),
        }
        runs: Runs = {name: [] for name in variants}
        # One round that is not counted: first calls allocate, and build the optimizer's state.
        for number in range(cfg.bench.repeats + 1):
            for name, run in variants.items():
                begin = time.perf_counter()
                run()
                if number:
                    runs[name].append(time.perf_counter() - begin)
    return runs
