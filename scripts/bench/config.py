"""What `conjoint bench` measures and the targets it is held against. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import compose, from_dict
from conjoint.rl.config.tree import Config

TARGETS = {
    "head_memory": 0.25,
    "head_time": 1.4,
    "packing": 1.0,
    "tokens_per_second": 1.5,
}
"""Targets of `conjoint bench learner`."""
REWARD_TARGETS = {
    "fork_namespaces": 150.0,
    "fork_landlock": 250.0,
    "exec_namespaces": 60.0,
    "exec_landlock": 60.0,
    "overhead_ms_namespaces": 15.0,
    "overhead_ms_landlock": 15.0,
    "soak_left_namespaces": 0.0,
    "soak_left_landlock": 0.0,
    "soak_growth_mb_namespaces": 4.0,
    "soak_growth_mb_landlock": 4.0,
    "math_speedup": 15.0,
    "math_wrong_more": 0.0,
    "math_slowest_s": 2.0,
}
"""Targets of `conjoint bench rewards`. Jail: programs a second, milliseconds that its median adds
to a bare fork's, resources left behind and MB of growth after a soak. Mathematics: verdicts a
second over math-verify's, wrong verdicts beyond its own, and seconds of the slowest verdict."""
PARTS = ("generation", "sync", "prefix", "joint")
"""Parts of `conjoint bench rollout`; each can be measured alone."""
ROLLOUT_TARGETS = {
    "generation_time": 1.03,
    "sync_over_reload": 1.3,
    "sync_over_file": 1.0,
    "group_hits": 0.99,
    "judge_hits": 0.99,
    "joint_speedup": 1.7,
}
"""Targets of `conjoint bench rollout`: our time over that of bare vLLM; cached over cacheable
prompt tokens; trained tokens a second over those of TRL's GRPOTrainer."""
JOINT_TARGETS = {"judge_overhead": 1.35, "judge_shared_hits": 0.8}
"""Targets of `conjoint bench joint`: time of a step with judged groups over a step without; cached
tokens of the judge's prompts over the tokens before the first that differs."""
SCHEDULER_TARGETS = {"controller_us": 200.0, "occupancy": 0.9}
"""Targets of `conjoint bench scheduler`: microseconds of the controller for an answer; share of the
engines' places that are taken, where 1 is the bound of continuous batching."""
TEXT_TARGETS = {"slope": 1.15}
"""Target of `conjoint bench text`, of every reader of a policy's text: the slope of log time
against log length, where 1 is linear."""
ALL_TARGETS = TARGETS | REWARD_TARGETS | ROLLOUT_TARGETS | JOINT_TARGETS | SCHEDULER_TARGETS
ALL_TARGETS |= TEXT_TARGETS
_MOST = ("overhead_ms", "soak_left", "soak_growth_mb", "math_wrong", "math_slowest")
AT_MOST = (
    "head_memory",
    "head_time",
    "generation_time",
    "sync_over_reload",
    "sync_over_file",
    "controller_us",
    "judge_overhead",
    *(n for n in REWARD_TARGETS if n.startswith(_MOST)),
)
"""The others are at least."""


def at_most(name: str) -> bool:
    """Whether a target bounds the figure of that name from above."""
    return name in AT_MOST or name.startswith("slope")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """`conjoint bench`: sizes and targets. What is measured is set by its own keys, `learner`,
    `sandbox` or `rollout`."""

    model: str = "smollm2-135m"
    """smollm2-135m, nano (`rollout` and `joint`), or a folder that from_pretrained opens."""
    rows: str | None = None
    """A .jsonl file of GSM8K's columns, question and answer, whose lengths are taken; null draws
    lengths from a distribution like them."""
    groups: int = 2
    group_size: int = 8
    repeats: int = 2
    """Each repeat times every variant once, one after the other; medians are compared."""
    head_tokens: int = 1024
    """Trained tokens of the loss head's own measurement."""
    programs: int = 200
    """`rewards`: programs of each round."""
    problems: int = 64
    """`rewards`: problems of the mathematics part, each with `group_size` answers."""
    soak: int = 0
    """`rewards`: jobs of the soak, at the end; 0 leaves it out."""
    characters: int = 1_000_000
    """`text`: characters of the longest text."""
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """`rollout`: what is measured, in this order: generation, sync, prefix, joint."""
    prompts: int = 8
    """`rollout`, `joint`: prompts of a round, each with `group_size` answers."""
    prompt_tokens: int = 96
    """`rollout`: random tokens of each prompt of `generation` and `prefix`."""
    answer_tokens: int = 64
    """`rollout`, `joint`: tokens of every answer; none ends earlier."""
    reply_tokens: int = 2
    """`joint`: tokens of every reply of the judge: a letter, and the token that ends it."""
    targets: dict[str, float] = field(default_factory=lambda: dict(ALL_TARGETS))

    def validate(self) -> None:
        for key in (
            *("groups", "repeats", "head_tokens", "programs", "problems"),
            *("prompts", "prompt_tokens", "answer_tokens", "reply_tokens", "characters"),
        ):
            if getattr(self, key) < 1:
                raise ConjointError(f"bench.{key} must be at least 1, not {getattr(self, key)}")
        if self.group_size < 2:
            raise ConjointError(f"bench.group_size must be at least 2, not {self.group_size}")
        if self.soak < 0:
            raise ConjointError(f"bench.soak must be 0 (no soak) or more, not {self.soak}")
        if not self.parts or (unknown := sorted(set(self.parts) - set(PARTS))):
            given = unknown[0] if self.parts else "[]"
            raise ConjointError(f"bench.parts={given} is not measured; choose among {list(PARTS)}")
        if unknown := sorted(set(self.targets) - set(ALL_TARGETS)):
            raise ConjointError(
                f"bench.targets.{unknown[0]} is not measured; choose among {sorted(ALL_TARGETS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRun(Config):
    """A run's config and what a benchmark measures of it."""

    bench: BenchConfig = field(default_factory=BenchConfig)


def load_bench(overrides: Sequence[str]) -> BenchRun:
    """Compose and validate as for a run. Raises ConjointError."""
    return from_dict(compose(overrides, root=BenchRun), BenchRun)


Runs = dict[str, list[float]]
"""Variant -> what was measured in each round."""
Figures = dict[str, tuple[float, Runs]]
"""Name -> the value and what it comes from."""


def against_targets(figures: Figures, targets: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The figures that have a target, as the file holds them: {NAME: {value, target, met, runs}}"""
    return {
        name: {
            "value": value,
            "target": targets[name],
            "met": value <= targets[name] if at_most(name) else value >= targets[name],
            "runs": [runs],
        }
        for name, (value, runs) in figures.items()
        if name in targets
    }
