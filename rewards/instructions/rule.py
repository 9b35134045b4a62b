"""What a check of an instruction is: its parameters, and a function that says why it fails."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Failure = Callable[[str, Mapping[str, Any]], str]
"""`(text, parameters)` -> "" where the check holds, else what was found and wanted."""

Parameter = tuple[Callable[[Any], bool], str]
"""A test of the value, and in words what passes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One check. Its functions are linear in the text and raise nothing, whatever the text is."""

    parameters: Mapping[str, Parameter]
    failure: Failure
    shown: Failure | None = None
    """What the hack-check asks of a text without its claims of compliance, mostly `failure` again;
    None where a claim does not make the check hold, or is itself of the form asked for."""
    verbatim: bool = False
    """Whether an answer counts as it is written, markup and all, and not as its reader sees it."""
    conflict: Callable[[Mapping[str, Any]], str] = field(default=lambda _: "")
    """Why no answer can meet these parameters together; "" where one can."""


def showing(parameters: Mapping[str, Parameter], failure: Failure) -> Rule:
    """A check of what the text holds: words that only claim it must not count."""
    return Rule(parameters, failure, shown=failure)


def _is_count(value: Any) -> bool:
    """Whole, and a float too: a table with nulls stores whole numbers so."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 1 <= value <= 100_000 and value == int(value)


def is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(is_filled, value))


COUNT: Parameter = (_is_count, "a whole number of at least 1")
TEXT: Parameter = (is_filled, "a text that is not blank")
TEXTS: Parameter = (_is_list, "a list of texts that are not blank")
RELATION: Parameter = (lambda v: v in ["at least", "less than"], "'at least' or 'less than'")


def compared(found: int, relation: str, wanted: float, what: str) -> str:
    """The failure of a count against "at least" (>=) or "less than" (<), IFEval's two relations."""
    if found < wanted if relation == "less than" else found >= wanted:
        return ""
    return f"{found} {what}, wanted {relation} {int(wanted)}"


def quoted(text: str) -> str:
    """A text of the response or the reference, in quotation marks and safe to print."""
    return repr(text).encode("utf-8", "replace").decode()
