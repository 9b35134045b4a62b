"""Responses from a file, or fresh from a policy, as groups of answers to one prompt.

Rows are those of `conjoint grade` (a run's rollouts, the rows of `conjoint eval`), where `kind` may
be left out (open), and MT-bench's `turns`, of which the first is the prompt. A row may also hold a
pair: `response_a` and `response_b`, or `chosen` and `rejected`.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.nano.sources import SOURCES
from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError, Message, StopRun, Task, derive_seed
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.grade.rows import GradeRow, grouped, read_row

_PAIRS = (("response_a", "response_b"), ("chosen", "rejected"))
_WINNERS = ("winner", "better", "expected")
_SIDES = {"a": "A", "model_a": "A", "b": "B", "model_b": "B", "tie": "tie"}
_OWN_TASKS = 8
"""Prompts of the built-in source where no input is given."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one prompt. `labels` are a human's or a verifier's numbers, None where an
    answer has none; `better` names the winner of a pair whose row says it."""

    task: Task
    ids: list[str]
    texts: list[str]
    labels: list[float | None] = field(default_factory=list)
    better: str | None = None


def read_answers(path: str, limit: int | None, label: str = "label") -> list[Answers]:
    """The stored responses of a file. Raises ConjointError naming file, line and field."""
    stored: list[GradeRow] = []
    labels: dict[int, float | None] = {}
    groups: list[Answers] = []
    for line, row, where in _rows(path):
        try:
            sides = next((s for s in _PAIRS if row.get(s[0]) is not None), None)
            if sides is not None:
                groups.append(_pair(line, row, sides))
            elif row.get("response") is None:
                raise ValueError(
                    "field 'response' is missing; give fresh=true to have a policy answer"
                )
            else:
                stored.append(read_row(line, row))
                labels[line] = _label(row, label)
        except ValueError as error:
            raise ConjointError(f"{where}: {error}.") from error
    finished = [row for row in stored if not row.unfinished]
    for members in grouped(finished, pairwise=True, path=path):
        ids, texts = [str(row.id) for row in members], [row.response for row in members]
        groups.append(Answers(members[0].task, ids, texts, [labels[row.line] for row in members]))
    if not groups:
        raise ConjointError(f"{path} holds no responses; expected one JSON object a line.")
    return groups[:limit]


def read_prompts(path: str, limit: int | None) -> list[Task]:
    """The different prompts of a file, or of nano's held-out open tasks where there is none."""
    if not path:
        return [SOURCES["open"]("heldout", 0).task(i) for i in range(limit or _OWN_TASKS)]
    tasks: dict[str, Task] = {}
    for line, row, where in _rows(path):
        try:
            task = read_row(line, {**row, "response": row.get("response") or ""}).task
        except ValueError as error:
            raise ConjointError(f"{where}: {error}.") from error
        tasks.setdefault(task.id, task)
    return list(tasks.values())[:limit]


async def fresh_answers(
    policy: ChatPolicy,
    tasks: Sequence[Task],
    *,
    k: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[list[Answers], int]:
    """k answers to each task, and how many could not be had: those are left out."""

    async def one(task: Task, sample: int) -> str | None:
        try:
            answer = await policy.chat(
                task.messages,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=derive_seed(seed, "preview", task.id, sample),
                session=f"preview/{task.id}",
            )
        except (ConjointError, StopRun):
            raise
        except Exception:
            return None
        return None if answer.stop_reason == "too_long" else answer.text

    async def group(task: Task) -> Answers:
        texts = await asyncio.gather(*(one(task, i) for i in range(k)))
        kept = [(str(i), text) for i, text in enumerate(texts) if text is not None]
        return Answers(task, [i for i, _ in kept], [text for _, text in kept])

    groups = list(await asyncio.gather(*map(group, tasks)))
    return groups, k * len(tasks) - sum(len(g.texts) for g in groups)


def stored_rows(groups: Sequence[Answers]) -> list[dict[str, Any]]:
    """Answers as rows that every subverb, and `conjoint grade`, reads again."""
    return [
        {
            "id": f"{g.task.id}#{name}",
            "group": g.task.id,
            "kind": g.task.kind,
            "messages": list(g.task.messages),
            "meta": dict(g.task.meta),
            "response": text,
        }
        for g in groups
        for name, text in zip(g.ids, g.texts, strict=True)
    ]


def _rows(path: str) -> list[tuple[int, dict[str, Any], str]]:
    """(line, row with `kind` and `prompt`, its place in words)."""
    where, rows = open_rows(path)
    found = []
    for line, row in rows:
        row = {"kind": "open", **row}
        turns = row.get("turns")
        if row.get("prompt") is None and row.get("messages") is None and isinstance(turns, list):
            row["prompt"] = turns[0] if turns else None
            row.setdefault("id", row.get("question_id"))
        found.append((line, row, f"{path} {where} {line}"))
    return found


def _label(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= sys.float_info.max:  # NaN is not, nor what no float holds
        raise ValueError(f"field '{name}' is {value!r}; expected a number, higher for the better")
    return float(value)


def _pair(line: int, row: Mapping[str, Any], sides: tuple[str, str]) -> Answers:
    texts = [_text(row, side) for side in sides]
    better = "A" if sides[0] == "chosen" else None
    for name in _WINNERS:
        if row.get(name) is not None:
            better = _SIDES.get(str(row[name]).lower())
            if better is None:
                raise ValueError(f"field '{name}' is {row[name]!r}; expected a, b or tie")
    rest = {k: v for k, v in row.items() if k not in (*sides, *_WINNERS)}
    if rest.get("prompt") is None and rest.get("messages") is None:
        rest["prompt"] = _prompt_of(row[sides[0]])
    parsed = read_row(line, {**rest, "response": texts[0]})
    return Answers(parsed.task, [f"{parsed.id}a", f"{parsed.id}b"], texts, [None, None], better)


def _text(row: Mapping[str, Any], side: str) -> str:
    """A side's text: its own, or that of the last message of a conversation."""
    value = row.get(side)
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise ValueError(f"field '{side}' is no text; expected a response")
    return value


def _prompt_of(side: Any) -> list[Message] | None:
    """The prompt inside a preference row whose sides are whole conversations."""
    return side[:-1] if isinstance(side, list) and len(side) > 1 else None
