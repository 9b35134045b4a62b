"""The report's part on stated confidences: a reliability diagram and its figures, by kind."""

from collections.abc import Mapping
from typing import Any

from conjoint.rl.report.charts import reliability_chart
from conjoint.rl.report.load import RunData
from conjoint.rl.report.summary import compare_calibration
from conjoint.rl.stats.calibration import BINS, COVERAGES, Bin

NOTE = (
    f"Held-out answers by the confidence they state, in {BINS} bins; on the diagonal what is said "
    "comes true. Numbers: answers a bin. A confidence that knows nothing of the single answer has "
    "an AUROC of 0.5 and at best the Brier score of the constant, and an ECE near 0 is no merit of "
    "it."
)

_FIGURES = (
    ("answers that state one", "n"),
    ("answers that state none", "missing"),
    ("accuracy", "accuracy"),
    ("mean confidence", "confidence"),
    ("Brier", "brier"),
    ("Brier of the constant", "constant_brier"),
    ("ECE", "ece"),
    ("AUROC", "auroc"),
)


def calibration_cards(data: RunData, colors: Mapping[str, int]) -> list[dict[str, Any]]:
    """One card for each kind and temperature with confidences; [] without any."""
    cards = []
    for words, start, end in (
        ("sampled", "start", "end"),
        ("greedy", "start_greedy", "end_greedy"),
    ):
        for kind, found in compare_calibration(data, start, end).items():
            bins = [_bins(found["start"]), _bins(found["end"])]
            chart = reliability_chart(bins[0], bins[1], colors.get(kind, 0))
            cards.append({"title": f"{kind}, {words}", "chart": chart, "rows": _rows(found)})
    return cards


def _bins(figures: Mapping[str, Any] | None) -> list[Bin]:
    return [Bin(**b) for b in figures["bins"]] if figures else []


def _rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(figure, start, end, end - start with its interval)."""
    sides, diff = (found["start"], found["end"]), found["diff"] or {}
    rows = [
        (title, *(_number(side and side[key]) for side in sides), _interval(diff.get(key)))
        for title, key in _FIGURES
    ]
    for share in (f"{coverage:g}" for coverage in COVERAGES):
        title = f"accuracy of the surest {float(share):.0%}"
        rows.append((title, *(_number(side and side["selective"][share]) for side in sides), ""))
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _interval(diff: Mapping[str, float] | None) -> str:
    return f"{diff['mean']:+.3f} ({diff['lo']:+.3f} to {diff['hi']:+.3f})" if diff else ""
