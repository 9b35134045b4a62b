"""The panels of curves in the report: which metrics they show and what their captions say."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from conjoint.rl.report.charts import Series, line_chart, percent, stacked_bars
from conjoint.rl.report.load import RunData
from conjoint.rl.run.console import PHASES

MAX_AGES = 8
"""As many as there are colours."""
TIME_COLORS = {"generate": 0, "score": 2, "train": 1, "sync": 4, "other": 7}


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart with its caption; `legend` is (name, color) where the kinds' legend is not meant."""

    title: str
    note: str
    chart: Markup
    legend: tuple[tuple[str, int], ...] = ()


def curve_panels(data: RunData, colors: dict[str, int]) -> list[Panel]:
    """All panels that the run has metrics for, in reading order."""
    panels = [
        _by_kind(data, colors, "reward", "Reward", "Mean of graded answers, penalties included."),
        _by_kind(
            data, colors, "score", "Score", "What the checks alone say; cut off counts 0.", True
        ),
        *_lengths(data, colors),
        _by_kind(
            data, colors, "truncated", "Cut off", "Answers that ran out of their budget.", True
        ),
        _by_kind(
            data,
            colors,
            "zero_variance",
            "Groups without signal",
            "All rewards of the group are equal: nothing to learn from.",
            True,
        ),
        _masked(data, colors),
        _ptx(data),
        _gap(data, colors),
        _judge(data),
        _critic(data),
        _biases(data),
        _single(
            data,
            "judge/snapshot_version",
            "Weights that judge",
            "The step whose weights judge; it moves where a critic was promoted.",
            floor=0.0,
        ),
        _by_kind(
            data,
            colors,
            "brier",
            "Brier score",
            "Of the confidence that training answers state, squared distance from right or wrong.",
        ),
        _by_kind(
            data, colors, "ece", "Calibration error", "ECE of training answers, in 15 bins.", True
        ),
        _single(data, "entropy", "Entropy", "Nats a sampled token."),
        _single(data, "temperature", "Temperature", "Of sampling, by its schedule.", floor=0.0),
        _single(data, "tokens_per_s", "Throughput", "Sampled tokens a second.", floor=0.0),
        _time(data),
        _ages(data),
        _critic_ages(data),
    ]
    return [panel for panel in panels if panel.chart]


def _by_kind(
    data: RunData, colors: dict[str, int], name: str, title: str, note: str, share: bool = False
) -> Panel:
    lines = [Series(kind, data.series(f"{name}/{kind}"), colors[kind]) for kind in data.kinds]
    return Panel(title, note, line_chart(lines, share=share, floor=0.0))


def _masked(data: RunData, colors: dict[str, int]) -> Panel:
    """Left out where nothing was ever masked, which the tile on graded answers says already."""
    panel = _by_kind(data, colors, "masked", "Masked", "Answers that could not be graded.", True)
    quiet = not any(v for kind in data.kinds for _, v in data.series(f"masked/{kind}"))
    return Panel(panel.title, panel.note, Markup("")) if quiet else panel


def _lengths(data: RunData, colors: dict[str, int]) -> list[Panel]:
    """Tokens, and against the budget; the budget itself where it moves, and what Toggle took."""
    bound = _bound_steps(data)
    shade = " Shaded: the length limits of Toggle bind." if bound else ""
    against = [
        Series(
            kind,
            data.series(f"length_over_budget_p50/{kind}"),
            colors[kind],
            data.series(f"length_over_budget_p10/{kind}"),
            data.series(f"length_over_budget_p90/{kind}"),
        )
        for kind in data.kinds
    ]
    budgets = [Series(kind, data.series(f"budget/{kind}"), colors[kind]) for kind in data.kinds]
    moves = any(len({tokens for _, tokens in line.points}) > 1 for line in budgets)
    above = [Series(kind, data.series(f"above_limit/{kind}"), colors[kind]) for kind in data.kinds]
    return [
        _by_kind(data, colors, "length", "Length", "Mean sampled tokens of an answer."),
        Panel(
            "Length against budget",
            f"Share of its budget that an answer takes: median, band from 10 to 90 %.{shade}",
            line_chart(against, share=True, floor=0.0, shaded=bound),
        ),
        Panel(
            "Token budget",
            "Sampled tokens that an answer might have, by its schedule.",
            line_chart(budgets if moves else [], floor=0.0),
        ),
        Panel(
            "Above the length limit",
            f"Answers that lost their score to Toggle, in the steps in which it may.{shade}",
            line_chart(above, share=True, floor=0.0, shaded=bound),
        ),
    ]


