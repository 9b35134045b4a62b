"""Verdicts in words: the summary of a file, one row explained, and how far grading is."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from conjoint.envs.types import Outcome
from conjoint.rewards.text.quoting import printable
from conjoint.rl.run.console import RunConsole, duration
from conjoint.scripts.grade.config import GradeConfig
from conjoint.scripts.grade.verdict import BAD_REFERENCE, Verdict

_SHOWN = 600


def summary_words(
    cfg: GradeConfig, verdicts: Sequence[Verdict], skipped: Mapping[str, int] | None = None
) -> list[str]:
    """How many of each status, the mean of what was scored, and how many rows of other kinds were
    skipped."""
    counts = Counter(v.status.value for v in verdicts)
    scores = [v.score for v in verdicts if v.score is not None]
    bad = sum(BAD_REFERENCE in v.reasons for v in verdicts)
    parts = [f"{counts[status]:,} {status}" for status in Outcome if counts[status]]
    lines = [f"{cfg.title}: {len(verdicts):,} rows: {', '.join(parts)} -> {cfg.output}"]
    if scores:
        lines.append(f"mean score {fmean(scores):.4f} of {len(scores):,} scored rows")
    if bad:
        lines.append(f"rows with a reference that no answer can be graded by: {bad:,}")
    if counts[Outcome.INFRA_ERROR]:
        lines.append(
            f"rows that our side failed to grade, with reasons in the output: "
            f"{counts[Outcome.INFRA_ERROR]:,}"
        )
    if skipped:
        kinds = ", ".join(f"{printable(kind)} {count:,}" for kind, count in skipped.items())
        lines.append(f"rows of other kinds, skipped: {sum(skipped.values()):,} ({kinds})")
    return lines


def verdict_words(cfg: GradeConfig, verdict: Verdict, others: Sequence[Verdict]) -> list[str]:
    row, score = verdict.row, verdict.score
    worth = "no score" if score is None else f"score {score:g}"
    lines = [
        printable(f"row {row.id} (line {row.line}), kind {row.task.kind}, graded by {cfg.title}"),
        *_block("prompt", row.task.prompt),
        *_block("reference", _as_text(row.task.reference)),
        *_block("response", row.response),
        f"verdict: {verdict.status.value}, {worth}: {_meaning(cfg, verdict)}",
        *(f"  because {printable(reason)}" for reason in verdict.reasons),
    ]
    if cfg.pairwise:
        scores = ", ".join("none" if v.score is None else f"{v.score:g}" for v in others)
        lines.append(
            f"compared with {len(others)} answers of its group, whose scores are: {scores}"
        )
    return lines


def _meaning(cfg: GradeConfig, verdict: Verdict) -> str:
    if BAD_REFERENCE in verdict.reasons:
        return "its reference cannot be graded by; `conjoint train` refuses the row"
    if verdict.status is Outcome.ABSTAIN:
        return "no reward grades it; a run masks the answer"
    if verdict.score is None:
        return "our machinery failed; a run masks the answer"
    at = "at least" if verdict.score >= cfg.pass_threshold else "below"
    words = {
        Outcome.TIMEOUT: ", and the response's own program or formula took too long",
        Outcome.ERROR: ", and the response's own program or formula broke",
    }
    return f"{at} pass_threshold {cfg.pass_threshold:g}{words.get(verdict.status, '')}"


def _block(title: str, text: str) -> list[str]:
    shown = printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ...")
    more = f" ({len(text):,} characters)" if len(text) > _SHOWN else ""
    return [f"{title}{more}:", *(f"  | {line}" for line in shown.split("\n"))]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


class Progress:
    """How many rows are graded: a status line of a terminal, else a line now and then."""

    def __init__(self, total: int) -> None:
        self._console = RunConsole(1)
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._next_s = 1.0

    def add(self, rows: int) -> None:
        self._done += rows
        seconds = time.monotonic() - self._started
        left = (self._total - self._done) * seconds / self._done
        words = f"graded {self._done:,} of {self._total:,} rows, {duration(left)} left"
        self._console.phase(words)
        if not self._console.is_terminal and seconds >= self._next_s:
            # A tenth of the time so far: a log of hours stays short.
            self._next_s = seconds + min(60.0, max(1.0, seconds / 10))
            self._console.message(words)

    def finish(self) -> None:
        self._console.finish()
