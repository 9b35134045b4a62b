"""Rows to grade: read and checked before anything is graded, then put into groups.

A row is `{id?, group?, kind, messages | prompt, reference, response}`. The rows of a run's
rollouts/step-*.jsonl and of `conjoint eval` are such rows.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjoint.envs.sources.messages import as_messages, read_messages
from conjoint.envs.sources.rows import json_type, open_rows
from conjoint.envs.types import ConjointError, Message, Status, Task

_ROLES = ("system", "user", "assistant", "tool")
_KNOWN = frozenset(
    ("id", "group", "kind", "messages", "prompt", "reference", "response", "meta", "status")
)


@dataclass(frozen=True, slots=True)
class GradeRow:
    """One response to grade."""

    line: int
    """Its line (parquet: row) in the file, from 1."""
    id: Any
    """Text or a number, the line if the row has none."""
    group: str
    """Rows of equal `group` belong together."""
    task: Task
    response: str
    unfinished: bool = False
    """Whether the row is a trajectory that a run could not finish, so there is nothing to grade."""
    tokens: tuple[tuple[int, bool], ...] = ()
    """(token, whether it was sampled) of a row of a run's rollouts."""


def read_rows(
    path: str, kinds: Collection[str] = (), skipped: Counter[str] | None = None
) -> list[GradeRow]:
    """Every row of the file; of `kinds` alone if there are any, with the others counted by kind in
    `skipped`. Raises ConjointError naming file, line and field, or if no row is of these kinds."""
    where, rows = open_rows(path)
    found, others = [], Counter[str]() if skipped is None else skipped
    for line, row in rows:
        try:
            kind = _kind(row)
            if kinds and kind not in kinds:
                others[kind] += 1
            else:
                found.append(read_row(line, row))
        except ValueError as error:
            raise ConjointError(f"{path} {where} {line}: {error}.") from error
    if not found:
        raise ConjointError(
            f"{path} has no row of kind {', '.join(kinds)}; its kinds are {', '.join(others)}"
        )
    return found


def grouped(
    rows: Sequence[GradeRow], *, pairwise: bool, path: str, alone: bool = True
) -> list[list[GradeRow]]:
    """The rows that are scored together, in the order of their first.

    A pairwise reward gets the whole group, which must answer one prompt (else ConjointError); one
    task, unless it is `alone`. For the others only rows of the same task share a call, whatever
    they name as their group.
    """
    groups: dict[str, list[GradeRow]] = {}
    for row in rows:
        key = row.group if pairwise else f"{row.group} {_digest(_content(row.task))}"
        groups.setdefault(key, []).append(row)
    for members in groups.values() if pairwise else ():
        first = members[0]
        for row in members[1:]:
            if (row.task.kind, row.task.messages) != (first.task.kind, first.task.messages):
                raise ConjointError(
                    f"{path} line {row.line}: its group has another prompt or kind at line "
                    f"{first.line}; only answers to one prompt can be compared."
                )
            if not alone and _digest(_content(row.task)) != _digest(_content(first.task)):
                raise ConjointError(
                    f"{path} line {row.line}: its group has another reference or meta at line "
                    f"{first.line}; rewards that are combined need one task for a group."
                )
    return list(groups.values())


def read_row(line: int, row: Mapping[str, Any]) -> GradeRow:
    """One row as read from line `line`. Raises ValueError for a field that cannot be."""
    kind, response = _kind(row), row.get("response")
    if not isinstance(response, str):
        raise ValueError(f"field 'response' is {_found(row, 'response')}; expected text")
    messages = _messages(row)
    if messages[-1] == {"role": "assistant", "content": response}:  # a rollout's last message
        messages = messages[:-1]
    meta = row.get("meta")
    if not isinstance(meta, Mapping):
        meta = {k: v for k, v in row.items() if k not in _KNOWN and v is not None}
        given = as_messages(row.get("messages") or row.get("prompt"))
        meta |= {"conversational": True} if isinstance(given, list) else {}
    prompt = _digest([kind, messages])
    task = Task(f"{kind}-{prompt[:16]}", kind, tuple(messages), row.get("reference"), dict(meta))
    name, group = _label(row, "id"), _label(row, "group")
    return GradeRow(
        line,
        line if name is None else name,
        f"prompt {prompt}" if group is None else f"group {group!r}",
        task,
        response,
        unfinished=row.get("status") == Status.FAILED,
        tokens=_tokens(row),
    )


def _kind(row: Mapping[str, Any]) -> str:
    kind = row.get("kind")
    if not isinstance(kind, str) or not kind.strip():
        raise ValueError(f"field 'kind' is {_found(row, 'kind')}; expected a task kind like 'math'")
    return kind


def _tokens(row: Mapping[str, Any]) -> tuple[tuple[int, bool], ...]:
    """The tokens of a row of rollouts; () for any other row."""
    tokens, sampled = row.get("tokens"), row.get("sampled")
    if not isinstance(tokens, list) or not isinstance(sampled, list):
        return ()
    pairs = tuple((t, bool(s)) for t, s in zip(tokens, sampled, strict=False))
    whole = len(tokens) == len(sampled) and all(isinstance(t, int) for t in tokens)
    return pairs if whole else ()


def _messages(row: Mapping[str, Any]) -> list[Message]:
    field = "messages" if row.get("messages") is not None else "prompt"
    given = as_messages(row.get(field))
    if isinstance(given, list) or (isinstance(given, str) and field == "prompt"):
        return read_messages(given, field, _ROLES, empty=True)
    wanted = "a list of messages" if field == "messages" else "text (or give 'messages')"
    raise ValueError(f"field '{field}' is {_found(row, field)}; expected {wanted}")


def _label(row: Mapping[str, Any], field: str) -> Any:
    value = row.get(field)
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and not isinstance(value, bool) and isinstance(value, str | int | float | None):
        return value
    raise ValueError(f"field '{field}' is {json_type(value)}; expected text or a finite number")


def _content(task: Task) -> list[Any]:
    return [task.kind, list(task.messages), task.reference, dict(task.meta)]


def _digest(content: Any) -> str:
    """A hash of plain data; equal data have equal hashes, also where text has lone surrogates."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _found(row: Mapping[str, Any], field: str) -> str:
    return json_type(row[field]) if field in row else "missing"
