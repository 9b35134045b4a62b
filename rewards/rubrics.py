"""Rubrics as data: the YAML schema, loading with errors a designer can act on, and the hard rules.

A rubric file is documented in docs/self-critique.md; the shipped ones are in configs/rubrics/.
A prescriptive rubric may carry `forbidden` patterns: code checks them, so that no judge can be
talked out of them.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rewards.quoting import visible
from rl.types import ConjointError

KINDS = ("core", "prescriptive")
EVERY_KIND = "*"
_OPENING_CHARS = 300
_INTERJECTION = re.compile(r"\w+(?:[ ']\w+){0,3} ?[!.,:;\u2013\u2014-]+[\W_]*")
_EMPHASIS = re.compile(r"[*_`~#]+")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing the judge looks at; breaking a mandatory one loses the pair."""

    text: str
    weight: float = 1.0
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Rubric:
    """A named list of criteria. `short` is its form for the compact judge template."""

    name: str
    version: int
    kind: str
    intent: str
    short: str
    criteria: tuple[Criterion, ...]
    applies_to: tuple[str, ...] = (EVERY_KIND,)
    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    forbidden_opening: tuple[re.Pattern[str], ...] = ()
    forbidden_anywhere: tuple[re.Pattern[str], ...] = ()

    def applies(self, task_kind: str) -> bool:
        return EVERY_KIND in self.applies_to or task_kind in self.applies_to

    def violation(self, answer: str) -> str | None:
        """The words of `answer` that a forbidden pattern matches, None if none does.

        An opening pattern matches from the first letter or digit on, or after a short interjection
        ("Sure! ..."), so that neither an emoji nor a filler word hides it.
        """
        text = plain(answer)
        opening = re.sub(r"^[\W_]+", "", text)[:_OPENING_CHARS]
        starts = [0] + [m.end() for m in [_INTERJECTION.match(opening)] if m]
        found = [p.match(opening, at) for p in self.forbidden_opening for at in starts]
        found += [p.search(text) for p in self.forbidden_anywhere]
        return next((m.group().strip() for m in found if m), None)


def plain(text: str) -> str:
    """`text` as a reader sees it: no invisible characters, no emphasis, plain forms."""
    folded = visible(unicodedata.normalize("NFKC", text))
    folded = " ".join(_EMPHASIS.sub("", folded).split())
    return folded.replace("\u2019", "'").replace("\u2018", "'")


def shipped_rubrics() -> list[str]:
    """Names of the rubrics that come with conjoint, sorted."""
    folder = files("configs").joinpath("rubrics")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_rubrics(
    names: Sequence[str], search: Sequence[Path] = (), key: str = "reward.rubrics"
) -> list[Rubric]:
    """Load rubrics in the order given; `key` is the config key that names them.

    A name ending in .yaml or .yml is a file, relative to the `search` folders or the working
    folder; any other is NAME.yaml in a `search` folder, else a shipped rubric. Raises
    ConjointError for a rubric that is missing, malformed or given twice.
    """
    rubrics = [_load_file(_find(name, search, key)) for name in names]
    seen: set[str] = set()
    for rubric in rubrics:
        if rubric.name in seen:
            raise ConjointError(f"{key}: the rubric '{rubric.name}' is given twice")
        seen.add(rubric.name)
    return rubrics


