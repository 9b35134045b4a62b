"""`conjoint compare`: what changed, on the same held-out tasks, pooled over runs (seeds).

Without other runs, the end of each run against its own start; with them, the end of each run
against the end of its partner. Refused where the two sides were not measured on the same set.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from conjoint.envs.types import ConjointError
from conjoint.rl.report.load import Row, RunData, task_scores
from conjoint.rl.report.open_check import CHECKS, open_checks, open_score, topic_of
from conjoint.rl.stats.calibration import from_rows, pooled_calibration_change, stated_pairs
from conjoint.rl.stats.intervals import Interval, Scores, pooled_difference

# Without the accuracy of answers that state one: that of all is a figure of its own.
_STATED = ("brier", "constant_brier", "ece", "auroc")

Rows = Sequence[Row]
Sides = Sequence[tuple[Rows, Rows]]
"""(before, after) of each run."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure: the means before and after, and the change with its 95 % interval over tasks.

    `each` is the change of every run by itself; `set_hash` names what it was measured on.
    """

    name: str
    before: float
    after: float
    change: Interval
    each: tuple[float, ...]
    set_hash: str


def compare(runs: Sequence[RunData], against: Sequence[RunData] = ()) -> list[Change]:
    """Every figure that both sides have. Raises ConjointError where nothing can be compared."""
    if against and len(against) != len(runs):
        raise ConjointError(
            f"{len(runs)} runs against {len(against)}: runs are compared in pairs; give as many"
        )
    _check_temperatures([*runs, *against])
    plain, greedy = (_sides(runs, against, name) for name in ("{}", "{}_greedy"))
    found = [
        *_by_kind(plain, lambda kind, sides: _mean(f"{kind} accuracy", sides, task_scores)),
        *_by_kind(
            greedy, lambda kind, sides: _mean(f"{kind} accuracy, greedy", sides, task_scores)
        ),
        *_by_kind(plain, _calibration),
        *_open(_sides(runs, against, "open_{}")),
        *_mean("judge accuracy", _sides(runs, against, "judge_{}"), task_scores),
    ]
    if not found:
        raise ConjointError(
            "there is nothing to compare: a run needs held-out evaluations (eval.tasks, "
            "eval.open_tasks or eval.judge_pairs above 0) and must have ended"
        )
    return found


def _check_temperatures(runs: Sequence[RunData]) -> None:
    used = {str(run.folder.path): run.setting("eval.temperature") for run in runs}
    if len(set(used.values())) > 1:
        shown = ", ".join(f"{path}: {value}" for path, value in used.items())
        raise ConjointError(
            f"the runs were evaluated at different temperatures, which changes accuracy by itself "
            f"({shown}); compare runs with equal eval.temperature"
        )


def set_hash(rows: Rows) -> str:
    """A hash of what was asked, whatever was answered: tasks, and the answers of a judge's pairs,
    in any order."""
    asked = sorted(json.dumps([row["task_id"], row.get("a"), row.get("b")]) for row in rows)
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:12]


def _sides(runs: Sequence[RunData], against: Sequence[RunData], name: str) -> Sides:
    """The rows of both sides of each run; () if no run has them."""
    before = [
        run.evals.get(name.format("end" if against else "start"), []) for run in against or runs
    ]
    after = [run.evals.get(name.format("end"), []) for run in runs]
    if not any([*before, *after]):
        return ()
    hashes = {set_hash(rows) for rows in (*before, *after)}
    if len(hashes) > 1:
        raise ConjointError(
            f"eval/{name.format('TAG')}.jsonl of {', '.join(str(r.folder.path) for r in runs)} "
            "are not all of the same tasks; compare ended runs with equal eval.* keys"
        )
    return list(zip(before, after, strict=True))


def _by_kind(sides: Sides, change: Callable[[str, Sides], list[Change]]) -> list[Change]:
    kinds = dict.fromkeys(row["kind"] for before, _ in sides for row in before)
    return [c for kind in kinds for c in change(kind, [_of_kind(kind, *side) for side in sides])]


def _of_kind(kind: str, before: Rows, after: Rows) -> tuple[Rows, Rows]:
    return [r for r in before if r["kind"] == kind], [r for r in after if r["kind"] == kind]


def _mean(name: str, sides: Sides, scores: Callable[[Rows], Scores]) -> list[Change]:
    """The change of a mean score; nothing where a side has none."""
    scored = [(scores(before), scores(after)) for before, after in sides]
    if not scored or not all(side for pair in scored for side in pair):
        return []
    each = tuple(pooled_difference([pair]).mean for pair in scored)
    before, after = (fmean(fmean(pair[i].values()) for pair in scored) for i in (0, 1))
    return [Change(name, before, after, pooled_difference(scored), each, set_hash(sides[0][0]))]


def _calibration(kind: str, sides: Sides) -> list[Change]:
    stated = [(stated_pairs(before), stated_pairs(after)) for before, after in sides]
    if not all(side for pair in stated for side in pair):
        return []
    pooled = pooled_calibration_change(stated) or {}
    alone = [pooled_calibration_change([pair]) or {} for pair in stated]
    before, after = ([_stated_figures(side[i]) for side in sides] for i in (0, 1))
    return [
        Change(
            f"{kind} {name}",
            fmean(figures[name] for figures in before),
            fmean(figures[name] for figures in after),
            change,
            tuple(one[name].mean for one in alone),
            set_hash(sides[0][0]),
        )
        for name, change in pooled.items()
        if name in _STATED and all(name in one for one in alone)
    ]


def _stated_figures(rows: Rows) -> Mapping[str, Any]:
    found = from_rows(rows)
    assert found is not None, "the caller saw stated confidences"
    return {name: getattr(found, name) for name in _STATED}


def _open(sides: Sides) -> list[Change]:
    """Answers to open tasks by what can be checked of them (rl/report/open_check.py): the share
    that an answer passes, how often it beats the other side's, and each check. Nothing of tasks
    that are not nano's: the checks know its topics."""
    if not sides or not all(map(topic_of, sides[0][0])):
        return []
    wins = [(_even(after), _wins(before, after)) for before, after in sides]
    won = pooled_difference(wins)
    each = tuple(pooled_difference([pair]).mean for pair in wins)
    found = [Change("open win rate", 0.5, 0.5 + won.mean, won, each, set_hash(sides[0][0]))]
    found += _mean("open checks", sides, _open_scores)
    for check in CHECKS:
        found += _mean(f"open, {check}", sides, lambda rows, check=check: _passed(rows, check))
    return found


def _open_scores(rows: Rows) -> Scores:
    return {row["task_id"]: open_score(row) for row in rows}


def _passed(rows: Rows, check: str) -> Scores:
    return {row["task_id"]: float(open_checks(row)[check]) for row in rows}


def _even(rows: Rows) -> Scores:
    return {row["task_id"]: 0.5 for row in rows}


def _wins(before: Rows, after: Rows) -> Scores:
    """Task id -> 1 where the later answer passes more checks, 0.5 for as many, 0 for fewer."""
    first, last = _open_scores(before), _open_scores(after)
    return {t: 0.5 + 0.5 * ((last[t] > first[t]) - (last[t] < first[t])) for t in last}


def as_rows(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Plain values, one mapping a figure."""
    return [
        {
            "figure": c.name,
            "before": c.before,
            "after": c.after,
            "change": c.change.mean,
            "lo": c.change.lo,
            "hi": c.change.hi,
            "tasks": c.change.n,
            "each": list(c.each),
            "set": c.set_hash,
        }
        for c in changes
    ]
