"""What is kept and said of an evaluation: a row an answer, figures of a suite, the folder.

Rows are also input of `conjoint grade`: they hold kind, messages, reference and response.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from conjoint.envs.text import to_json
from conjoint.envs.types import ConjointError, Group, Outcome, Status, Trajectory
from conjoint.rl.run.console import duration
from conjoint.rl.run.folder import write_atomically, write_jsonl
from conjoint.rl.run.versions import collect_versions
from conjoint.rl.stats.calibration import Calibration, calibration_words, from_rows, stated_fields
from conjoint.rl.stats.intervals import Interval, clustered_interval, mean_of_intervals, pass_at_k
from conjoint.scripts.eval.grader import TOO_LONG, Sampling

Row = Mapping[str, Any]


def answer_rows(group: Group, *, grade_truncated: bool) -> list[dict[str, Any]]:
    """One row for each answer of a scored group, in order.

    `ended` is completed, truncated, too_long or failed; `verdict` is the reward's own value, and
    `score` what counts: 0 for an answer that was cut off, unless `grade_truncated`.
    """
    task = group.task
    rows = []
    for k, t in enumerate(group.trajectories):
        ended = TOO_LONG if TOO_LONG in t.metrics else str(t.status)
        verdict, score, outcome, reasons = _verdict(t, ended, grade_truncated=grade_truncated)
        rows.append(
            {
                "id": f"{task.id}#{k}",
                "group": task.id,
                "index": group.index,
                "sample": k,
                "kind": task.kind,
                "messages": task.messages,
                "reference": task.reference,
                "response": t.response,
                "ended": ended,
                "score": score,
                "status": outcome,
                "reasons": reasons,
                "verdict": verdict,
                "num_tokens": int(t.metrics.get("tokens", 0)),
                "prompt_tokens": int(t.metrics.get("prompt_tokens", 0)),
                **stated_fields(t),
            }
        )
    return rows


def _verdict(
    t: Trajectory, ended: str, *, grade_truncated: bool
) -> tuple[float | None, float | None, Outcome, list[str]]:
    """(verdict, score, outcome, reasons) of one answer."""
    if t.status is Status.FAILED:
        return None, None, Outcome.INFRA_ERROR, [f"no answer was had: {t.response}"]
    if ended == TOO_LONG:
        return None, 0.0, Outcome.FAIL, ["the prompt leaves no room for an answer in the context"]
    reasons = [reason for s in t.scores for reason in s.reasons]
    values = [s.value for s in t.checks if s.value is not None]
    if not values or len(values) < len(t.checks):
        return None, None, Outcome.INFRA_ERROR, reasons
    verdict = fmean(values)
    if t.status is Status.TRUNCATED and not grade_truncated:
        cut = f"cut off after {int(t.metrics['tokens'])} tokens, which scores 0"
        return verdict, 0.0, Outcome.FAIL, [cut, *reasons]
    outcome = next((s.outcome for s in t.checks if s.outcome is not Outcome.PASS), Outcome.PASS)
    return verdict, verdict, outcome, reasons


def suite_figures(rows: Sequence[Row], k: int) -> dict[str, Any]:
    """Figures of one suite from its rows, k answers a task.

    `avg` and `pass` (by k') are {mean, lo, hi, n} with tasks as units. Answers without a score are
    left out and counted as `masked`; a task with fewer than k' scored ones is left out of pass@k'.
    None where nothing was scored. `calibration` is there where a confidence was asked for, None if
    no graded answer states one.
    """
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row["group"], []).append(row)
    scores = [[r["score"] for r in task if r["score"] is not None] for task in tasks.values()]
    sampled = [[r for r in task if r["ended"] != Status.FAILED] for task in tasks.values()]
    stated, asked = from_rows(rows), any("confidence" in row for row in rows)
    cut = [fmean(r["ended"] != Status.COMPLETED for r in task) for task in sampled if task]
    return {
        "tasks": len(tasks),
        "answers": len(rows),
        "k": k,
        "avg": _interval([fmean(s) for s in scores if s], k),
        "pass": {
            str(j): _interval(
                [pass_at_k(len(s), sum(v >= 1.0 for v in s), j) for s in scores if len(s) >= j], k
            )
            for j in range(1, k + 1)
        },
        "truncated": _interval(cut, k),
        "too_long": sum(r["ended"] == TOO_LONG for r in rows),
        "masked": sum(r["score"] is None for r in rows),
        "mean_tokens": fmean([r["num_tokens"] for task in sampled for r in task] or [0]),
        **({"calibration": stated and asdict(stated)} if asked else {}),
    }


def overall_figures(suites: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over suites, each with the same weight; a figure that a suite lacks is None."""
    ks = next(iter(suites.values()))["pass"]
    return {
        "suites": list(suites),
        "avg": _mean([s["avg"] for s in suites.values()]),
        "pass": {j: _mean([s["pass"][j] for s in suites.values()]) for j in ks},
        "truncated": _mean([s["truncated"] for s in suites.values()]),
        "too_long": sum(s["too_long"] for s in suites.values()),
        "masked": sum(s["masked"] for s in suites.values()),
    }


def _interval(means: Sequence[float], k: int) -> dict[str, Any] | None:
    return asdict(clustered_interval(means, k)) if means else None


def _mean(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    there = [Interval(**part) for part in parts if part is not None]
    return asdict(mean_of_intervals(there)) if len(there) == len(parts) else None


# -- in words ----------------------------------------------------------------------------------


def suite_words(name: str, figures: Mapping[str, Any], sampling: Sampling) -> list[str]:
    """The figures of a suite in lines of text."""
    k = sampling.k
    answers = "1 answer" if k == 1 else f"{k} answers"
    setting = f"temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens"
    cut = figures["truncated"]
    counts = [
        f"{cut['mean']:.1%} cut off" if cut else "none answered",
        f"{figures['too_long']} prompt(s) too long" if figures["too_long"] else "",
        f"{figures['masked']} not graded" if figures["masked"] else "",
        f"{figures['mean_tokens']:.0f} tokens an answer",
        duration(figures["seconds"]),
    ]
    return [
        f"{name}: {figures['tasks']} tasks x {answers}, {setting}",
        *_measure_words(figures, k),
        *(f"  {line}" for line in _calibration_words(figures)),
        f"  {', '.join(filter(None, counts))}",
    ]


def overall_words(figures: Mapping[str, Any], k: int) -> list[str]:
    names = figures["suites"]
    return [
        f"overall: mean of {len(names)} suites ({', '.join(names)})",
        *_measure_words(figures, k),
    ]


def _measure_words(figures: Mapping[str, Any], k: int) -> Iterator[str]:
    shown = [j for j in range(1, k + 1) if j == k or j & (j - 1) == 0]  # powers of two, and k
    yield f"  avg@{k:<4} {_value(figures['avg'])}"
    for j in shown:
        yield f"  pass@{j:<3} {_value(figures['pass'][str(j)])}"


def _calibration_words(figures: Mapping[str, Any]) -> list[str]:
    """What the confidences are worth, and what was said and right by bin; [] if none was asked
    for."""
    if "calibration" not in figures:
        return []
    if (found := figures["calibration"]) is None:
        return [calibration_words(None)]
    bins = [
        f"  {b['lo']:.2f} to {b['hi']:.2f}: said {b['confidence']:.2f}, right {b['accuracy']:.2f}, "
        f"{b['n']} answer(s)"
        for b in found["bins"]
    ]
    return [calibration_words(Calibration(**found)), *bins]


def _value(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "   -   (nothing was graded)"
    return f"{interval['mean']:.4f}  [{interval['lo']:.4f}, {interval['hi']:.4f}]"


INTERVAL_WORDS = (
    "[ ] 95 % intervals, clustered by task: Wilson's at the effective sample size of the tasks; "
    "overall: the suites' combined by square-and-add"
)


# -- the folder --------------------------------------------------------------------------------


class EvalFolder:
    """config.yaml, versions.json, SUITE.jsonl and summary.json of one evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def plan(output: str, model: str) -> "EvalFolder":
        """Where the results will be: a folder that is empty or not there yet. Raises ConjointError
        if `output` holds anything or cannot be one."""
        path = Path(output) if output else _unused(model)
        try:
            taken = path.exists() and any(path.iterdir())
        except OSError as error:
            raise ConjointError(f"output={path} cannot be a folder: {error.strerror}") from error
        if taken:
            raise ConjointError(
                f"output={path} holds something already and is not overwritten; name a new folder"
            )
        return EvalFolder(path)

    def claim(self, config: Mapping[str, Any]) -> None:
        """Make the folder; of two evaluations into one, one wins. Raises ConjointError."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / "config.yaml").open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConjointError(f"output={self.path} cannot be made: {error.strerror}") from error
        write_atomically(self.path / "versions.json", to_json(collect_versions(), indent=2) + "\n")

    def append(self, suite: str, rows: Sequence[Row]) -> None:
        """Keep what is done, should the command end early."""
        with (self.path / f"{suite}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(to_json(row) + "\n" for row in rows)

    def write_suite(self, suite: str, rows: Sequence[Row]) -> None:
        """All rows of a suite, in the order of its tasks."""
        write_jsonl(self.path / f"{suite}.jsonl", rows)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.path / "summary.json", to_json(summary, indent=2) + "\n")


def _unused(model: str) -> Path:
    name = Path(model).name or "model"
    path = Path("evals") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidate, n = path, 2
    while candidate.exists():
        candidate, n = path.with_name(f"{path.name}-{n}"), n + 1
    return candidate
