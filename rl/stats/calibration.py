"""Stated confidences against what verifiers prove: the score that pays them, and their figures.

The score is one minus the Brier score (Brier 1950), so that the weighted mean with correctness is
RLCR's reward (arXiv 2507.16806) up to a constant and a factor. An answer is correct if every
verifier pays it in full; a judge's opinion does not count.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conjoint.envs.types import Trajectory
from conjoint.rewards.calibration import correctness
from conjoint.rl.stats.intervals import Interval, bootstrap_interval, resampled_counts

BINS = 15
"""Number of bins of equal width, as in Guo et al. 2017 (arXiv 1706.04599)."""
COVERAGES = (0.25, 0.5, 0.75)

Pair = tuple[float, float]
"""(confidence, 1 if the answer is correct and 0 if not)."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers whose confidence lies in (lo, hi]; 0 is in the first bin."""

    lo: float
    hi: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Figures of the graded answers that state a confidence; `missing` were graded and state none.

    `constant_brier` is the Brier score of always saying the accuracy: a confidence that knows
    nothing of the single answer cannot do better. `auroc` is the chance that a right answer is
    stated surer than a wrong one, None if all are right or all wrong.
    """

    n: int
    missing: int
    accuracy: float
    confidence: float
    brier: float
    constant_brier: float
    ece: float
    auroc: float | None
    selective: Mapping[str, float]
    """Coverage -> accuracy of that share of the answers, the surest ones."""
    bins: Sequence[Bin]
    """Those with answers, ascending."""


def calibration(pairs: Sequence[Pair], missing: int = 0) -> Calibration | None:
    """None where no confidence is stated."""
    if not pairs:
        return None
    q, c = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))  # [n], [n]
    accuracy = float(c.mean())
    bins = _bins(q, c)
    return Calibration(
        n=len(pairs),
        missing=missing,
        accuracy=accuracy,
        confidence=float(q.mean()),
        brier=float(((q - c) ** 2).mean()),
        constant_brier=accuracy * (1 - accuracy),
        ece=math.fsum(b.n * abs(b.confidence - b.accuracy) for b in bins) / len(pairs),
        auroc=auroc(q, c),
        selective={f"{share:g}": selective_accuracy(q, c, share) for share in COVERAGES},
        bins=bins,
    )


def auroc(q: np.ndarray, c: np.ndarray) -> float | None:
    """Share of (right, wrong) pairs in which the right answer is the surer one, ties half (Mann and
    Whitney 1947)."""
    found = float(_aurocs(np.ones((1, len(q))), q, c)[0])
    return found if math.isfinite(found) else None


def selective_accuracy(q: np.ndarray, c: np.ndarray, coverage: float) -> float:
    """Accuracy of the surest `coverage` of the answers. Of equally sure ones that do not all fit,
    each counts with the share that fits, so that their order does not matter."""
    left = places = math.ceil(coverage * len(q) - 1e-9)
    right = 0.0
    for level in np.unique(q)[::-1]:
        of_level = c[q == level]
        taken = min(left, len(of_level))
        right += taken * float(of_level.mean())
        left -= taken
        if not left:
            break
    return right / places


def calibration_words(found: Calibration | None) -> str:
    """One line of text on answers that were asked for a confidence."""
    if found is None:
        return "confidence: no graded answer states one"
    surest = ", ".join(f"{v:.3f} of the surest {float(k):.0%}" for k, v in found.selective.items())
    return (
        f"confidence: Brier {found.brier:.4f} (a constant {found.accuracy:.2f}: "
        f"{found.constant_brier:.4f}), ECE {found.ece:.4f}, "
        f"AUROC {'-' if found.auroc is None else f'{found.auroc:.3f}'}; "
        f"accuracy {found.accuracy:.3f}, {surest}; "
        f"{found.missing} of {found.n + found.missing} state none"
    )


def calibration_metrics(found: Calibration) -> dict[str, float]:
    """The figures of a step or an evaluation, flat."""
    figures = {
        "confidence": found.confidence,
        "confidence_missing": found.missing / (found.n + found.missing),
        "brier": found.brier,
        "brier_constant": found.constant_brier,
        "ece": found.ece,
    }
    return figures if found.auroc is None else {**figures, "auroc": found.auroc}


def stated_fields(trajectory: Trajectory) -> dict[str, float | None]:
    """What a row of an evaluation says of a confidence; nothing where none was asked for."""
    if trajectory.answer is None:
        return {}
    return {"confidence": trajectory.confidence, "correct": correctness(trajectory)}


def confidence_metrics(trajectories: Iterable[Trajectory]) -> dict[str, float]:
    """The figures of those that were asked for a confidence and graded, {} without any."""
    asked = [(t.confidence, correctness(t)) for t in trajectories if t.answer is not None]
    if found := _of(asked):
        return calibration_metrics(found)
    return {"confidence_missing": 1.0} if any(c is not None for _, c in asked) else {}


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Calibration | None:
    """The calibration of an evaluation's rows, which hold `confidence` and `correct` where a
    confidence was asked for. None if no graded row states a confidence."""
    return _of([(row["confidence"], row["correct"]) for row in rows if "confidence" in row])


def _of(asked: Iterable[tuple[float | None, float | None]]) -> Calibration | None:
    graded = [(q, c) for q, c in asked if c is not None]
    stated = [(q, c) for q, c in graded if q is not None]
    return calibration(stated, len(graded) - len(stated))


def stated_pairs(rows: Iterable[Mapping[str, Any]]) -> dict[str, Pair]:
    """Task id -> confidence and correctness, of the rows that have both."""
    return {
        row["task_id"]: (row["confidence"], row["correct"])
        for row in rows
        if row.get("confidence") is not None and row["correct"] is not None
    }


def calibration_change(
    start: Mapping[str, Pair], end: Mapping[str, Pair]
) -> dict[str, Interval] | None:
    """end - start of brier, constant_brier, ece, auroc and accuracy on the tasks that both have,
    with paired bootstrap intervals over tasks; None if they have none in common. A figure that
    cannot be had (AUROC where all are right) is left out."""
    return pooled_calibration_change([(start, end)])


def pooled_calibration_change(
    runs: Sequence[tuple[Mapping[str, Pair], Mapping[str, Pair]]],
) -> dict[str, Interval] | None:
    """The same of several (start, end), such as seeds: each figure is of all answers of a side
    together, on the tasks that every side has. The task is what is resampled."""
    tasks = sorted(set[str].intersection(*(set(side) for run in runs for side in run)))
    if not tasks:
        return None
    # [tasks, run x side x (confidence, correct)]; tasks with equal rows are resampled as one.
    both = np.array([[q for run in runs for side in run for q in side[t]] for t in tasks])
    distinct, times = np.unique(both, axis=0, return_counts=True)
    # [1 + samples, run x distinct]. The first row is the data as it is, the others are bootstrap
    # samples of it; every run takes the same tasks.
    counts = np.tile(np.vstack([times, resampled_counts(times)]), len(runs))
    # [distinct, run, side, (confidence, correct)] -> [side, (confidence, correct), run x distinct]
    columns = distinct.reshape(-1, len(runs), 2, 2).transpose(2, 3, 1, 0).reshape(2, 2, -1)
    first, last = (_figures(counts, *side) for side in columns)
    changes = {name: last[name] - first[name] for name in first}
    return {
        name: bootstrap_interval(float(values[0]), values[1:], len(tasks))
        for name, values in changes.items()
        if math.isfinite(values[0])
    }


def _figures(counts: np.ndarray, q: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
    """Each figure of each row of `counts` [samples, distinct answers]: how often one is there."""
    n = counts.sum(axis=1)  # [samples]
    # [distinct, BINS]: an answer's gap in the column of its bin, so that one product sums each bin.
    gaps = np.zeros((len(q), BINS))
    gaps[np.arange(len(q)), _bin_of(q)] = q - c
    accuracy = counts @ c / n  # [samples]
    return {
        "brier": counts @ (q - c) ** 2 / n,
        "constant_brier": accuracy * (1 - accuracy),
        "ece": np.abs(counts @ gaps).sum(axis=1) / n,
        "auroc": _aurocs(counts, q, c),
        "accuracy": accuracy,
    }


def _aurocs(counts: np.ndarray, q: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The AUROC of each row of `counts`: [samples]; NaN where all are right or all are wrong."""
    levels, level = np.unique(q, return_inverse=True)
    table = np.eye(len(levels))[level]  # [distinct, levels], 1 where the answer states the level
    # Right and wrong answers at each level: [samples, levels].
    right, wrong = counts @ (table * c[:, None]), counts @ (table * (1 - c)[:, None])
    below = np.cumsum(wrong, axis=1) - wrong  # wrong ones that are less sure
    wins = (right * (below + wrong / 2)).sum(axis=1)  # [samples]
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def _bin_of(q: np.ndarray) -> np.ndarray:
    """Bin m is ((m-1)/15, m/15]; the small number keeps 9/15 in the ninth whatever its rounding."""
    return np.clip(np.ceil(q * BINS - 1e-9).astype(int) - 1, 0, BINS - 1)


def _bins(q: np.ndarray, c: np.ndarray) -> list[Bin]:
    of = _bin_of(q)
    return [
        Bin(
            lo=int(i) / BINS,
            hi=(int(i) + 1) / BINS,
            n=int((of == i).sum()),
            confidence=float(q[of == i].mean()),
            accuracy=float(c[of == i].mean()),
        )
        for i in np.unique(of)
    ]
