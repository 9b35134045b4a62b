"""The instruction verifier: checkable constraints on the text of an answer.

A reference is `{"checks": [{"name": NAME, ...parameters}]}`; the answer pays only if every check
holds. Case is ignored except by `case`, as a reader would; an answer without a letter or digit
never passes. To add a check, add one `Rule` to `RULES`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rewards.extract import visible_text
from rl.types import ConjointError, Score, Task

NAME = "instructions"
_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "exactly": lambda found, wanted: found == wanted,
    "at_least": lambda found, wanted: found >= wanted,
    "at_most": lambda found, wanted: found <= wanted,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One check: its parameters with a test and a description of what each accepts.

    `failure(text, parameters)` is "" where the check holds, else what was found and wanted.
    """

    parameters: Mapping[str, tuple[Callable[[Any], bool], str]]
    failure: Callable[[str, Mapping[str, Any]], str]


def _words(text: str) -> list[str]:
    """Runs without white space that hold a letter or a digit: a dash alone is no word."""
    return [word for word in text.split() if any(c.isalnum() for c in word)]


def _word_count(text: str, asked: Mapping[str, Any]) -> str:
    found = len(_words(text))
    if _RELATIONS[asked["relation"]](found, asked["count"]):
        return ""
    wanted = f"{asked['relation'].replace('_', ' ')} {asked['count']}"
    return f"{found} word{'' if found == 1 else 's'}, wanted {wanted}"


def _starts_with(text: str, asked: Mapping[str, Any]) -> str:
    """Whole words: "Sunday" does not start with "Sun". An opening quotation mark is passed over."""
    wanted = asked["text"].strip()
    body = text.lstrip("\"'\u201c\u2018*")
    for candidate in (text, body):
        follows = candidate[len(wanted) : len(wanted) + 1]
        joined = wanted[-1].isalnum() and follows.isalnum()
        if candidate.casefold().startswith(wanted.casefold()) and not joined:
            return ""
    return f"starts with {_shown(text[: len(wanted) + 10])}, wanted {_shown(wanted)}"


def _ends_with(text: str, asked: Mapping[str, Any]) -> str:
    """Whole words; closing punctuation of the answer is passed over: "Done." ends with "done"."""
    wanted = asked["text"].strip()
    for candidate in (text, text.rstrip(".!?\"'\u201d\u2019* ")):
        before = candidate[: -len(wanted)][-1:] if len(candidate) > len(wanted) else ""
        joined = wanted[0].isalnum() and before.isalnum()
        if candidate.casefold().endswith(wanted.casefold()) and not joined:
            return ""
    return f"ends with {_shown(text[-len(wanted) - 10 :])}, wanted {_shown(wanted)}"


def _includes(text: str, asked: Mapping[str, Any]) -> str:
    """The keyword as a whole word or phrase, white space and case aside."""
    keyword = " ".join(asked["keyword"].split())
    pattern = rf"(?<!\w){re.escape(keyword.casefold())}(?!\w)"
    if re.search(pattern, " ".join(text.split()).casefold()):
        return ""
    return f"{_shown(keyword)} does not occur"


def _case(text: str, asked: Mapping[str, Any]) -> str:
    """At least one letter has case, and every one that has is of the style."""
    style = asked["style"]
    if text.islower() if style == "lower" else text.isupper():
        return ""
    wrong = next((w for w in _words(text) if w != getattr(w, style)()), None)
    return f"{_shown(wrong)} is not {style} case" if wrong else "no letter has case"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and any(c.isalnum() for c in value) and value.isprintable()


_TEXT = (_is_text, "a text of one line with a letter or digit")

RULES: dict[str, Rule] = {
    "word_count": Rule(
        {
            "relation": (lambda v: v in list(_RELATIONS), f"one of {', '.join(_RELATIONS)}"),
            "count": (_is_count, "a whole number of at least 1"),
        },
        _word_count,
    ),
    "starts_with": Rule({"text": _TEXT}, _starts_with),
    "ends_with": Rule({"text": _TEXT}, _ends_with),
    "includes": Rule({"keyword": _TEXT}, _includes),
    "case": Rule({"style": (lambda v: v in ["lower", "upper"], "lower or upper")}, _case),
}


def validate_reference(reference: Any) -> None:
    """Raises ConjointError naming the check, the parameter and what was expected."""
    checks = reference.get("checks") if isinstance(reference, Mapping) else None
    if not isinstance(checks, (list, tuple)) or not checks:
        raise ConjointError('expected {"checks": [{"name": ..., parameters}, ...]} with a check')
    for place, check in enumerate(checks, start=1):
        name = check.get("name") if isinstance(check, Mapping) else None
        if not isinstance(name, str) or name not in RULES:
            raise ConjointError(
                f"check {place} has the name {name!r}; expected one of {', '.join(RULES)}"
            )
        parameters = RULES[name].parameters
        for key, (accepts, expected) in parameters.items():
            if not accepts(check.get(key)):
                raise ConjointError(
                    f"check {place} ({name}): {key} is {check.get(key)!r}; expected {expected}"
                )
        # A parquet file writes every check with the columns of all: nulls are absent.
        unknown = {k for k, v in check.items() if v is not None} - {"name", *parameters}
        if unknown:
            raise ConjointError(
                f"check {place} ({name}) has an unknown parameter {min(unknown)!r}; expected "
                f"{' and '.join(parameters)}"
            )


def instruction_score(task: Task, response: str) -> Score:
    """1.0 if every check of `task.reference` holds, else 0.0; reasons name each one that fails."""
    try:
        validate_reference(task.reference)
    except ConjointError as error:
        return Score.infra_error(NAME, f"unusable reference: {error}")
    text = visible_text(response).strip()
    if not any(c.isalnum() for c in text):
        return Score.of(NAME, 0.0, "the answer is empty")
    checks = task.reference["checks"]
    failures = [
        f"{check['name']}: {failure}"
        for check in checks
        if (failure := RULES[check["name"]].failure(text, check))
    ]
    if failures:
        return Score.of(NAME, 0.0, *failures)
    return Score.of(NAME, 1.0, f"all {len(checks)} checks hold")


def _shown(text: str) -> str:
    return repr(text).encode("utf-8", "replace").decode()
