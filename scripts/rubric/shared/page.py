"""What a subverb found, once: as tables on the terminal and as a self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from conjoint.envs.text import page_text
from conjoint.rewards.text.quoting import printable
from conjoint.rl.run.folder import write_atomically
from conjoint.rl.stats.intervals import Interval

SHOWN_ROWS = 24
"""Rows of a table that the terminal shows; the page has all of them."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """Something to read in full: a prompt with its answers and the reasons."""

    title: str
    facts: str
    blocks: Sequence[tuple[str, str]]
    """(what it is, text)."""


@dataclass(slots=True)
class Page:
    """`setting` says what was done, `notices` what to know before believing it."""

    title: str
    setting: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    cards_title: str = ""
    cards: list[Card] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Everything but the cards, on the terminal."""
        console.print(Text(self.title, style="bold"))
        for line in self.setting:
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)
        for table in self.tables:
            _show(table, console)
        for line in self.notices:
            console.print(Text(f"NOTE {printable(line)}", style="yellow"), soft_wrap=True)

    def write(self, path: Path) -> None:
        """The page as one file without scripts or links to elsewhere."""
        environment = Environment(
            loader=PackageLoader("conjoint.scripts.rubric.shared", "."),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=page_text,
        )
        write_atomically(path, environment.get_template("page.html").render(page=self))


def _show(table: Table, console: Console) -> None:
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold")
    for column in table.columns:
        drawn.add_column(column, overflow="fold")
    for row in table.rows[:SHOWN_ROWS]:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    console.print(drawn)
    left = len(table.rows) - SHOWN_ROWS
    if left > 0:
        console.print(Text(f"  {left} more on the page", style="dim"))
    if table.note:
        console.print(Text(f"  {table.note}", style="dim"), soft_wrap=True)


def share(interval: Interval | None) -> str:
    """ "82.0 % [71.0, 90.1], n 55" or a dash."""
    if interval is None:
        return "-"
    lo, mean, hi = (100 * v for v in (interval.lo, interval.mean, interval.hi))
    return f"{mean:.1f} % [{lo:.1f}, {hi:.1f}], n {interval.n}"


def excerpt(text: str, chars: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= chars else f"{line[: chars - 4]} ..."
