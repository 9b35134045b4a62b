"""One rubric as data -> a `Rubric`, or everything that is wrong with it, each fault with its line.

A rubric is a YAML file (docs/self-critique.md), or a mapping inside a task's row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.composer import ComposerError

from conjoint.rewards.rubrics.pattern import Pattern, PatternError, compile_pattern
from conjoint.rewards.rubrics.rubric import EVERY_KIND, KINDS, Criterion, Rubric

T = TypeVar("T")

_KEYS = frozenset(
    {"name", "version", "kind", "intent", "short", "criteria", "alternative_to"}
    | {"applies_to", "examples", "forbidden"}
)
_INLINE = {"name": "task", "version": 1, "kind": "task"}
"""What a rubric inside a row may leave out; its `short` form is then its intent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a rubric; `line` is 0 where there is no file."""

    line: int
    words: str


@dataclass(frozen=True, slots=True)
class RubricFile:
    """A file as read. `rubric` is None exactly when there are problems."""

    path: Path
    rubric: Rubric | None
    problems: tuple[Problem, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    """Key, such as "criteria[0].text" -> its line, from 1."""

    def line_of(self, key: str) -> int:
        return _line_of(self.lines, key)


class _Loader(yaml.SafeLoader):
    """Reads no aliases: a few lines of them stand for millions, or for themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            words = f"the alias *{event.anchor} is not read here; write out what it stands for"
            raise ComposerError(None, None, words, event.start_mark)
        return super().compose_node(parent, index)


