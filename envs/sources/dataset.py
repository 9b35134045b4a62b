"""Tasks from a file of rows (`rows.py`) in any of the forms of `forms.py`.

Every row is read and checked before anything starts; what is wrong with one is said with its file,
line and field.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conjoint.envs.sources.forms import parse_row
from conjoint.envs.sources.messages import BadRow
from conjoint.envs.sources.rows import open_rows
from conjoint.envs.text import digest, sound
from conjoint.envs.types import ConjointError, Message, Task

Validate = Callable[[Any], None]
"""Raises ConjointError or ValueError for a reference that no answer could be graded by."""


class DatasetSource:
    """The rows of one file as tasks of one kind. A `Source`: pure in the index.

    `suffix` is added to every prompt, so that a small model is told how to finish. Raises
    ConjointError for a file or row that cannot be used.
    """

    shuffle = True
    """Rows have an order of their own: the mixture draws them reshuffled every epoch."""

    def __init__(
        self, path: str | Path, kind: str, *, suffix: str = "", validate: Validate | None = None
    ) -> None:
        self.path = Path(path)
        self.kind = kind
        pairs = rows_and_tasks(self.path, kind, suffix=suffix, validate=validate)
        self._tasks = [task for _, task in pairs]
        self.fingerprint = fingerprint(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, index: int) -> Task:
        return self._tasks[index]


def rows_and_tasks(
    path: Path, kind: str, *, suffix: str = "", validate: Validate | None = None
) -> Iterator[tuple[dict[str, Any], Task]]:
    """Each row of a file as it is, with its task. Raises ConjointError as `DatasetSource` does."""
    where, rows = open_rows(path)
    for number, row in rows:
        try:
            yield row, _to_task(row, kind, suffix, validate)
        except BadRow as error:
            raise ConjointError(f"{path} {where} {number}: {error}.") from error


class RowSubset:
    """Some rows of a source, as a source; see `split_rows` of envs/mixture.py."""

    shuffle = True

    def __init__(self, kind: str, tasks: Sequence[Task]) -> None:
        self.kind = kind
        self._tasks = list(tasks)
        self.fingerprint = fingerprint(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, index: int) -> Task:
        return self._tasks[index]


def fingerprint(tasks: Sequence[Task]) -> str:
    """A hash of the tasks and their order: a resumed run must find the same rows."""
    return digest("\n".join(task.id for task in tasks))[:16]


# One row -> one task.


def _to_task(row: dict[str, Any], kind: str, suffix: str, validate: Validate | None) -> Task:
    parsed = parse_row(row, kind)
    _check_reference(kind, parsed.reference, parsed.field, validate)
    _check_finite(row)
    if parsed.messages != sound(parsed.messages):
        raise BadRow("the prompt holds an unpaired surrogate, which is not text")
    return Task.make(kind, _suffixed(parsed.messages, suffix), parsed.reference, parsed.meta)


def _suffixed(messages: list[Message], suffix: str) -> list[Message]:
    if not suffix:
        return messages
    last = messages[-1]
    return [*messages[:-1], Message(role=last["role"], content=f"{last['content']}\n{suffix}")]


def _check_reference(kind: str, reference: Any, field: str, validate: Validate | None) -> None:
    if validate is None:
        return
    if lacks := no_reference(reference):
        raise BadRow(f"field '{field}' is {lacks}; kind '{kind}' needs a reference to verify by")
    try:
        validate(reference)
    except (ConjointError, ValueError) as error:
        raise BadRow(f"field '{field}': {str(error).rstrip('.')}") from error


def _check_finite(row: Mapping[str, Any]) -> None:
    """A checkpoint keeps tasks as JSON, which has no NaN: better refused here than in mid-run."""
    for field, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise BadRow(
                f"field '{field}' holds nan or inf, which JSON does not have; give null instead"
            ) from error


def no_reference(reference: Any) -> str:
    """What a reference is that nothing can be verified by (missing, empty, not finite), else ""."""
    if reference is None:
        return "missing"
    if isinstance(reference, float) and not math.isfinite(reference):
        return str(reference)
    blank = not reference.strip() if isinstance(reference, str) else reference in ([], {})
    return "empty" if blank else ""
