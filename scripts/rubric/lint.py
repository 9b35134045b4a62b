"""Rubric files read as a reviewer would: faults that a run refuses or suffers from, and advice.

Every finding names the file, the line and what to do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich.console import Console

from conjoint.rewards.registry import default_kinds
from conjoint.rewards.rubrics.file import RubricFile, read_rubric
from conjoint.rewards.rubrics.find import find_rubric, shipped_rubrics
from conjoint.rewards.rubrics.rubric import EVERY_KIND, Rubric
from conjoint.scripts.rubric.shared.config import LintConfig, load_as
from conjoint.scripts.rubric.shared.page import Page, Table
from conjoint.scripts.rubric.wording import contradiction, same, vague_terms

FAULT, ADVICE = "fault", "advice"
MAX_SHORT = 30
"""Characters that the compact template has room for."""
_MAX_WORDS = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one line of a rubric file. A fault should not go into a run."""

    level: str
    rule: str
    path: Path
    line: int
    words: str
    todo: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


FOUND = 3
"""Exit code where there is a fault."""


def run(words: Sequence[str]) -> int:
    """Print the findings and write the page; 0, or 3 if there is a fault."""
    cfg = load_as(LintConfig, words)
    folder = cfg.folder("lint")
    names = cfg.rubrics or shipped_rubrics()
    found = lint([read_rubric(find_rubric(name, key="rubrics")) for name in names])
    faults = sum(f.level == FAULT for f in found)
    page = Page(
        "Rubric lint",
        [
            f"{len(names)} rubrics: {', '.join(names)}",
            f"faults: {faults}, advice: {len(found) - faults}",
        ],
        tables=[
            Table(
                "Findings",
                ("where", "level", "rule", "what", "what to do"),
                [(f.place, f.level, f.rule, f.words, f.todo) for f in found],
                "A fault should not go into a run; advice is for its author to weigh.",
            )
        ]
        if found
        else [],
    )
    console = Console(highlight=False)
    page.show(console)
    page.write(folder / "index.html")
    console.print(f"page: {folder / 'index.html'}", soft_wrap=True, markup=False)
    return FOUND if faults else 0


def lint(files: Sequence[RubricFile]) -> list[Finding]:
    """Findings in the order of files and lines; those between two files stand with the second."""
    found: list[Finding] = []
    for file in files:
        found += [
            Finding(FAULT, "schema", file.path, p.line, p.words, "correct this key")
            for p in file.problems
        ]
        if file.rubric is not None:
            found += [*_criteria(file, file.rubric), *_examples(file, file.rubric)]
            found += _keys(file, file.rubric)
    whole = [(f, f.rubric) for f in files if f.rubric is not None]
    for (one, first), (other, second) in combinations(whole, 2):
        found += _between(one, first, other, second)
    order = {file.path: i for i, file in enumerate(files)}
    return sorted(found, key=lambda f: (order[f.path], f.line, f.level != FAULT))


def _criteria(file: RubricFile, rubric: Rubric) -> Iterator[Finding]:
    for i, criterion in enumerate(rubric.criteria):
        line = file.line_of(f"criteria[{i}]")
        for term, why in vague_terms(criterion.text):
            yield Finding(
                *(ADVICE, "unverifiable", file.path, line),
                f"'{term}' {why}",
                "name what two readers would both find in the answer, or both miss",
            )
        if (count := len(criterion.text.split())) > _MAX_WORDS:
            yield Finding(
                *(ADVICE, "long", file.path, line),
                f"one criterion of {count} words",
                "split it: a judge answers one question better than three",
            )
    for (i, one), (j, other) in combinations(enumerate(rubric.criteria), 2):
        line = file.line_of(f"criteria[{j}]")
        said = f"criterion {j + 1} ({other.text!r}) and criterion {i + 1} ({one.text!r})"
        if why := contradiction(one.text, other.text):
            yield Finding(
                *(FAULT, "contradiction", file.path, line),
                f"{said} contradict each other: {why}",
                "keep one of them, or say in each when it holds",
            )
        elif same(one.text, other.text):
            yield Finding(
                *(FAULT, "duplicate", file.path, line),
                f"{said} ask for the same, which counts twice",
                "keep one of them and add up their weights",
            )