def read_rubric(path: Path) -> RubricFile:
    """The rubric of a file with all its faults, in the order of their lines."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, _Loader)
        data = yaml.load(text, _Loader)  # a SafeLoader
    # ValueError: bytes that are no UTF-8, a date without such a day, a number of 5,000 digits.
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        return RubricFile(path, None, (_unreadable(error),))
    if not isinstance(data, Mapping) or node is None:
        problem = Problem(1, "expected a mapping of keys, see docs/self-critique.md")
        return RubricFile(path, None, (problem,))
    lines: dict[str, int] = {}
    reader = _Reader(data, lines)
    for key, line in _keys(node):
        if key in lines:
            reader.problems.append(Problem(line, f"'{key}' is given twice"))
        lines[key] = line
    rubric = reader.rubric()
    problems = tuple(sorted(reader.problems, key=lambda problem: problem.line))
    return RubricFile(path, None if problems else rubric, problems, lines)


def inline_rubric(data: Mapping[str, Any]) -> Rubric | Problem:
    """The rubric that a mapping holds, or its first fault; see `_INLINE` for what may be left out.

    A column of a parquet file gives null for a key that a row lacks.
    """
    given = {**_INLINE, "short": data.get("intent"), **_without_null(data, depth=3)}
    reader = _Reader(given, {})
    rubric = reader.rubric()
    return reader.problems[0] if reader.problems else rubric


def _without_null(value: Any, depth: int) -> Any:
    """As deep as a rubric goes: keys, the list of criteria, the keys of one."""
    if isinstance(value, Mapping) and depth:
        return {k: _without_null(v, depth - 1) for k, v in value.items() if v is not None}
    if isinstance(value, list) and depth:
        return [_without_null(v, depth - 1) for v in value]
    return value


def _unreadable(error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    detail = getattr(error, "problem", None) or " ".join(str(error).split())
    line = mark.line + 1 if mark is not None else 1
    return Problem(line, f"this is not readable YAML (line {line}): {detail}")


def _keys(node: yaml.Node, above: str = "") -> Iterator[tuple[str, int]]:
    """(dotted key, line from 1) of everything in a YAML node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{above}.{key.value}" if above else str(key.value)
            yield name, key.start_mark.line + 1
            yield from _keys(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield f"{above}[{i}]", value.start_mark.line + 1
            yield from _keys(value, f"{above}[{i}]")


def _line_of(lines: Mapping[str, int], key: str) -> int:
    """The line of a key, else of what it would stand in, else the first."""
    while key and key not in lines:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return lines.get(key, 1 if lines else 0)


class _Reader:
    """Reads one rubric mapping; every complaint names the key and what it should be. It goes on
    after one, so that a designer sees all of them at once."""

    def __init__(self, data: Mapping[str, Any], lines: Mapping[str, int]) -> None:
        self._data, self._lines = data, lines
        self.problems: list[Problem] = []

    def rubric(self) -> Rubric:
        """Only to be used if there are no problems."""
        self._known(self._data, _KEYS, "")
        name, kind = self._text("name"), self._text("kind")
        if kind and kind not in KINDS:
            self._fail("kind", f"one of {', '.join(KINDS)}", kind)
        version = self._data.get("version")
        if type(version) is not int or version < 1:
            self._fail("version", "a whole number from 1", version)
        examples = self._mapping("examples", {"good", "bad"})
        forbidden = self._mapping("forbidden", {"opening", "anywhere"})
        if forbidden and kind != "prescriptive":
            self._fail("forbidden", "absent, because only a prescriptive rubric has it", "a value")
        given = "alternative_to" in self._data
        return Rubric(
            name=name,
            version=version if isinstance(version, int) else 0,
            kind=kind,
            intent=self._text("intent"),
            short=self._text("short"),
            criteria=self._criteria(),
            applies_to=self._texts(self._data.get("applies_to", [EVERY_KIND]), "applies_to", 1),
            good=self._texts(examples.get("good", []), "examples.good"),
            bad=self._texts(examples.get("bad", []), "examples.bad"),
            forbidden_opening=self._patterns(forbidden.get("opening", []), "forbidden.opening"),
            forbidden_anywhere=self._patterns(forbidden.get("anywhere", []), "forbidden.anywhere"),
            alternative_to=self._text("alternative_to") if given else name,
        )

    def _criteria(self) -> tuple[Criterion, ...]:
        rows = self._data.get("criteria")
        if not isinstance(rows, list) or not rows:
            self._fail("criteria", "a list of at least one {text, weight, mandatory}", rows)
            return ()
        return tuple(self._criterion(f"criteria[{i}]", row) for i, row in enumerate(rows))

    def _criterion(self, key: str, row: Any) -> Criterion:
        if not isinstance(row, Mapping):
            self._fail(key, "a mapping {text, weight, mandatory}", row)
            return Criterion("")
        self._known(row, {"text", "weight", "mandatory"}, key + ".")
        text, weight = row.get("text"), row.get("weight", 1.0)
        mandatory = row.get("mandatory", False)
        if not isinstance(text, str) or not text.strip():
            text = self._fail(f"{key}.text", "a sentence", text, "")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            weight = self._fail(f"{key}.weight", "a number above 0", weight, 1.0)
        if not isinstance(mandatory, bool):
            mandatory = self._fail(f"{key}.mandatory", "true or false", mandatory, False)
        return Criterion(" ".join(text.split()), float(weight), mandatory)

    def _text(self, key: str) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or not value.strip():
            return self._fail(key, "a text", value, "")
        return " ".join(value.split())

    def _texts(self, value: Any, key: str, at_least: int = 0) -> tuple[str, ...]:
        ok = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
        if not ok or len(value) < at_least:
            some = f" of at least {at_least}" if at_least else ""
            return self._fail(key, f"a list of texts{some}", value, ())
        return tuple(v.strip() for v in value)

    def _patterns(self, value: Any, key: str) -> tuple[Pattern, ...]:
        found = []
        for i, text in enumerate(self._texts(value, key)):
            try:
                found.append(compile_pattern(text))
            except PatternError as error:
                self._fail(f"{key}[{i}]", f"a regular expression ({error})", text)
        return tuple(found)

    def _mapping(self, key: str, allowed: set[str]) -> Mapping[str, Any]:
        value = self._data.get(key, {})
        if not isinstance(value, Mapping):
            wanted = f"a mapping with the keys {', '.join(sorted(allowed))}"
            return self._fail(key, wanted, value, {})
        self._known(value, allowed, key + ".")
        return value

    def _known(self, data: Mapping[str, Any], allowed: set[str] | frozenset[str], at: str) -> None:
        for key in data:
            if key not in allowed:
                words = f"unknown key '{at}{key}'; known are {', '.join(sorted(allowed))}"
                self.problems.append(Problem(_line_of(self._lines, f"{at}{key}"), words))

    def _fail(self, key: str, expected: str, got: object, instead: T = None) -> T:
        """Keeps the complaint; `instead` is what reading goes on with."""
        found = "it is missing" if got is None else f"got {shown(got)}"
        words = f"'{key}' must be {expected}; {found}"
        self.problems.append(Problem(_line_of(self._lines, key), words))
        return instead


def shown(value: object) -> str:
    """At most 200 characters, of a value of any depth."""
    try:
        return f"{value!r:.200}"
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that cannot be shown"
