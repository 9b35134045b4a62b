"""Charts as inline SVG: no script library, no network, and colours that follow the page's theme.

Every chart takes data in its own units and returns markup. Colours are CSS variables (`--c0`...);
series carry their points in `data-points`, from which the page's few lines of script read the value
under the pointer.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from conjoint.rl.stats.calibration import Bin

Points = Sequence[tuple[float, float]]
"""(step, value), ascending in step."""

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 26
MAX_POINTS = 240


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart; `color` is the number of a CSS variable."""

    name: str
    points: Points
    color: int
    low: Points = ()
    """With `high`, the edges of a band around the line, at the same steps."""
    high: Points = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """The plane of a chart: data ranges onto the drawing area."""

    x_lo: float
    x_hi: float
    y_lo: float
    y_hi: float

    def x(self, value: float) -> float:
        share = (value - self.x_lo) / (self.x_hi - self.x_lo) if self.x_hi > self.x_lo else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_lo) / (self.y_hi - self.y_lo) * _inner_height()


def line_chart(
    series: Sequence[Series],
    *,
    share: bool = False,
    floor: float | None = None,
    shaded: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Lines over steps. `share`: values are shares, shown in percent. `floor`: the y axis reaches
    at least down to it. `shaded`: first and last step of what is marked behind the lines. Long
    series are averaged in bins of equal width; noisy ones get a bold moving average over the faint
    values."""
    drawn = [
        Series(s.name, thin(s.points), s.color, thin(s.low), thin(s.high))
        for s in series
        if s.points
    ]
    if not drawn:
        return Markup("")
    ys = [y for s in drawn for _, y in [*s.points, *s.low, *s.high]]
    ticks = nice_ticks(min(ys) if floor is None else min(floor, *ys), max(ys))
    xs = [x for s in drawn for x, _ in s.points]
    frame = Frame(min(xs), max(xs), ticks[0], ticks[-1])
    body = "".join(_shade(frame, first, last) for first, last in shaded)
    body += _grid(frame, ticks, percent if share else short)
    body += "".join(_band(frame, s) for s in drawn)
    body += "".join(_line(frame, s, share) for s in drawn)
    return _svg(body, "chart")


def seconds(value: float) -> str:
    return f"{value:.3g} s"


def percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def stacked_bars(
    parts: Mapping[str, Points],
    colors: Mapping[str, int],
    words: Callable[[float], str] = seconds,
) -> Markup:
    """One bar a step, `parts` stacked in their order; `words` writes a value."""
    thinned = {name: thin(points, 80) for name, points in parts.items() if points}
    steps = sorted({x for points in thinned.values() for x, _ in points})
    if not steps:
        return Markup("")
    totals = {x: sum(dict(points).get(x, 0.0) for points in thinned.values()) for x in steps}
    ticks = nice_ticks(0.0, max(totals.values()))
    half = (steps[-1] - steps[0]) / max(1, len(steps) - 1) / 2 or 0.5
    frame = Frame(steps[0] - half, steps[-1] + half, 0.0, ticks[-1])
    width = max(1.0, 0.82 * (frame.x(steps[0] + half) - frame.x(steps[0] - half)))
    base = dict.fromkeys(steps, 0.0)
    body = _grid(frame, ticks, words, x_ticks=steps)
    for name, points in thinned.items():
        for x, value in points:
            top, bottom = frame.y(base[x] + value), frame.y(base[x])
            body += (
                f'<rect x="{frame.x(x) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{max(0.0, bottom - top):.1f}" fill="var(--c{colors[name]})">'
                f"<title>step {x:g}: {escape(name)} {words(value)}</title></rect>"
            )
            base[x] += value
    return _svg(body, "bars")


def change_bar(comparison: Mapping[str, Mapping[str, float] | None], color: int) -> Markup:
    """One row of the before/after chart: hollow dot = start, full dot = end, whiskers = 95 %
    intervals, on an axis from 0 to 100 %."""
    width, height = 360, 34
    marks = ""
    for step in range(0, 101, 25):
        x = 6 + step / 100 * (width - 12)
        marks += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{height - 2}" class="grid"/>'
    for name, y in (("start", 11.0), ("end", 23.0)):
        interval = comparison.get(name)
        if interval is None:
            continue
        lo, mean, hi = (6 + interval[k] * (width - 12) for k in ("lo", "mean", "hi"))
        hollow = "var(--card)" if name == "start" else f"var(--c{color})"
        marks += (
            f'<g stroke="var(--c{color})" stroke-width="2"><line x1="{lo:.1f}" x2="{hi:.1f}" '
            f'y1="{y}" y2="{y}" stroke-opacity=".55"/><circle cx="{mean:.1f}" cy="{y}" r="4.5" '
            f'fill="{hollow}"/><title>{name}: {interval_words(interval)}</title></g>'
        )
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" class="change" role="img" '
        f'aria-label="start and end with intervals">{marks}</svg>'
    )


def reliability_chart(start: Sequence[Bin], end: Sequence[Bin], color: int) -> Markup:
    """Accuracy over stated confidence, in percent: a dot a bin (hollow = start, full = end) against
    the diagonal, on which what is said comes true. Bars below: answers a bin, of the end if there
    is one."""
    frame = Frame(0.0, 100.0, 0.0, 100.0)
    body = _grid(frame, [0.0, 25.0, 50.0, 75.0, 100.0], lambda value: f"{value:g} %")
    corners = [(0.0, 0.0), (100.0, 100.0)]
    body += _path(frame, corners, "diagonal")
    counted = end or start
    most = max((b.n for b in counted), default=1)
    for b in counted:
        left, right, top = frame.x(100 * b.lo), frame.x(100 * b.hi), frame.y(24 * b.n / most)
        body += (
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{frame.y(0) - top:.1f}" class="count"/><text x="{(left + right) / 2:.1f}" '
            f'y="{top - 2:.1f}" class="n" text-anchor="middle">{b.n}</text>'
        )
    for name, bins, fill in (("start", start, "var(--card)"), ("end", end, f"var(--c{color})")):
        for b in bins:
            said, right = 100 * b.confidence, 100 * b.accuracy
            body += (
                f'<circle cx="{frame.x(said):.1f}" cy="{frame.y(right):.1f}" r="4.5" '
                f'fill="{fill}" stroke="var(--c{color})" stroke-width="2"><title>{name}: said '
                f"{said:.1f} %, {right:.1f} % right, {b.n} answers</title></circle>"
            )
    return _svg(body, "reliability")


def thin(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means over bins of neighbours."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / limit)
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(b[0][0], sum(y for _, y in b) / len(b)) for b in bins]


def nice_ticks(lo: float, hi: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose [lo, hi]."""
    if hi - lo < 1e-12 * max(1.0, abs(hi)):
        room = abs(hi) * 0.5 or 1.0
        lo, hi = (0.0, hi + room) if lo >= 0 else (lo - room, hi + room)
    raw = (hi - lo) / count
    power = 10.0 ** math.floor(math.log10(raw))
    gap = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(lo / gap + 1e-9), math.ceil(hi / gap - 1e-9)
    return [i * gap for i in range(first, last + 1)]


def short(value: float) -> str:
    """Three significant digits, small numbers as powers of ten."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}"


def interval_words(interval: Mapping[str, float]) -> str:
    lo, mean, hi = (100 * interval[k] for k in ("lo", "mean", "hi"))
    return f"{mean:.1f} % ({lo:.1f} to {hi:.1f})"


def _line(frame: Frame, series: Series, share: bool) -> str:
    points = series.points
    scale = 100 if share else 1
    values = json.dumps([[x, float(f"{scale * y:.4g}")] for x, y in points])
    smooth = _moving_average(points)
    body = "" if smooth is None else _path(frame, points, "raw")
    body += _path(frame, smooth or points, "line")
    if len(points) <= 24:
        body += "".join(
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.2"/>' for x, y in points
        )
    unit = " %" if share else ""
    return (
        f'<g class="series" style="--c: var(--c{series.color})" data-name="{escape(series.name)}" '
        f"data-unit=\"{unit}\" data-points='{values}'>{body}</g>"
    )


def _band(frame: Frame, series: Series) -> str:
    edge = [*series.low, *reversed(series.high)]
    corners = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in edge)
    fill = f'fill="var(--c{series.color})" fill-opacity=".13"'
    return f'<polygon points="{corners}" {fill}/>' if edge else ""


def _shade(frame: Frame, first: float, last: float) -> str:
    left = frame.x(max(first - 0.5, frame.x_lo))
    width = frame.x(min(last + 0.5, frame.x_hi)) - left
    area = f'x="{left:.1f}" y="{TOP}" width="{max(0.0, width):.1f}" height="{_inner_height()}"'
    return f'<rect {area} class="shade"/>'


def _path(frame: Frame, points: Points, css: str) -> str:
    steps = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return f'<polyline class="{css}" points="{steps}"/>'


def _moving_average(points: Points) -> list[tuple[float, float]] | None:
    """Centered mean over a tenth of the points, None where a series is too short to need it."""
    half = len(points) // 20
    if half < 1:
        return None
    ys = [y for _, y in points]
    windows = [ys[max(0, i - half) : i + half + 1] for i in range(len(ys))]
    return [(x, sum(w) / len(w)) for (x, _), w in zip(points, windows, strict=True)]


def _grid(
    frame: Frame,
    ticks: Sequence[float],
    label: Callable[[float], str],
    x_ticks: Sequence[float] = (),
) -> str:
    body = ""
    for value in ticks:
        y = frame.y(value)
        body += (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{LEFT - 6}" y="{y + 4.5:.1f}" text-anchor="end">{label(value)}</text>'
        )
    ends = (x_ticks[0], x_ticks[-1]) if x_ticks else (frame.x_lo, frame.x_hi)
    inner = [t for t in nice_ticks(*ends, 5) if ends[0] <= t <= ends[1] and t == round(t)]
    for x in inner:
        body += f'<text x="{frame.x(x):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{x:g}</text>'
    return body


def _svg(body: str, css: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="{css}" role="img">{body}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>'
    )


def _inner_height() -> float:
    return HEIGHT - TOP - BOTTOM
