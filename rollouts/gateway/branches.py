"""What was said in one session, as trajectories that may share a beginning.

A branch is a trajectory and the places in it where an answer of the policy ended. A request that
goes on from one of these places gets a branch that begins with the tokens recorded up to there; one
that goes on from none begins anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conjoint.envs.text import from_json
from conjoint.envs.types import Completion, Message, Trajectory


@dataclass(frozen=True, slots=True)
class Turn:
    """Where an answer of the policy ended."""

    messages: int
    """Messages up to and with the answer."""
    tokens: int
    """Tokens up to and with it."""
    chars: int
    """Characters of `Branch.text` up to and with it."""
    closed: bool
    """Whether the policy ended the turn itself, so that its end token is among the tokens."""


@dataclass(slots=True)
class Branch:
    """One line of a session's dialogue."""

    trajectory: Trajectory
    tools: list[dict[str, Any]] = field(default_factory=list)
    chat: bool = True
    text: str = ""
    """Prompts and answers as the client saw them, where they were text and no chat."""
    turns: list[Turn] = field(default_factory=list)

    def upto(self, turn: Turn) -> "Branch":
        """A branch of its own with what this one holds up to `turn`."""
        t, n = self.trajectory, turn.tokens
        begun = Trajectory(
            tokens=t.tokens[:n],
            sampled=t.sampled[:n],
            behavior_logprobs=t.behavior_logprobs[:n],
            versions=t.versions[:n],
            messages=t.messages[: turn.messages],
            temperature=t.temperature,
            top_p=t.top_p,
            budget=t.budget,
            engine=t.engine,
        )
        turns = self.turns[: self.turns.index(turn) + 1]
        return replace(self, trajectory=begun, text=self.text[: turn.chars], turns=turns)

    def append(
        self,
        messages: Sequence[Message],
        context: Sequence[int],
        completion: Completion,
        *,
        closed: bool,
        text: str = "",
    ) -> None:
        """Record one turn: what the policy was given and what it drew. The last of `messages` is
        its answer; `text` is what prompt and answer add to the branch's text."""
        self.trajectory.extend_context(context)
        self.trajectory.extend_sampled(completion)
        self.trajectory.messages.extend(messages)
        self.text += text
        t = self.trajectory
        self.turns.append(Turn(len(t.messages), len(t.tokens), len(self.text), closed))


@dataclass(frozen=True, slots=True)
class Place:
    """A turn of a branch that a request goes on from."""

    branch: Branch
    turn: Turn

    @property
    def is_last(self) -> bool:
        return self.branch.turns[-1] is self.turn


class Branches:
    """The branches of one session, the newest last."""

    def __init__(self, begin: Callable[[], Trajectory]) -> None:
        """`begin` makes an empty trajectory."""
        self._begin = begin
        self.all: list[Branch] = []

    def begin(self, place: Place | None, tools: list[dict[str, Any]], *, chat: bool) -> Branch:
        """A branch that goes on from `place`, not among `all` yet."""
        if place is not None:
            return place.branch.upto(place.turn)
        return Branch(self._begin(), tools, chat)

    def add(self, grown: Sequence[Branch], place: Place | None) -> None:
        """Keep branches that grew from `place`; the one whose end that was is part of them."""
        if place is not None and place.is_last:
            self.all = [branch for branch in self.all if branch is not place.branch]
        self.all += grown

    def for_messages(
        self, messages: Sequence[Message], tools: list[dict[str, Any]]
    ) -> Place | None:
        """The longest dialogue recorded so far that `messages` go on from."""
        said = [_said(message) for message in messages]
        return self._longest(
            "messages",
            lambda branch: (
                _common([_said(message) for message in branch.trajectory.messages], said)
                if branch.chat and branch.tools == tools
                else 0
            ),
        )

    def for_tokens(self, tokens: Sequence[int]) -> Place | None:
        """The longest record that `tokens` go on from, token by token."""
        return self._longest("tokens", lambda branch: _common(branch.trajectory.tokens, tokens))

    def for_text(self, text: str) -> Place | None:
        """The longest prompt and answer that `text` goes on from."""
        return self._longest("chars", lambda branch: _common(branch.text, text))

    def _longest(self, unit: str, common: Callable[[Branch], int]) -> Place | None:
        """The furthest turn that ends within what its branch has in common with a request; of
        equal ones the newest."""
        shared = [(branch, common(branch)) for branch in reversed(self.all)]
        places = [
            Place(branch, turn)
            for branch, length in shared
            for turn in branch.turns
            if 0 < getattr(turn, unit) <= length
        ]
        return max(places, key=lambda place: place.turn.tokens, default=None)


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How long a beginning two sequences share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _said(message: Message) -> Any:
    """What two messages that say the same have in common, however a client wrote them down."""
    content = message["content"]
    if message["role"] != "assistant":
        return message["role"], content, message.get("tool_call_id"), message.get("name")
    calls = [
        (call["id"], call["function"]["name"], _value(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]
    # Clients drop what the policy thought, or show it otherwise.
    said = content.rpartition("</think>")[2].strip()
    return "assistant", said, calls


def _value(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return text
