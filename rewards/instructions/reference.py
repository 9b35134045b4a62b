"""A reference of the `instructions` reward, read and checked: what an answer is asked for.

`{"instruction_id_list": [ID], "kwargs": [{...parameters}]}` is IFEval's form,
`{"checks": [{"name": NAME, ...parameters}]}` the house's, whose names are those of `RULES`, and
`{"nuanced": [TEXT]}` holds constraints in words, which only a judge can check. A reference has one
or several of them; its other keys are passed over.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjoint.envs.types import ConjointError
from conjoint.rewards.instructions.content import CONTENT
from conjoint.rewards.instructions.form import FORM
from conjoint.rewards.instructions.house import HOUSE
from conjoint.rewards.instructions.rule import Rule, is_filled

IFEVAL: dict[str, Rule] = {**CONTENT, **FORM}
"""The 25 types of the public set, by id without a language prefix."""
RULES: dict[str, Rule] = {**HOUSE, **IFEVAL}
"""Every check by its name. To add one, add a `Rule` to one of the three tables."""

_LANGUAGE_PREFIX = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]{2,4})?:")


@dataclass(frozen=True, slots=True)
class Check:
    """One check of an answer with its parameters, which its rule accepts."""

    name: str
    rule: Rule
    asked: Mapping[str, Any]

    def texts(self) -> list[str]:
        """Every text among the parameters, those in lists too."""
        lists = [v if isinstance(v, (list, tuple)) else [v] for v in self.asked.values()]
        return [value for values in lists for value in values if isinstance(value, str)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one task asks for: checks in order, and constraints in words."""

    checks: tuple[Check, ...]
    nuanced: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.checks) + len(self.nuanced)


def read_reference(reference: Any) -> Asked:
    """Raises ConjointError naming the instruction, the parameter and what was expected."""
    given = reference if isinstance(reference, Mapping) else {}
    ids = _listed(given, "instruction_id_list")
    checks = [*_public_checks(ids, given.get("kwargs")), *_named(_listed(given, "checks"))]
    nuanced = _listed(given, "nuanced")
    for place, constraint in enumerate(nuanced, start=1):
        if not is_filled(constraint):
            raise ConjointError(f"nuanced {place} is {constraint!r}; expected a text")
    if not checks and not nuanced:
        raise ConjointError(
            'expected {"instruction_id_list": [...], "kwargs": [...]} with an instruction, or '
            '{"checks": [{"name": ..., parameters}, ...]} with a check'
        )
    return Asked(tuple(checks), tuple(nuanced))


def _listed(given: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = given.get(key)
    if value is None:  # absent, or a parquet file's null
        return ()
    if not isinstance(value, (list, tuple)):
        raise ConjointError(f"{key} is {value!r}; expected a list")
    return value


def _public_checks(ids: Sequence[Any], rows: Any) -> list[Check]:
    """IFEval's form: an id may carry a language prefix, a row of parameters may be null."""
    if not ids:
        return []
    if not isinstance(rows, (list, tuple)) or len(rows) != len(ids):
        raise ConjointError(
            f"kwargs must be a list of {len(ids)}, one object for each id of instruction_id_list"
        )
    found = []
    for place, (name, asked) in enumerate(zip(ids, rows, strict=True), start=1):
        bare = name if isinstance(name, str) else ""
        if bare not in IFEVAL:
            bare = _LANGUAGE_PREFIX.sub("", bare, count=1)
        if bare not in IFEVAL:
            raise ConjointError(
                f"instruction {place} has the id {name!r}, which is not one of IFEval's "
                f"{len(IFEVAL)}; {_hint(bare, IFEVAL)}"
            )
        if not isinstance(asked, Mapping | None):
            raise ConjointError(f"kwargs[{place - 1}] is {asked!r}; expected an object")
        found.append(_check(f"instruction {place} ({bare})", bare, asked or {}))
    return found


def _named(checks: Sequence[Any]) -> list[Check]:
    found = []
    for place, check in enumerate(checks, start=1):
        name = check.get("name") if isinstance(check, Mapping) else None
        if not isinstance(name, str) or name not in RULES:
            raise ConjointError(
                f"check {place} has the name {name!r}; expected one of {', '.join(HOUSE)}, or an "
                f"id of IFEval; {_hint(str(name), RULES)}"
            )
        asked = {key: value for key, value in check.items() if key != "name"}
        found.append(_check(f"check {place} ({name})", name, asked))
    return found


def _hint(name: str, known: Mapping[str, Rule]) -> str:
    """Asks about the name most like `name`, with or without the part before its colon."""
    by_end = {key.rpartition(":")[2]: key for key in known}
    spellings = {**by_end, **{key: key for key in known}}
    near = difflib.get_close_matches(name[:80], spellings, n=1)
    return f"did you mean {spellings[near[0]]}?" if near else "see docs/instructions.md"


def _check(where: str, name: str, given: Mapping[str, Any]) -> Check:
    """The check with its parameters tested. Raises ConjointError that begins with `where`."""
    rule = RULES[name]
    # A parquet file writes every check with the columns of all: nulls are absent.
    asked = {key: value for key, value in given.items() if value is not None}
    if unknown := asked.keys() - rule.parameters.keys():
        raise ConjointError(
            f"{where} has an unknown parameter {min(map(str, unknown))!r}; expected "
            f"{' and '.join(rule.parameters) or 'none'}"
        )
    for key, (accepts, expected) in rule.parameters.items():
        if not accepts(asked.get(key)):
            raise ConjointError(f"{where}: {key} is {asked.get(key)!r}; expected {expected}")
    if conflict := rule.conflict(asked):
        raise ConjointError(f"{where}: {conflict}, which no answer can follow")
    return Check(name, rule, asked)
