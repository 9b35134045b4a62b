"""What a run shows while it goes: the batch arithmetic in words, then one row a step.

On a terminal a status line under the rows names the phase and the time left; in a plain log there
are only the rows, each with its own labels. `Stopwatch` measures where a step's time goes.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich.console import Console
from rich.status import Status
from rich.text import Text

from conjoint.envs.text import escaped

PHASES = ("generate", "score", "train", "sync", "other")
"""Where the time of a step goes, in the order of the loop."""


class Stopwatch:
    """Wall time by phase. Each second counts once: a phase inside another pauses the outer one.

    `clock` is a monotonic time in seconds; phases nest, they do not overlap.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        on_phase: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._on_phase = on_phase
        self._open: list[str] = []
        self._spent: dict[str, float] = {}
        self._mark = clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        if self._on_phase:
            self._on_phase(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def split(self) -> dict[str, float]:
        """Seconds by phase since the last split, all of PHASES included; starts the next lap."""
        self._charge()
        spent, self._spent = self._spent, {}
        return {**dict.fromkeys(PHASES, 0.0), **spent}

    def _charge(self) -> None:
        """Time since the last mark goes to the innermost open phase, or to "other"."""
        now = self._clock()
        name = self._open[-1] if self._open else "other"
        self._spent[name] = self._spent.get(name, 0.0) + now - self._mark
        self._mark = now


class RunConsole:
    """Rows of one run. `step` takes the same flat metrics that go to metrics.jsonl."""

    def __init__(self, num_steps: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._num_steps = num_steps
        self._walls: deque[float] = deque(maxlen=8)
        self._titles = ""
        self._widths: dict[str, int] = {"step": len(f"{num_steps}/{num_steps}")}
        self._status: Status | None = None
        self._step_words = ""

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    def header(self, title: str, lines: Sequence[str]) -> None:
        """The run's name and its setting in words."""
        self._console.print(_text(title, style="bold"))
        for line in lines:
            self._console.print(_text(f"  {line}"), soft_wrap=True)

    def phase(self, name: str) -> None:
        """Shown in the status line of a terminal; hand it to `Stopwatch(on_phase=...)`."""
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status("", spinner="dots")
            self._status.start()
        self._status.update(_text(f"{name} {self._step_words}", style="dim"))

    def step(self, step: int, metrics: Mapping[str, float], notes: Sequence[str] = ()) -> None:
        """One row for the step just done (`step` counts from 1); `notes` follow it, one a line."""
        self._walls.append(sum(metrics.get(f"time/{p}", 0.0) for p in PHASES))
        left = fmean(self._walls) * max(0, self._num_steps - step)
        self._step_words = f"· step {step + 1}/{self._num_steps} · {duration(left)} left"
        cells = [("step", f"{step}/{self._num_steps}"), *step_cells(metrics)]
        cells.append(("left", duration(left)))
        if self._console.is_terminal:
            self._print_row(cells)
        else:
            line = " | ".join(f"{title} {value}" for title, value in cells)
            self._console.print(_text(line), soft_wrap=True)
        for note in notes:
            self._console.print(_text(f"    {note}", style="yellow"), soft_wrap=True)

    def message(self, text: str) -> None:
        self._console.print(_text(text), soft_wrap=True)

    def finish(self) -> None:
        """Removes the status line; safe to call twice."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _print_row(self, cells: Sequence[tuple[str, str]]) -> None:
        """Aligned columns under titles; what a narrow terminal has no room for goes below."""
        for title, value in cells:
            self._widths[title] = max(len(title), len(value), 5, self._widths.get(title, 0))
        room, below = self._console.width, []
        while sum(self._widths[t] + 2 for t, _ in cells) > room and len(cells) > 2:
            below.insert(0, cells[-2])
            cells = [*cells[:-2], cells[-1]]
        titles = "  ".join(title.rjust(self._widths[title]) for title, _ in cells)
        if self._titles != titles:
            self._console.print(_text(titles, style="bold dim"), soft_wrap=True)
            self._titles = titles
        row = "  ".join(value.rjust(self._widths[title]) for title, value in cells)
        self._console.print(_text(row), soft_wrap=True)
        if below:
            words = " | ".join(f"{title} {value}" for title, value in below)
            self._console.print(_text(f"    {words}", style="dim"), soft_wrap=True)


def _text(text: str, style: str = "") -> Text:
    """Names, notes and servers' words must not steer the terminal."""
    return Text(escaped(text), style=style)


def step_cells(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """(title, value) of a row: rewards by kind, then whichever other figures the step has."""
    cells = [
        (name.removeprefix("reward/"), number(value))
        for name, value in sorted(metrics.items())
        if name.startswith("reward/")
    ]
    cut = [
        (value, metrics.get(name.replace("truncated/", "groups/"), 1.0))
        for name, value in metrics.items()
        if name.startswith("truncated/")
    ]
    if cut:
        share = sum(v * w for v, w in cut) / (sum(w for _, w in cut) or 1.0)
        cells.append(("cut off", f"{share:.0%}"))
    if "toggle/phase" in metrics:
        cells.append(("limits", "off" if metrics["toggle/phase"] else "on"))
    for title, name in (("ptx", "loss/ptx"), ("gap", "gap/mean"), ("tok/s", "tokens_per_s")):
        if name in metrics:
            cells.append((title, number(metrics[name])))
    times = [f"{metrics.get(f'time/{p}', 0.0):.1f}" for p in PHASES[:4]]
    cells.append(("gen+score+train+sync s", "+".join(times)))
    return cells


def batch_words(
    *,
    prompts: int,
    group_size: int,
    updates: int,
    ptx_rows: int,
    weights: Mapping[str, float],
    budgets: Mapping[str, tuple[int, int]],
) -> list[str]:
    """The arithmetic of a step in words. `weights`: the mixture, by kind, in any unit.

    `ptx_rows` is the number of PTX texts in each update, 0 if PTX is off; `budgets` are those of
    the first and the last step, empty if they are off.
    """
    total = sum(weights.values()) or 1.0
    mixture = ", ".join(f"{w / total:.0%} {kind}" for kind, w in weights.items() if w)
    answers = prompts * group_size
    ptx = f", each with {_count(ptx_rows, 'PTX text')}" if ptx_rows else ", without PTX texts"
    lines = [
        f"A step: {_count(prompts, 'prompt')} x {group_size} answers = {answers} answers "
        f"({mixture}), trained in {_count(updates, 'update')} of "
        f"about {math.ceil(answers / updates)} answers{ptx}."
    ]
    caps = ", ".join(
        f"{kind} {start}" if start == end else f"{kind} {start} -> {end}"
        for kind, (start, end) in budgets.items()
    )
    lines.append(f"Token budget of an answer: {caps}." if caps else "Token budgets are off.")
    return lines


def duration(seconds: float) -> str:
    """Seconds as a reader says them: "42s", "3m10s", "2h05m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def number(value: float) -> str:
    """About three digits: "0.421", "12.3", "1,234", "2e-06", "nan"."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size and size < 1e-3:
        return f"{value:.0e}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
