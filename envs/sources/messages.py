"""Prompts of rows: text, a list of messages, or the JSON text of such a list."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from conjoint.envs.sources.rows import json_type
from conjoint.envs.types import Message


class BadRow(ValueError):
    """What is wrong with a row, for a reader that adds the file and the line."""


def unpacked(value: Any, kind: type) -> Any:
    """The list or object (`kind` is list or dict) that JSON text holds, else the value as it is.

    Tables and some published sets keep what is nested as JSON text.
    """
    opening = "[" if kind is list else "{"
    if not isinstance(value, str) or not value.lstrip().startswith(opening):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, kind) else value


def as_messages(value: Any) -> Any:
    """The list of messages that JSON text holds, else the value as it is: a prompt may well begin
    with a bracket without being one."""
    found = unpacked(value, list)
    if found is value or not found:
        return value
    every = all(isinstance(item, Mapping) and {"role", "content"} <= item.keys() for item in found)
    return found if every else value


def read_messages(
    value: Any, field: str, roles: Sequence[str], *, empty: bool = False
) -> list[Message]:
    """The messages of a prompt; text is one of the user's. Raises BadRow naming the field.

    `roles` are the roles that a message may have; `empty` allows a message without content.
    """
    if isinstance(value, str):
        if not value.strip() and not empty:
            raise BadRow(f"field '{field}' is empty; expected text")
        return [Message(role="user", content=value)]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else json_type(value)
        raise BadRow(f"field '{field}' is {what}; expected text or a list of messages")
    messages = []
    for place, message in enumerate(value):
        where = f"{field}[{place}]"
        if not isinstance(message, Mapping):
            raise BadRow(f"field '{where}' is {json_type(message)}; expected role and content")
        role, content = message.get("role"), message.get("content")
        if role not in list(roles):
            raise BadRow(f"field '{where}.role' is {role!r}; expected one of {', '.join(roles)}")
        if not isinstance(content, str) or not (content.strip() or empty):
            what = "empty" if isinstance(content, str) else json_type(content)
            raise BadRow(f"field '{where}.content' is {what}; expected text")
        messages.append(Message(role=role, content=content))
    return messages
