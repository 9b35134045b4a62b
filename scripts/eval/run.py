"""`conjoint eval` from checked config to summary: suites one after the other on one policy."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from conjoint.envs.confidence import asking
from conjoint.envs.types import StopRun, Task
from conjoint.rl.run.console import RunConsole, duration
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.eval.config import SuitesConfig
from conjoint.scripts.eval.grader import Grader, Sampling, scored_groups
from conjoint.scripts.eval.results import (
    INTERVAL_WORDS,
    EvalFolder,
    answer_rows,
    overall_figures,
    overall_words,
    suite_figures,
    suite_words,
)
from conjoint.scripts.eval.suites import SUITES, read_suite


def read_tasks(cfg: SuitesConfig) -> dict[str, list[Task]]:
    """The tasks of every suite. Raises ConjointError for a file that is missing or wrong."""
    files = {name: cfg.file_of(name) for name in cfg.suite}
    return {name: read_suite(name, file, cfg.limit) for name, file in files.items()}


def sampling_of(cfg: SuitesConfig, suite: str) -> Sampling:
    max_tokens = cfg.max_tokens or SUITES[suite].max_tokens
    return Sampling(cfg.k, max_tokens, cfg.sampled_at, cfg.seed, cfg.concurrency, cfg.confidence)


def prompted(cfg: SuitesConfig, tasks: Mapping[str, Sequence[Task]]) -> list[tuple[Task, int]]:
    """Every task as the policy is asked it, with the tokens of its answer: what the context must
    hold."""
    return [
        (replace(t, messages=tuple(asking(t.messages))) if cfg.confidence else t, most)
        for suite, some in tasks.items()
        for most in [sampling_of(cfg, suite).max_tokens]
        for t in some
    ]


async def evaluate(
    cfg: SuitesConfig,
    tasks: Mapping[str, Sequence[Task]],
    policy: ChatPolicy,
    grader: Grader,
    folder: EvalFolder,
    console: RunConsole,
) -> dict[str, Any]:
    """Sample, grade, store and print every suite; returns what summary.json holds.

    Raises StopRun if nothing of a suite could be graded, once all is stored.
    """
    started, suites = time.monotonic(), {}
    for name in cfg.suite:
        suites[name] = await _suite(cfg, name, tasks[name], policy, grader, folder, console)
    overall = overall_figures(suites)
    if len(suites) > 1:
        for line in overall_words(overall, cfg.k):
            console.message(line)
    console.message(INTERVAL_WORDS)
    summary = {
        "model": cfg.model,
        "endpoint": cfg.endpoint or None,
        "seed": cfg.seed,
        "suites": suites,
        "overall": overall,
        "wall_s": time.monotonic() - started,
        "intervals": INTERVAL_WORDS,
    }
    folder.write_summary(summary)
    for name, figures in suites.items():
        if figures["avg"] is None:
            raise StopRun(
                f"no answer of suite {name} could be graded; the reasons are in "
                f"{folder.path / name}.jsonl"
            )
    return summary


async def _suite(
    cfg: SuitesConfig,
    name: str,
    tasks: Sequence[Task],
    policy: ChatPolicy,
    grader: Grader,
    folder: EvalFolder,
    console: RunConsole,
) -> dict[str, Any]:
    sampling, started = sampling_of(cfg, name), time.monotonic()
    progress = Progress(name, len(tasks), console)
    rows: list[dict[str, Any]] = []
    async for group in scored_groups(policy, grader, tasks, sampling, name):
        new = answer_rows(group, grade_truncated=cfg.grade_truncated)
        folder.append(name, new)
        rows += new
        progress.done(new)
    rows.sort(key=lambda row: (row["index"], row["sample"]))
    folder.write_suite(name, rows)
    console.finish()
    seconds = time.monotonic() - started
    figures = {**suite_figures(rows, cfg.k), "setting": asdict(sampling), "seconds": seconds}
    for line in suite_words(name, figures, sampling):
        console.message(line)
    return figures


class Progress:
    """A status line on a terminal; in a log one line for every tenth of the tasks."""

    def __init__(self, name: str, total: int, console: RunConsole) -> None:
        self._name, self._total, self._console = name, total, console
        self._done = self._tokens = 0
        self._scores: list[float] = []
        self._started = time.monotonic()

    def done(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """One more task is done, with these answers."""
        before, self._done = self._done, self._done + 1
        self._tokens += sum(row["num_tokens"] for row in rows)
        self._scores += [row["score"] for row in rows if row["score"] is not None]
        spent = time.monotonic() - self._started
        left = spent / self._done * (self._total - self._done)
        mean = f"{sum(self._scores) / len(self._scores):.3f}" if self._scores else "-"
        words = (
            f"{self._name} {self._done}/{self._total} tasks, mean score so far {mean}, "
            f"{self._tokens / max(spent, 1e-9):.0f} tok/s, {duration(left)} left"
        )
        self._console.phase(words)
        if not self._console.is_terminal and _tenth(before, self._total) < _tenth(
            self._done, self._total
        ):
            self._console.message(words)


def _tenth(done: int, total: int) -> int:
    return 10 * done // total
