"""Tasks from a file of rows: JSONL or parquet, in TRL's, verl's or GSM8K's form.

Every row is read and checked before anything starts; what is wrong with one is said with its file,
line and field. TRL: `prompt` (text or messages) and further columns. verl: `prompt` (messages),
`reward_model.ground_truth`, `extra_info`. GSM8K: `question`, `answer` ending in `#### n`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conjoint.envs.sources.rows import json_type, open_rows
from conjoint.envs.text import digest, sound
from conjoint.envs.types import ConjointError, Message, Task

Validate = Callable[[Any], None]
"""Raises ConjointError or ValueError for a reference that no answer could be graded by."""

_REFERENCES = ("reference", "ground_truth", "answer", "solution")
"""TRL's columns that hold the reference, the first present one counts; others become meta."""

_ROLES = ("system", "user", "assistant")
_FORMS = (
    "expected TRL's form (prompt, answer), verl's (prompt, reward_model.ground_truth) or GSM8K's "
    "(question, answer)"
)


class _BadRow(Exception):
    """What is wrong with a row; the reader adds the file and the line."""


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
        except _BadRow as error:
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
    if row.get("reward_model") is not None:
        prompt, reference, field, meta = _verl(row)
    elif row.get("prompt") is not None:
        prompt, reference, field, meta = _trl(row)
    elif row.get("question") is not None:
        prompt, reference, field, meta = _gsm8k(row, kind)
    else:
        missing = "question" if "question" in row else "prompt"
        problem = "null" if missing in row else "missing"
        raise _BadRow(f"field '{missing}' is {problem}; {_FORMS}")
    _check_reference(kind, reference, field, validate)
    _check_finite(row)
    if prompt != sound(prompt):
        raise _BadRow("the prompt holds an unpaired surrogate, which is not text")
    return Task.make(kind, _suffixed(prompt, suffix), reference, meta)


def _trl(row: dict[str, Any]) -> tuple[list[Message], Any, str, dict[str, Any]]:
    field = next((name for name in _REFERENCES if row.get(name) is not None), "answer")
    meta = {k: v for k, v in row.items() if k not in ("prompt", field)}
    if isinstance(row["prompt"], list):
        meta["conversational"] = True
    return _messages(row["prompt"], "prompt"), row.get(field), field, meta


def _verl(row: dict[str, Any]) -> tuple[list[Message], Any, str, dict[str, Any]]:
    model, field = row["reward_model"], "reward_model.ground_truth"
    if not isinstance(model, Mapping):
        raise _BadRow(f"field 'reward_model' is {json_type(model)}; expected an object")
    if model.get("ground_truth") is None:
        raise _BadRow(f"field '{field}' is missing; expected what a verifier compares with")
    if row.get("prompt") is None:
        raise _BadRow(f"field 'prompt' is missing; {_FORMS}")
    extra = row.get("extra_info")
    if extra is not None and not isinstance(extra, Mapping):
        raise _BadRow(f"field 'extra_info' is {json_type(extra)}; expected an object")
    rest = {k: v for k, v in row.items() if k not in ("prompt", "reward_model", "extra_info")}
    meta = {**rest, **(extra or {})}
    if isinstance(row["prompt"], list):
        meta["conversational"] = True
    return _messages(row["prompt"], "prompt"), model["ground_truth"], field, meta


def _gsm8k(row: dict[str, Any], kind: str) -> tuple[list[Message], Any, str, dict[str, Any]]:
    answer = row.get("answer")
    meta = {k: v for k, v in row.items() if k not in ("question", "answer")}
    if kind == "math":
        if not isinstance(answer, str):
            raise _BadRow(
                f"field 'answer' is {json_type(answer)}; expected text ending in '#### n'"
            )
        _, marker, answer = answer.rpartition("####")
        answer = answer.strip()
        if not marker or not answer or "\n" in answer:
            raise _BadRow(
                "field 'answer' does not end in a line '#### n'; expected GSM8K's form, or name "
                "the question 'prompt' where 'answer' is the bare result"
            )
    return _messages(row["question"], "question"), answer, "answer", meta


def _messages(value: Any, field: str) -> list[Message]:
    """The prompt as messages that end with the user's."""
    if isinstance(value, str):
        if not value.strip():
            raise _BadRow(f"field '{field}' is empty; expected text")
        return [Message(role="user", content=value)]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else json_type(value)
        raise _BadRow(f"field '{field}' is {what}; expected text or a list of messages")
    messages = []
    for place, message in enumerate(value):
        where = f"{field}[{place}]"
        if not isinstance(message, Mapping):
            raise _BadRow(f"field '{where}' is {json_type(message)}; expected role and content")
        role, content = message.get("role"), message.get("content")
        if role not in list(_ROLES):
            raise _BadRow(f"field '{where}.role' is {role!r}; expected one of {', '.join(_ROLES)}")
        if not isinstance(content, str) or not content.strip():
            what = "empty" if isinstance(content, str) else json_type(content)
            raise _BadRow(f"field '{where}.content' is {what}; expected text")
        messages.append(Message(role=role, content=content))
    if messages[-1]["role"] != "user":
        raise _BadRow(f"field '{field}' ends with a message of role {role!r}; expected user")
    return messages


def _suffixed(messages: list[Message], suffix: str) -> list[Message]:
    if not suffix:
        return messages
    last = messages[-1]
    return [*messages[:-1], Message(role=last["role"], content=f"{last['content']}\n{suffix}")]


def _check_reference(kind: str, reference: Any, field: str, validate: Validate | None) -> None:
    if validate is None:
        return
    if lacks := no_reference(reference):
        raise _BadRow(f"field '{field}' is {lacks}; kind '{kind}' needs a reference to verify by")
    try:
        validate(reference)
    except (ConjointError, ValueError) as error:
        raise _BadRow(f"field '{field}': {str(error).rstrip('.')}") from error


def _check_finite(row: Mapping[str, Any]) -> None:
    """A checkpoint keeps tasks as JSON, which has no NaN: better refused here than in mid-run."""
    for field, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise _BadRow(
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