def _find(name: str, search: Sequence[Path], key: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        tried = [folder / name for folder in search] + [Path(name)]
    else:
        tried = [folder / f"{name}.yaml" for folder in search]
        tried.append(Path(str(files("configs").joinpath("rubrics", f"{name}.yaml"))))
    for path in tried:
        if path.is_file():
            return path
    raise ConjointError(
        f"{key}: no rubric '{name}'; give the path of a YAML file or one of: "
        + ", ".join(shipped_rubrics())
    )


def _load_file(path: Path) -> Rubric:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConjointError(f"rubric file {path} is not readable YAML: {detail}") from error
    if not isinstance(data, Mapping):
        raise ConjointError(
            f"rubric file {path}: expected a mapping of keys, see docs/self-critique.md"
        )
    return _Reader(path, data).rubric()


_KEYS = frozenset(
    {"name", "version", "kind", "intent", "short", "criteria"}
    | {"applies_to", "examples", "forbidden"}
)


class _Reader:
    """Reads one rubric mapping; every complaint names the file, the key and what it should be."""

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self._path, self._data = path, data

    def rubric(self) -> Rubric:
        self._known(self._data, _KEYS, "")
        kind = self._text("kind")
        if kind not in KINDS:
            self._fail("kind", f"one of {', '.join(KINDS)}", kind)
        version = self._data.get("version")
        if type(version) is not int or version < 1:
            self._fail("version", "a whole number from 1", version)
        examples = self._mapping("examples", {"good", "bad"})
        forbidden = self._mapping("forbidden", {"opening", "anywhere"})
        if forbidden and kind != "prescriptive":
            self._fail("forbidden", "absent, because only a prescriptive rubric has it", "a value")
        return Rubric(
            name=self._text("name"),
            version=version,
            kind=kind,
            intent=self._text("intent"),
            short=self._text("short"),
            criteria=self._criteria(),
            applies_to=self._texts(self._data.get("applies_to", [EVERY_KIND]), "applies_to", 1),
            good=self._texts(examples.get("good", []), "examples.good"),
            bad=self._texts(examples.get("bad", []), "examples.bad"),
            forbidden_opening=self._patterns(forbidden.get("opening", []), "forbidden.opening"),
            forbidden_anywhere=self._patterns(forbidden.get("anywhere", []), "forbidden.anywhere"),
        )

    def _criteria(self) -> tuple[Criterion, ...]:
        rows = self._data.get("criteria")
        if not isinstance(rows, list) or not rows:
            self._fail("criteria", "a list of at least one {text, weight, mandatory}", rows)
        found = []
        for i, row in enumerate(rows):
            key = f"criteria[{i}]"
            if not isinstance(row, Mapping):
                self._fail(key, "a mapping {text, weight, mandatory}", row)
            self._known(row, {"text", "weight", "mandatory"}, key + ".")
            text, weight = row.get("text"), row.get("weight", 1.0)
            mandatory = row.get("mandatory", False)
            if not isinstance(text, str) or not text.strip():
                self._fail(f"{key}.text", "a sentence", text)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
                self._fail(f"{key}.weight", "a number above 0", weight)
            if not isinstance(mandatory, bool):
                self._fail(f"{key}.mandatory", "true or false", mandatory)
            found.append(Criterion(" ".join(text.split()), float(weight), mandatory))
        return tuple(found)

    def _text(self, key: str) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or not value.strip():
            self._fail(key, "a text", value)
        return " ".join(value.split())

    def _texts(self, value: Any, key: str, at_least: int = 0) -> tuple[str, ...]:
        ok = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
        if not ok or len(value) < at_least:
            self._fail(key, f"a list of at least {at_least} texts", value)
        return tuple(v.strip() for v in value)

    def _patterns(self, value: Any, key: str) -> tuple[re.Pattern[str], ...]:
        found = []
        for i, text in enumerate(self._texts(value, key)):
            try:
                found.append(re.compile(text, re.IGNORECASE))
            except re.error as error:
                self._fail(f"{key}[{i}]", f"a regular expression ({error})", text)
        return tuple(found)

    def _mapping(self, key: str, allowed: set[str]) -> Mapping[str, Any]:
        value = self._data.get(key, {})
        if not isinstance(value, Mapping):
            self._fail(key, f"a mapping with the keys {', '.join(sorted(allowed))}", value)
        self._known(value, allowed, key + ".")
        return value

    def _known(self, data: Mapping[str, Any], allowed: set[str] | frozenset[str], at: str) -> None:
        for key in data:
            if key not in allowed:
                raise ConjointError(
                    f"rubric file {self._path}: unknown key '{at}{key}'; "
                    f"known are {', '.join(sorted(allowed))}"
                )

    def _fail(self, key: str, expected: str, got: object) -> NoReturn:
        found = "it is missing" if got is None else f"got {got!r}"
        raise ConjointError(f"rubric file {self._path}: '{key}' must be {expected}; {found}")
