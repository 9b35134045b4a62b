"""Preference data as judge demonstrations: a better and a worse answer to one prompt become the
judge's own question, in both orders, with the right verdict as its answer.

Rows are those of TRL: `prompt`, `chosen` and `rejected`, each a text or a list of messages; or
`chosen` and `rejected` alone, as conversations that differ in their last message only.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError, Message, Task, derive_seed
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.pairs import is_blank, same, without_judge
from conjoint.rewards.judge.prompt import judge_messages, verdict_text
from conjoint.rewards.rubrics.find import TASK_KEY, Rubric, load_rubrics, rubrics_for

Conversation = list[Message]
_SIDES = ("chosen", "rejected")
_HALF = 0.5
KEY = "sft.preferences.path"


@dataclass(frozen=True, slots=True)
class PreferenceConfig:
    """Preference data for the critic's SFT."""

    path: str = ""
    """A .jsonl or .parquet file with chosen and rejected answers; "" takes none."""
    share: float = _HALF
    """Share of sft.judge_rows that comes from the file, each pair once; the rest is generated."""

    def validate(self) -> None:
        if not 0 < self.share <= 1:
            raise ConjointError(
                f"sft.preferences.share is {self.share}; expected above 0 and at most 1 (to take "
                "no preferences leave sft.preferences.path empty)"
            )
        if self.share != _HALF and not self.path:
            raise ConjointError(
                "sft.preferences.share has no effect without sft.preferences.path=FILE"
            )


@dataclass(frozen=True, slots=True)
class Asked:
    """How a run asks its judge: `judge`, and the names of `reward.rubrics`."""

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rubrics: tuple[str, ...] = ()


@dataclass(slots=True)
class Preferences:
    """The pairs of a file: (task, better answer, worse answer, rubrics), and why others are left
    out."""

    pairs: list[tuple[Task, str, str, list[Rubric]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def verdicts(self, rows: int, judge: JudgeConfig, seed: int) -> list[list[Conversation]]:
        """At most `rows` demonstrations, of pairs drawn by the seed; each entry is one pair in both
        orders, so that no letter is favoured."""
        drawn = list(self.pairs)
        Random(derive_seed("preferences", seed)).shuffle(drawn)
        return [both_orders(*pair, judge) for pair in drawn[: rows // 2]]


def both_orders(
    task: Task, better: str, worse: str, rubrics: Sequence[Rubric], judge: JudgeConfig
) -> list[Conversation]:
    """The judge's question about (better, worse) and about (worse, better), with its answers."""
    orders = []
    for winner, a, b in (("A", better, worse), ("B", worse, better)):
        prompt = judge_messages(
            task, a, b, rubrics, judge.template, max_answer_chars=judge.max_answer_chars
        )
        verdict = verdict_text(winner, judge.template)
        orders.append([*prompt, Message(role="assistant", content=verdict)])
    return orders


def check_file(path: str, key: str = KEY) -> Path:
    """The file of pairs that `key` names. Raises ConjointError if there is none."""
    try:
        open_rows(path)
    except ConjointError as error:
        raise ConjointError(f"{key}: {error}") from error
    return Path(path)


def read_pairs(path: str, key: str) -> list[tuple[Task, str, str]]:
    """Every (task, better answer, worse answer) of a file; a row may name the `kind` of its task.
    Raises ConjointError naming `key`, file and line."""
    file = check_file(path, key)
    where, rows = open_rows(file)
    found = []
    for number, row in rows:
        try:
            task, better, worse = preference_of(row)
            if is_blank(better) or is_blank(worse) or same(better, worse):
                raise ValueError("fields 'chosen' and 'rejected' are alike, or one is blank")
            found.append((replace(task, kind=str(row.get("kind") or task.kind)), better, worse))
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise ConjointError(f"{key}: {file} {where} {number}: {reason}.") from error
    return found


def read_preferences(path: str, asked: Asked, seed: int) -> Preferences:
    """Every pair that a run would ask its judge about. Raises ConjointError naming file and line.

    Left out and counted: pairs that code decides, because an answer is blank, both look alike, or
    one breaks a hard rule of a rubric.
    """
    file = check_file(path)
    shared = load_rubrics(asked.rubrics)
    where, rows = open_rows(file)
    found = Preferences()
    for number, row in rows:
        try:
            task, better, worse = preference_of(row)
            rubrics = rubrics_for(task, shared, seed)
        except (ValueError, ConjointError) as error:
            raise ConjointError(
                f"sft.preferences.path: {file} {where} {number}: {str(error).rstrip('.')}."
            ) from error
        if why := _settled(better, worse, rubrics):
            found.left_out[why] += 1
        else:
            found.pairs.append((task, better, worse, rubrics))
    if not found.pairs:
        reasons = ", ".join(f"{count} {why}" for why, count in found.left_out.items())
        raise ConjointError(
            f"sft.preferences.path: {file} holds no pair for a judge ({reasons}); "
            "expected rows with prompt, chosen and rejected"
        )
    return found


def _settled(better: str, worse: str, rubrics: Sequence[Rubric]) -> str:
    """Why no judge would be asked about the two, "" if one would be."""
    if is_blank(better) or is_blank(worse):
        return "blank"
    if same(better, worse):
        return "alike"
    return "against a hard rule" if without_judge(better, worse, rubrics) is not None else ""


def preference_of(row: Mapping[str, Any]) -> tuple[Task, str, str]:
    """(task, better answer, worse answer) of one row. Raises ValueError naming the field."""
    (head, better), (other, worse) = (_side(row, name) for name in _SIDES)
    if head != other:
        raise ValueError(
            "fields 'chosen' and 'rejected' differ before their last message, so they answer no "
            "one prompt"
        )
    prompt = _prompt(row.get("prompt"), head)
    if is_blank(prompt[-1]["content"]):
        raise ValueError("the prompt is blank")
    for text in (*(message["content"] for message in prompt), better, worse):
        text.encode()  # raises for half a character
    if prompt[-1]["role"] != "user":
        raise ValueError(f"the prompt ends with a message of role {prompt[-1]['role']!r}, not user")
    meta = {TASK_KEY: row[TASK_KEY]} if row.get(TASK_KEY) is not None else {}
    return Task.make("open", prompt, None, meta), better, worse


def _prompt(given: Any, head: list[Message]) -> list[Message]:
    """The prompt of a row: its own field, or what both conversations begin with."""
    if given is None:
        if not head:
            raise ValueError("field 'prompt' is missing, and the answers are no conversations")
        return head
    own = [Message(role="user", content=given)] if isinstance(given, str) else given
    messages = _messages(own, "prompt")
    # Some data repeat the prompt inside both conversations.
    if head and (head[-1:] if isinstance(given, str) else head) != messages:
        raise ValueError("field 'prompt' is not what 'chosen' and 'rejected' begin with")
    return head or messages


def _side(row: Mapping[str, Any], name: str) -> tuple[list[Message], str]:
    """(messages before the answer, the answer)."""
    value = row.get(name)
    if isinstance(value, str):
        return [], value
    if value is None:
        raise ValueError(f"field '{name}' is missing; expected text or a list of messages")
    messages = _messages(value, name)
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"field '{name}' does not end with a message of role assistant")
    return messages[:-1], messages[-1]["content"]


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"field '{name}' is {value!r:.40}; expected text or a list of messages")
    for place, message in enumerate(value):
        known = isinstance(message, Mapping)
        if not known or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(f"field '{name}[{place}]' is no message with role and content")
    return [Message(role=m["role"], content=m["content"]) for m in value]
