"""The forms of task rows that public data sets and other trainers have, read into one.

| form | prompt | reference | further |
|---|---|---|---|
| TRL | prompt | reference, ground_truth, answer, solution | columns |
| verl | prompt | reward_model.ground_truth | data_source, ability, extra_info |
| SkyRL | prompt | reward_spec.ground_truth | env_class, data_source, extra_info |
| slime | prompt or input | label | metadata |
| open-instruct | messages | ground_truth | dataset |
| verifiers | prompt or question | answer | info, task |
| GSM8K | question | answer, ending in `#### n` | |

A prompt is text, messages, or the JSON text of messages. What is no prompt and no reference is
meta; the entries of `extra_info` stand in it one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conjoint.envs.sources.messages import BadRow, as_messages, read_messages, unpacked
from conjoint.envs.sources.rows import json_type
from conjoint.envs.types import Message

FORMS = (
    "expected TRL's form (prompt, answer), verl's (prompt, reward_model.ground_truth), SkyRL's "
    "(prompt, reward_spec.ground_truth), slime's (prompt, label), open-instruct's (messages, "
    "ground_truth), verifiers' (question, answer, info) or GSM8K's (question, answer)"
)
_PROMPTS = ("prompt", "question", "messages", "input")
"""Columns that hold the prompt; the first present one counts, the others become meta."""
_REFERENCES = ("reference", "ground_truth", "answer", "solution", "label")
"""Columns that hold the reference; the first present one counts, the others become meta."""
_GRADERS = ("reward_model", "reward_spec")
"""Columns of verl and SkyRL whose `ground_truth` is the reference."""
_NESTED = ("extra_info", "metadata", "info")
"""Columns that hold an object, or its JSON text."""
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a row says: its prompt, its reference with the name of the field that holds it, and its
    meta."""

    messages: list[Message]
    reference: Any
    field: str
    meta: dict[str, Any]


def parse_row(row: Mapping[str, Any], kind: str) -> Parsed:
    """One row of any form. Raises BadRow naming the field that cannot be used."""
    grader = next((name for name in _GRADERS if row.get(name) is not None), None)
    place = next((name for name in _PROMPTS if row.get(name) is not None), None)
    if place is None:
        missing = next((name for name in _PROMPTS if name in row), "prompt")
        raise BadRow(f"field '{missing}' is {'null' if missing in row else 'missing'}; {FORMS}")
    if grader is None:
        field = next((name for name in _REFERENCES if row.get(name) is not None), "answer")
        reference, used = row.get(field), {place, field}
    else:
        field, used = f"{grader}.ground_truth", {place, grader}
        reference = _ground_truth(row[grader], grader)
    if place == "question" and field == "answer" and kind == "math":
        reference = _worked(row, reference)
    if place == "messages" and isinstance(reference, list) and len(reference) == 1:
        reference = reference[0]  # open-instruct: one reference for each verifier of the row
    meta = _meta(row, used, grader)
    prompt = as_messages(row[place])
    if isinstance(prompt, list):
        meta["conversational"] = True
        if place == "messages" and _ends_with_answer(prompt):
            prompt = prompt[:-1]
    messages = read_messages(prompt, place, _ROLES)
    if messages[-1]["role"] != "user":
        role = messages[-1]["role"]
        raise BadRow(f"field '{place}' ends with a message of role {role!r}; expected user")
    return Parsed(messages, reference, field, meta)


def _ground_truth(value: Any, field: str) -> Any:
    grader = unpacked(value, dict)
    if not isinstance(grader, Mapping):
        raise BadRow(f"field '{field}' is {json_type(grader)}; expected an object")
    if grader.get("ground_truth") is None:
        raise BadRow(
            f"field '{field}.ground_truth' is missing; expected what a verifier compares with"
        )
    return grader["ground_truth"]


def _worked(row: Mapping[str, Any], answer: Any) -> Any:
    """The result behind the last `####` of a worked answer. verifiers' rows, which have `info` or
    `task` beside a bare answer, and an answer of one word are taken as they are."""
    if not isinstance(answer, str):
        raise BadRow(f"field 'answer' is {json_type(answer)}; expected text ending in '#### n'")
    _, marker, result = answer.rpartition("####")
    result = result.strip()
    if not marker and (row.keys() & {"info", "task"} or len(answer.split()) == 1):
        return answer
    if not marker or not result or "\n" in result:
        raise BadRow(
            "field 'answer' does not end in a line '#### n'; expected GSM8K's form, or name "
            "the question 'prompt' where 'answer' is the bare result"
        )
    return result


def _meta(row: Mapping[str, Any], used: set[str], grader: str | None) -> dict[str, Any]:
    """The other columns. verl's and SkyRL's extra_info is spread among them."""
    meta = {k: unpacked(v, dict) if k in _NESTED else v for k, v in row.items() if k not in used}
    if grader is None:
        return meta
    extra = meta.pop("extra_info", None)
    if extra is not None and not isinstance(extra, Mapping):
        raise BadRow(f"field 'extra_info' is {json_type(extra)}; expected an object")
    return {**meta, **(extra or {})}


def _ends_with_answer(prompt: list[Any]) -> bool:
    """Whether a dialogue to learn from stands where a prompt should: its answer is not shown."""
    last = prompt[-1] if len(prompt) > 1 else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"
