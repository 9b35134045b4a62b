"""report.html: one file that shows a run, made only from the files of its folder.

It needs no network and no script to be read. Whatever the run lacks (an evaluation, a judge, an
end) is left out and, where a reader would miss it, said.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from conjoint.envs.text import page_text
from conjoint.rl.report.charts import LEFT, RIGHT, WIDTH, change_bar, interval_words
from conjoint.rl.report.load import RunData, eval_fingerprint, load_run, read_summary
from conjoint.rl.report.panels import TIME_COLORS, curve_panels
from conjoint.rl.report.reliability import NOTE, calibration_cards
from conjoint.rl.report.samples import choose_samples
from conjoint.rl.report.summary import (
    Comparison,
    compare_judge,
    compare_kinds,
    compare_ptx,
    time_split,
)
from conjoint.rl.run.console import PHASES, duration, number
from conjoint.rl.run.folder import write_atomically

COLORS = 8


def build_report(run: Path) -> Path:
    """Writes report.html into the run folder and returns its path.

    Raises ConjointError if the folder holds no run or one of its files is damaged.
    """
    data = load_run(run)
    colors = {kind: i % COLORS for i, kind in enumerate(data.kinds)}
    environment = Environment(
        loader=PackageLoader("conjoint.rl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=page_text,
    )
    environment.filters["number"] = number
    page = environment.get_template("report.html").render(
        name=run.resolve().name,
        setting=setting_words(data),
        notices=notices(data),
        tiles=tiles(data),
        tables=evaluation_tables(data, colors),
        calibration=calibration_cards(data, colors),
        calibration_note=NOTE,
        fingerprint=eval_fingerprint(data),
        kinds=data.kinds,
        colors=colors,
        panels=curve_panels(data, colors),
        shares=_time_shares(data),
        samples=choose_samples(data),
        versions=_version_rows(data),
        config_text=data.config_text,
        chart={"left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH},
    )
    write_atomically(data.folder.report, page)
    return data.folder.report


def setting_words(data: RunData) -> list[str]:
    """The lines that the run itself wrote, else what metrics tell."""
    if data.words:
        return data.words
    kinds = ", ".join(data.kinds) or "no tasks yet"
    return [f"A joint run on {kinds}."]


def notices(data: RunData) -> list[str]:
    """What a reader must know before believing the rest."""
    found = []
    planned, done = data.setting("num_steps"), len(data.metrics)
    if isinstance(planned, int) and done < planned:
        found.append(f"The run has {done} of {planned} steps: it was interrupted or still goes on.")
    if not (data.evals.get("start") or data.evals.get("end")):
        found.append("No held-out evaluation: the curves below are of training batches only.")
    elif not (data.evals.get("start") and data.evals.get("end")):
        missing = "end" if data.evals.get("start") else "start"
        found.append(f"There is no evaluation at the {missing}, so nothing is compared.")
    if not data.series("judge/calls") and not data.series("judge/swap_consistency"):
        found.append("No judge was used: the rubric reward was off or had no task.")
    return found


def tiles(data: RunData) -> list[tuple[str, str]]:
    """(figure, what it is) for the head of the page."""
    summary = read_summary(data.folder)
    found = [(str(len(data.metrics)), "steps")]
    wall = summary.get("wall_s") or sum(time_split(data).values())
    if wall:
        found.append((duration(wall), "wall time"))
    if rate := _mean(data, "tokens_per_s"):
        found.append((number(rate), "tokens a second"))
    if gaps := data.series("gap/mean"):
        found.append((number(max(g for _, g in gaps)), "largest mean log-prob gap"))
    if (graded := _mean(data, "graded_share")) is not None:
        found.append((f"{graded:.1%}", "answers graded"))
    ptx = compare_ptx(data)
    if ptx and ptx["start"] is not None and ptx["end"] is not None:
        change = f"{number(ptx['start'])} → {number(ptx['end'])}"
        found.append((change, "held-out PTX loss, start to end"))
    return found


def evaluation_tables(data: RunData, colors: Mapping[str, int]) -> list[dict[str, Any]]:
    """Sampled, greedy and judge comparisons as rows for the template; absent ones are left out."""
    judge = compare_judge(data)
    tables = [
        (
            "Sampled",
            "Same tasks, seeds and temperature before and after; the verifier alone scores.",
            compare_kinds(data, "start", "end"),
        ),
        ("Greedy", "Temperature 0.", compare_kinds(data, "start_greedy", "end_greedy")),
        (
            "Judge",
            "Share of a fixed set of verifiable pairs that the policy, as judge, decides rightly.",
            {"pairs judged": judge} if judge else {},
        ),
    ]
    return [
        {
            "title": title,
            "note": note,
            "rows": [_row(kind, c, colors.get(kind, 0)) for kind, c in comparisons.items()],
        }
        for title, note, comparisons in tables
        if comparisons
    ]


def _row(kind: str, comparison: Comparison, color: int) -> dict[str, Any]:
    cells = {
        name: interval_words(interval) if (interval := comparison[name]) else "none"
        for name in ("start", "end")
    }
    diff = comparison["diff"]
    return {
        "kind": kind,
        **cells,
        "bar": change_bar(comparison, color),
        "n": f"{(diff or comparison['start'] or comparison['end'] or {}).get('n', 0):,}",
        "diff": _points(diff) if diff else "none",
        "verdict": _verdict(diff),
    }


def _points(diff: Mapping[str, float]) -> str:
    lo, mean, hi = (100 * diff[key] for key in ("lo", "mean", "hi"))
    return f"{mean:+.1f} points ({lo:+.1f} to {hi:+.1f})"


def _verdict(diff: Mapping[str, float] | None) -> str:
    if diff is None:
        return ""
    return "rose" if diff["lo"] > 0 else "fell" if diff["hi"] < 0 else "no clear change"


def _time_shares(data: RunData) -> list[dict[str, Any]]:
    spent = time_split(data)
    total = sum(spent.values())
    return [
        {"name": p, "share": spent[p] / total, "color": TIME_COLORS[p], "words": duration(spent[p])}
        for p in PHASES
        if spent.get(p)
    ]


def _version_rows(data: RunData) -> list[tuple[str, str]]:
    """Packages first, then the machine and whatever else versions.json holds."""
    facts = dict(data.versions)
    packages = facts.pop("packages", {})
    return [(str(k), str(v)) for k, v in [*packages.items(), *facts.items()] if v is not None]


def _mean(data: RunData, name: str) -> float | None:
    values = [v for _, v in data.series(name)]
    return sum(values) / len(values) if values else None
