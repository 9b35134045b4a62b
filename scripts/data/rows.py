"""What the data tools share: their files, their config, one new file of rows, and a summary.

A tool reads the rows of one file (the forms of envs/sources/dataset.py) and writes those that stay,
unchanged, into another. Its input is never written to, and its output appears only when complete.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar, get_type_hints

from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import compose, typed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """Where rows come from and where those that stay go."""

    input: str = ""
    """A file of task rows, as in tasks.KIND.path."""
    output: str = ""
    """A .jsonl file that does not exist yet."""

    def validate(self) -> None:
        """Raises ConjointError for a path that cannot be used."""
        check_files(self.input, self.output)


def check_files(source: str, target: str) -> None:
    """Raises ConjointError unless `source` is named and `target` can be a new file."""
    if not source or Path(target).suffix != ".jsonl":
        raise ConjointError(
            "give input=FILE with the rows, and output=FILE (.jsonl) for those that stay"
        )
    check_output(target)


def check_output(target: str) -> None:
    """Raises ConjointError unless `target` can be a new file."""
    path = Path(target)
    if path.suffix != ".jsonl":
        raise ConjointError(f"output={target}: give output=FILE, a new .jsonl file")
    if path.exists():
        raise ConjointError(
            f"output={path}: it exists already and is not overwritten; name another file"
        )
    if not path.absolute().parent.is_dir():
        raise ConjointError(
            f"output={path}: there is no folder {path.absolute().parent}; make it first"
        )


def configured(root: type[T], overrides: Sequence[str]) -> T:
    """The dataclass `root` with the overrides, unvalidated. Raises ConjointError."""
    listed = listed_overrides(root, overrides)
    return typed(root, compose(listed, base=asdict(root()), root=root))  # type: ignore[call-overload]


def listed_overrides(root: type, overrides: Sequence[str]) -> list[str]:
    """The overrides, with against=a,b as the list that it is."""
    hints = get_type_hints(root)
    return [
        f"{key}=[{value}]" if "list" in str(hints.get(key)) and value[:1] != "[" else override
        for override in overrides
        for key, _, value in [override.partition("=")]
    ]


@dataclass(slots=True)
class Tally:
    """What became of the rows; every row is dropped for one reason or kept."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Further sentences of the summary."""

    @property
    def kept(self) -> int:
        return self.rows - self.dropped.total()

    def words(self, target: str) -> list[str]:
        """The summary, a line each."""
        lines = [f"rows in: {self.rows:,}", f"dropped: {self.dropped.total():,}"]
        lines += [f"  {reason}: {count:,}" for reason, count in self.dropped.most_common()]
        return [*lines, *self.notes, f"kept: {self.kept:,} -> {target}"]