def _bound_steps(data: RunData) -> list[tuple[float, float]]:
    """First and last step of each phase in which Toggle's limits bind."""
    runs = groupby(data.series("toggle/phase"), key=lambda point: point[1])
    spans = [[step for step, _ in run] for phase, run in runs if phase == 0]
    return [(steps[0], steps[-1]) for steps in spans]


def _gap(data: RunData, colors: dict[str, int]) -> Panel:
    lines = [Series(kind, data.series(f"gap/{kind}"), colors[kind]) for kind in data.kinds]
    legend: tuple[tuple[str, int], ...] = ()
    if not any(line.points for line in lines):
        lines, legend = [Series("mean", data.series("gap/mean"), 0)], (("all kinds", 0),)
    note = "Engine against learner on the same tokens: mean absolute log-prob difference, in nats."
    return Panel("Engine/learner gap", note, line_chart(lines, floor=0.0), legend)


def _ptx(data: RunData) -> Panel:
    lines = [
        Series("trained", data.series("loss/ptx"), 0),
        Series("held out", data.series("ptx/heldout_loss"), 1),
    ]
    note = "Cross-entropy on curated data, nats a token; held-out rows are never trained."
    return Panel("PTX loss", note, line_chart(lines), _legend(lines))


def _judge(data: RunData) -> Panel:
    names = ("swap_consistency", "tie_share", "unparsable_share")
    lines = [Series(_words(n), data.series(f"judge/{n}"), i) for i, n in enumerate(names)]
    note = "Verdicts that agree when the two answers change places; ties; unreadable verdicts."
    return Panel("Judge", note, line_chart(lines, share=True, floor=0.0), _legend(lines))


def _critic(data: RunData) -> Panel:
    """At the evaluations: a point each."""
    lines = [
        Series("live", data.series("judge_eval/accuracy"), 0),
        Series("snapshot", data.series("judge_eval/snapshot_accuracy"), 1),
        Series("swap consistency", data.series("judge_eval/swap_consistency"), 2),
    ]
    note = (
        "The policy as judge of held-out pairs that a verifier proved right and wrong: verdicts "
        "that are right, a tie counting half, and verdicts that survive a change of places."
    )
    return Panel("Critic", note, line_chart(lines, share=True, floor=0.0), _legend(lines))


def _biases(data: RunData) -> Panel:
    lines = [
        Series("longer wins, of judged answers", data.series("judge/longer_wins_share"), 0),
        Series("longer wins, correctness held even", data.series("judge_eval/length_bias"), 1),
        Series("own against the start's", data.series("judge_eval/self_preference"), 2),
    ]
    note = (
        "What the judge prefers that should not count; 50 % is unbiased. Length, and answers of "
        "the present policy against those of the start that the verifier scored the same."
    )
    chart = line_chart(lines, share=True, floor=0.0)
    return Panel("Biases of the judge", note, chart, _legend(lines))


def _single(
    data: RunData,
    name: str,
    title: str,
    note: str,
    share: bool = False,
    floor: float | None = None,
) -> Panel:
    chart = line_chart(
        [Series(title, data.series(name), 0)], share=share, floor=0.0 if share else floor
    )
    return Panel(title, note, chart, (("all", 0),))


def _time(data: RunData) -> Panel:
    parts = {p: data.series(f"time/{p}") for p in PHASES}
    legend = tuple((p, TIME_COLORS[p]) for p in PHASES if parts[p])
    note = "Wall seconds of each step; scoring shown is what generation did not hide."
    return Panel("Time of a step", note, stacked_bars(parts, TIME_COLORS), legend)


def _ages(data: RunData) -> Panel:
    """Left out where every token is of the weights that were trained."""
    names = {f"{age} behind": data.series(f"staleness/share_{age}") for age in range(MAX_AGES)}
    parts = {name: points for name, points in names.items() if points}
    if len(parts) < 2:
        return Panel("", "", Markup(""))
    colors = {name: color for color, name in enumerate(parts)}
    note = "Share of the sampled tokens by how many versions older than the trained weights."
    return Panel(
        "Age of the tokens", note, stacked_bars(parts, colors, percent), tuple(colors.items())
    )


def _critic_ages(data: RunData) -> Panel:
    lines = [
        Series("mean", data.series("critic/age_mean"), 0),
        Series("oldest", data.series("critic/age_max"), 1),
    ]
    note = "Steps from the answers that a critic task compares to the step that trains on it."
    return Panel("Age of critic tasks", note, line_chart(lines, floor=0.0), _legend(lines))


def _legend(lines: Sequence[Series]) -> tuple[tuple[str, int], ...]:
    return tuple((line.name, line.color) for line in lines if line.points)


def _words(name: str) -> str:
    return name.removesuffix("_share").replace("_", " ")