def _examples(file: RubricFile, rubric: Rubric) -> Iterator[Finding]:
    for side, texts in (("good", rubric.good), ("bad", rubric.bad)):
        if not texts:
            yield Finding(
                *(ADVICE, "examples", file.path, file.line_of("examples")),
                f"there is no {side} example",
                f"add one under examples.{side}: a judge reads the line better from both sides",
            )
    for i, text in enumerate(rubric.bad):
        line = file.line_of(f"examples.bad[{i}]")
        if text in rubric.good:
            yield Finding(
                *(FAULT, "examples", file.path, line),
                f"{text!r} stands among the good and the bad examples",
                "leave it on one side",
            )
        has_rule = rubric.forbidden_opening or rubric.forbidden_anywhere
        if has_rule and rubric.violation(text) is None:
            yield Finding(
                *(ADVICE, "examples", file.path, line),
                f"no forbidden pattern matches the bad example {text!r}",
                "widen a pattern, or move the example to a rubric that a judge decides",
            )
    for i, text in enumerate(rubric.good):
        if (words := rubric.violation(text)) is not None:
            yield Finding(
                *(FAULT, "examples", file.path, file.line_of(f"examples.good[{i}]")),
                f"a forbidden pattern matches {words!r} in a good example",
                "narrow the pattern: it would make good answers lose",
            )


def _keys(file: RubricFile, rubric: Rubric) -> Iterator[Finding]:
    if len(rubric.short) > MAX_SHORT:
        yield Finding(
            *(ADVICE, "short", file.path, file.line_of("short")),
            f"the short form has {len(rubric.short)} characters",
            f"say it in {MAX_SHORT}: the compact template is for policies with little context",
        )
    for i, kind in enumerate(rubric.applies_to):
        if kind != EVERY_KIND and kind not in default_kinds():
            yield Finding(
                *(ADVICE, "kinds", file.path, file.line_of(f"applies_to[{i}]")),
                f"'{kind}' is no task kind of conjoint ({', '.join(default_kinds())})",
                "correct it, unless your run has a kind of its own with this name",
            )
    if rubric.kind == "prescriptive" and not any(c.mandatory for c in rubric.criteria):
        yield Finding(
            *(ADVICE, "kinds", file.path, file.line_of("kind")),
            "a prescriptive rubric without a mandatory criterion is only weighed",
            "set mandatory: true on what must never be broken",
        )


def _between(
    one: RubricFile, first: Rubric, other: RubricFile, second: Rubric
) -> Iterator[Finding]:
    if first.name == second.name:
        if first.version == second.version and first != second:
            yield Finding(
                *(ADVICE, "version", other.path, other.line_of("version")),
                f"it differs from {one.path}, which has the same name and version",
                "raise the version whenever the meaning changes",
            )
        return  # two versions of one rubric never judge together
    if (first.alternative_to or first.name) == (second.alternative_to or second.name):
        return  # nor do two alternatives
    for i, a in enumerate(first.criteria):
        for j, b in enumerate(second.criteria):
            line = other.line_of(f"criteria[{j}]")
            said = f"criterion {j + 1} ({b.text!r}) and {one.path}:{one.line_of(f'criteria[{i}]')}"
            if why := contradiction(a.text, b.text):
                yield Finding(
                    *(ADVICE, "contradiction", other.path, line),
                    f"{said} ({a.text!r}) contradict each other: {why}",
                    "do not name both in reward.rubrics, or make one alternative_to the other",
                )
            elif same(a.text, b.text):
                yield Finding(
                    *(ADVICE, "duplicate", other.path, line),
                    f"{said} ask for the same, which counts twice in a run with both",
                    "keep it in one of them",
                )
