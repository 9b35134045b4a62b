"""The confidence that an answer states: how it is asked for, written, and split off again.

The task itself stays as it is: only the policy's prompt asks for a confidence, and only its message
holds one. Verifiers, judges and critic pairs see the task and the answer without it.
"""

import re
from collections.abc import Callable, Collection, Sequence

from conjoint.envs.base import Env, SingleTurn
from conjoint.envs.types import Message, Task

ASK = (
    "After your answer, end with a line of its own, Confidence: P, where P from 0 to 1 is the "
    "chance that the answer is right."
)
"""It stands before the task: engines share it as a prefix, and between a task and its answer it
would push apart what a tiny policy has to copy from one to the other."""

_LABEL = re.compile(r"[\s*_>#-]*+confidence[\s*_]*+[:=]", re.IGNORECASE)
_VALUE = re.compile(r"[\s*_]*+((?:[01](?:\.[0-9]*+)?|\.[0-9]++))[\s*_.]*+")
_PERCENT = re.compile(r"[\s*_]*+([0-9]{1,3}(?:\.[0-9]++)?)\s*+\\?%[\s*_.]*+")
_LONGEST = 80
"""Characters of the line; a longer one is no confidence."""


def asking(messages: Sequence[Message]) -> list[Message]:
    """The messages with the question for a confidence at the start of the last user message."""
    asked = list(messages)
    last = max(i for i, message in enumerate(asked) if message["role"] == "user")
    asked[last] = Message(role="user", content=f"{ASK}\n\n{asked[last]['content']}")
    return asked


def stating(answer: str, confidence: float) -> str:
    """The answer with its confidence in tenths, in the form that `split` reads."""
    return f"{answer}\nConfidence: {confidence:.1f}"


def split(message: str) -> tuple[str, float | None]:
    """(answer, confidence) of a message whose last line is `Confidence: 0.7`, `70%` or alike.

    A last line with the label but without a number in [0, 1] is taken off too: whatever it says, it
    is no part of the answer. Without the label the message is the answer.
    """
    text = message.rstrip()
    answer, _, line = text.rpartition("\n")
    label = _LABEL.match(line) if len(line) <= _LONGEST else None
    if label is None:
        return message, None
    return answer.rstrip(), _number(line[label.end() :])


def _number(text: str) -> float | None:
    if found := _PERCENT.fullmatch(text):
        value = float(found[1]) / 100
    elif found := _VALUE.fullmatch(text):
        value = float(found[1])
    else:
        return None
    return value if value <= 1 else None


class AskingConfidence(SingleTurn):
    """One prompt that asks for a confidence as well, one answer."""

    async def start(self) -> list[Message]:
        return asking(await super().start())


def single_turn(confident: Collection[str]) -> Callable[[Task], Env]:
    """What plays a task: tasks of the `confident` kinds are asked for a confidence."""
    return lambda task: (AskingConfidence if task.kind in confident else SingleTurn)(task)
