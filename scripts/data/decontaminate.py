"""`conjoint data decontaminate`: rows that share a long run of words with an evaluation set.

Two texts overlap if they share `n` consecutive words (13, as GPT-3's report takes them) once case,
punctuation and spacing are gone. A shorter text of an evaluation set overlaps with a text of a row
that is the same as a whole.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conjoint.envs.sources.dataset import rows_and_tasks
from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError
from conjoint.scripts.data.rows import FilesConfig, Tally, configured
from conjoint.scripts.new_file import new_file

_WORD = re.compile(r"\w+")
MIN_WORDS = 4
"""Words of the shortest evaluation text that is compared: shorter ones are labels and numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecontaminateConfig(FilesConfig):
    """`conjoint data decontaminate`."""

    against: list[str] = field(default_factory=list)
    """Files of evaluation sets: .jsonl, .json (a list) or .parquet, the first two also as .gz."""
    n: int = 13
    """Consecutive words that make an overlap."""

    def validate(self) -> None:
        FilesConfig.validate(self)
        if not self.against:
            raise ConjointError("give against=[FILE,...], the evaluation sets to compare with")
        if self.n < MIN_WORDS:
            raise ConjointError(f"n={self.n} must be at least {MIN_WORDS} words")


def run(overrides: list[str]) -> int:
    """Print which sets the rows overlap with; write those that do with none."""
    cfg = configured(DecontaminateConfig, overrides)
    cfg.validate()
    tally = decontaminate(cfg)
    print("\n".join(tally.words(cfg.output)))
    return 0


def decontaminate(cfg: DecontaminateConfig) -> Tally:
    """Streams the rows; only the evaluation sets are held in memory."""
    index, tally, hits = Overlaps(cfg.n), Tally(), Counter[str]()
    for path in cfg.against:
        rows = open_rows(path)[1]
        index.add(path, (text for _, row in rows for text in texts(row)))
    with new_file(cfg.output) as out:
        # As kind "open" a row needs no reference: any form of task row passes.
        for row, _ in rows_and_tasks(Path(cfg.input), "open"):
            tally.rows += 1
            found = index.find(texts(row))
            hits.update(found)
            if found:
                tally.dropped["overlap with an evaluation set"] += 1
            else:
                out.write(row)
    tally.notes = [f"    with {path}: {hits[path]:,}" for path in cfg.against]
    return tally


class Overlaps:
    """Runs of `n` words of named sets.

    Runs are kept as 64-bit hashes: with ten million of them, compared with a billion, a false
    overlap has a chance of one in a thousand.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._runs: dict[int, tuple[str, ...]] = {}
        self._whole: dict[int, tuple[str, ...]] = {}

    def add(self, name: str, found: Iterable[str]) -> None:
        """Add the texts of the set `name`."""
        for text in found:
            words = words_of(text)
            if len(words) >= self._n:
                self._put(self._runs, self._hashes(words), name)
            elif len(words) >= MIN_WORDS:
                self._put(self._whole, [hash(tuple(words))], name)

    def find(self, found: Iterable[str]) -> set[str]:
        """The names of the sets that one of the texts overlaps with."""
        names: set[str] = set()
        for text in found:
            words = words_of(text)
            for run in self._runs.keys() & self._hashes(words):
                names.update(self._runs[run])
            if MIN_WORDS <= len(words) < self._n:
                names.update(self._whole.get(hash(tuple(words)), ()))
        return names

    def _hashes(self, words: list[str]) -> set[int]:
        return set(map(hash, zip(*(words[i:] for i in range(self._n)), strict=False)))

    @staticmethod
    def _put(table: dict[int, tuple[str, ...]], keys: Iterable[int], name: str) -> None:
        for key in keys:
            names = table.get(key, ())
            if name not in names:
                table[key] = (*names, name)


def words_of(text: str) -> list[str]:
    """Words in one spelling: compatible forms, no case, no punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def texts(value: Any) -> Iterator[str]:
    """Every text in a row, however deep; keys are not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inside in value.values():
            yield from texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from texts(inside)
