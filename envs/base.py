"""The environment contract: single use, speaks messages, knows no tokens and no reward."""

from typing import Protocol

from conjoint.envs.types import Message, Task


class Env(Protocol):
    """One live episode. No reset: a new episode is a new object."""

    async def start(self) -> list[Message]:
        """The opening messages."""
        ...

    async def reply(self, message: Message) -> list[Message]:
        """The environment's answer to the policy's message; an empty list ends the episode."""
        ...

    async def close(self) -> None: ...


class SingleTurn:
    """One prompt, one answer."""

    def __init__(self, task: Task) -> None:
        self._task = task

    async def start(self) -> list[Message]:
        return list(self._task.messages)

    async def reply(self, message: Message) -> list[Message]:
        return []

    async def close(self) -> None:
        return None
