"""summary.json: the run's outcome for scripts, computed from the files of the run folder."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from conjoint.envs.text import to_json
from conjoint.rl.report.load import RunData, load_run, sort_kinds, task_scores
from conjoint.rl.run.console import PHASES
from conjoint.rl.run.folder import RunFolder, write_atomically
from conjoint.rl.stats.calibration import calibration_change, from_rows, stated_pairs
from conjoint.rl.stats.intervals import Interval, mean_interval, paired_difference

Comparison = dict[str, dict[str, float] | None]
"""{start, end, diff}: intervals as dicts; null where the run has no such evaluation."""


def write_summary(
    run: RunFolder,
    *,
    engine: str,
    learner: str,
    wall_s: float,
    best: tuple[int, float] | None = None,
) -> dict[str, Any]:
    """Writes and returns summary.json.

    {heldout: {KIND: {start: {mean, lo, hi, n}, end: {...}, diff: {...}}}, greedy: {same},
    calibration: {KIND: {start: {brier, ...}, end: {...}, diff: {brier: {mean, lo, hi, n}, ...}}},
    calibration_greedy: {same}, judge: {start, end, diff}, ptx: {start, end, diff},
    best_checkpoint: {step, mean} or null,
    versions, engine, learner, wall_s, time_split, steps}

    `calibration` is {} where no confidence is stated; its figures are those of
    `conjoint.rl.stats.calibration.Calibration`. `ptx` is the mean cross-entropy of held-out
    PTX rows in nats a token, {} if it was not measured.
    `engine` and `learner` name what sampled and what trained; `best` is the step and the held-out
    mean of the checkpoint that checkpoint.keep_best kept. `time_split` is the
    wall seconds of all steps by phase.
    """
    data = load_run(run.path)
    summary = {
        "heldout": compare_kinds(data, "start", "end"),
        "greedy": compare_kinds(data, "start_greedy", "end_greedy"),
        "calibration": compare_calibration(data, "start", "end"),
        "calibration_greedy": compare_calibration(data, "start_greedy", "end_greedy"),
        "judge": compare_judge(data),
        "ptx": compare_ptx(data),
        "best_checkpoint": {"step": best[0], "mean": best[1]} if best else None,
        "versions": data.versions,
        "engine": engine,
        "learner": learner,
        "wall_s": wall_s,
        "time_split": time_split(data),
        "steps": len(data.metrics),
    }
    write_atomically(run.summary, to_json(summary, indent=2) + "\n")
    return summary


def outcome(summary: Mapping[str, Any]) -> dict[str, float]:
    """The means of `write_summary`'s comparisons, flat: heldout/math/end, judge/diff, ..."""
    comparisons = {
        f"{name}/{kind}": found
        for name in ("heldout", "greedy")
        for kind, found in summary[name].items()
    } | {"judge": summary["judge"]}
    means = {
        f"{name}/{when}": interval["mean"]
        for name, found in comparisons.items()
        for when, interval in found.items()
        if interval
    }
    stated = {
        f"calibration/{kind}/{when}/{name}": found[when][name]
        for kind, found in summary["calibration"].items()
        for when in ("start", "end")
        for name in ("brier", "constant_brier", "ece", "auroc")
        if found[when] and found[when][name] is not None
    }
    ptx = {f"ptx/{when}": loss for when, loss in summary["ptx"].items() if loss is not None}
    return means | stated | ptx


def compare_kinds(data: RunData, start: str, end: str) -> dict[str, Comparison]:
    """One comparison for each kind found under either tag; {} if there is neither evaluation."""
    before, after = data.evals.get(start, []), data.evals.get(end, [])
    kinds = sort_kinds({row["kind"] for row in [*before, *after]})
    return {kind: _compare(task_scores(before, kind), task_scores(after, kind)) for kind in kinds}


def compare_calibration(data: RunData, start: str, end: str) -> dict[str, dict[str, Any]]:
    """{KIND: {start, end, diff}} of the kinds that state a confidence, {} if there are none."""
    found = {}
    for kind in sort_kinds(
        {row["kind"] for tag in (start, end) for row in data.evals.get(tag, [])}
    ):
        before, after = (
            [row for row in data.evals.get(tag, []) if row["kind"] == kind] for tag in (start, end)
        )
        first, last = from_rows(before), from_rows(after)
        if first or last:
            change = calibration_change(stated_pairs(before), stated_pairs(after))
            found[kind] = {
                "start": asdict(first) if first else None,
                "end": asdict(last) if last else None,
                "diff": {k: _as_dict(v) for k, v in change.items()} if change else None,
            }
    return found


def compare_judge(data: RunData) -> Comparison | dict[str, Any]:
    """The judge's accuracy on the fixed verifiable pairs, {} if it was not measured."""
    before = task_scores(data.evals.get("judge_start", []))
    after = task_scores(data.evals.get("judge_end", []))
    return _compare(before, after) if before or after else {}


def compare_ptx(data: RunData) -> dict[str, float | None]:
    """Held-out PTX loss before the first step and after the last one that measured it."""
    losses = dict(data.series("ptx/heldout_loss"))
    if not losses:
        return {}
    start = losses.pop(0.0, None)
    end = losses[max(losses)] if losses else None
    diff = end - start if start is not None and end is not None else None
    return {"start": start, "end": end, "diff": diff}


def time_split(data: RunData) -> dict[str, float]:
    """Seconds by phase over all steps; {} if no time was logged."""
    seconds = {p: sum(v for _, v in data.series(f"time/{p}")) for p in PHASES}
    return seconds if any(seconds.values()) else {}


def _compare(start: dict[str, float], end: dict[str, float]) -> Comparison:
    both = sorted(start.keys() & end.keys())
    return {
        "start": _interval(start),
        "end": _interval(end),
        "diff": _as_dict(paired_difference([start[t] for t in both], [end[t] for t in both]))
        if both
        else None,
    }


def _interval(scores: dict[str, float]) -> dict[str, float] | None:
    return _as_dict(mean_interval(list(scores.values()))) if scores else None


def _as_dict(interval: Interval) -> dict[str, float]:
    return asdict(interval)
