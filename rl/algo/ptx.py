"""The PTX stream: curated text whose cross-entropy joins the policy loss in the same update.

Rows come as mappings in one of three forms: `messages` (assistant turns are trained), `text` (all
of it is trained) or `prompt` + `completion` (the completion is trained). Where they come from (a
file, or demonstrations that a source generates) is decided by rl/build.py.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError, Message, derive_seed
from conjoint.rollouts.schedule import SCHEDULES, scheduled


@dataclass(frozen=True, slots=True)
class PtxConfig:
    """PTX text and its weight. K2 publishes neither."""

    weight: float = 0.1
    """Factor of the PTX cross-entropy (mean over its trained tokens) beside the policy loss; 0
    turns PTX off, unless a schedule ends above 0."""
    schedule: str = "constant"
    """constant; or linear or cosine from `weight` at the first step towards `end_weight`."""
    end_weight: float = 0.0
    """Where a linear or cosine schedule would be after the last step."""
    source: str = "nano"
    """Either nano, for the demonstrations conjoint generates, or a path of a file of rows."""
    rows_per_step: int = 16
    max_tokens: int = 1024
    """A longer row is refused, not cut."""
    heldout: int = 32
    """Rows kept apart by the hash of their tokens and never trained, at most a tenth of the
    distinct ones. Their cross-entropy at each evaluation shows what the policy forgets; 0: none."""

    @property
    def enabled(self) -> bool:
        return self.weight > 0 or self.end_weight > 0

    def weight_at(self, step: int, num_steps: int) -> float:
        """The weight in the step that `step` others come before."""
        return scheduled(self.schedule, self.weight, self.end_weight, step / num_steps)

    def validate(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConjointError(
                f"ptx.schedule is {self.schedule!r}; choose one of {list(SCHEDULES)}"
            )
        if min(self.weight, self.end_weight) < 0 or self.heldout < 0:
            raise ConjointError("ptx.weight, ptx.end_weight and ptx.heldout must be at least 0")
        if self.schedule == "constant" and self.end_weight:
            raise ConjointError(
                f"ptx.end_weight={self.end_weight} has no effect with ptx.schedule=constant; "
                "choose linear or cosine"
            )
        if self.rows_per_step < 1 or self.max_tokens < 2:
            raise ConjointError(
                "ptx.rows_per_step must be at least 1 and ptx.max_tokens at least 2"
            )


@dataclass(frozen=True, slots=True)
class PtxRow:
    """One tokenised row; `trained` marks the tokens whose cross-entropy counts."""

    tokens: list[int]
    trained: list[bool]


class PtxRenderer(Protocol):
    """What PTX asks of `conjoint.rollouts.renderer.Renderer`."""

    stop_ids: tuple[int, ...]

    def prompt(self, messages: Sequence[Message]) -> list[int]: ...

    def dialogue(self, messages: Sequence[Message]) -> list[int]: ...

    def encode(self, text: str) -> list[int]: ...


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a file of rows without the fields that are null; place is
    "FILE line N" for error messages."""
    where, rows = open_rows(path)
    for number, row in rows:
        yield f"{path} {where} {number}", {k: v for k, v in row.items() if v is not None}


def render_row(
    row: Mapping[str, Any], renderer: PtxRenderer, place: str, max_tokens: int
) -> PtxRow:
    """Tokens and trained mask of one row. Raises ConjointError naming `place` and the field."""
    if "messages" in row:
        rendered = _render_messages(
            _messages(row["messages"], f"{place}, messages"), renderer, place
        )
    elif "prompt" in row or "completion" in row:
        rendered = _render_pair(row, renderer, place)
    elif "text" in row:
        tokens = [*renderer.encode(_string(row["text"], f"{place}, text")), renderer.stop_ids[0]]
        # The first token has nothing before it to be predicted from.
        rendered = PtxRow(tokens, [False] + [True] * (len(tokens) - 1))
    else:
        raise ConjointError(
            f"{place}: needs `messages`, `text`, or `prompt` and `completion`; "
            f"found {sorted(map(str, row))}"
        )
    if len(rendered.tokens) > max_tokens:
        raise ConjointError(
            f"{place}: {len(rendered.tokens)} tokens, more than ptx.max_tokens={max_tokens}; "
            "shorten the row or raise the key"
        )
    return rendered


def _render_pair(row: Mapping[str, Any], renderer: PtxRenderer, place: str) -> PtxRow:
    """Messages if the prompt is messages, plain text one after the other if it is text."""
    for key in ("prompt", "completion"):
        if key not in row:
            raise ConjointError(f"{place}: field `{key}` is missing beside its pair")
    if isinstance(row["prompt"], str):
        prompt = renderer.encode(_string(row["prompt"], f"{place}, prompt"))
        answer = renderer.encode(_string(row["completion"], f"{place}, completion"))
        answer.append(renderer.stop_ids[0])
        return PtxRow(prompt + answer, [False] * len(prompt) + [True] * len(answer))
    prompt = _messages(row["prompt"], f"{place}, prompt")
    completion = row["completion"]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    dialogue = [*prompt, *_messages(completion, f"{place}, completion")]
    return _render_messages(dialogue, renderer, place, first=len(prompt))


def _render_messages(
    messages: list[Message], renderer: PtxRenderer, place: str, first: int = 0
) -> PtxRow:
    """Train the assistant turns from message `first` on, each with the token that ends it."""
    tokens = renderer.dialogue(messages)
    trained = [False] * len(tokens)
    for i, message in enumerate(messages):
        if i < first or message["role"] != "assistant":
            continue
        opening = renderer.prompt(messages[:i]) if i else []
        start = len(opening)
        if not start or opening != tokens[:start]:
            raise ConjointError(
                f"{place}: message {i + 1} is an assistant turn that the chat template does not "
                "render as an answer to the messages before it; begin with a user message"
            )
        end = next(
            (p + 1 for p in range(start, len(tokens)) if tokens[p] in renderer.stop_ids),
            len(tokens),
        )
        trained[start:end] = [True] * (end - start)
    if not any(trained):
        raise ConjointError(f"{place}: no assistant message to train on")
    return PtxRow(tokens, trained)


def _messages(value: Any, place: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ConjointError(f"{place}: expected a list of messages, found {type(value).__name__}")
    for i, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise ConjointError(f"{place}: message {i} is not an object with role and content")
        for key in ("role", "content"):
            _string(message.get(key), f"{place}, message {i}, {key}")
    return [Message(role=m["role"], content=m["content"]) for m in value]


def _string(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConjointError(f"{place}: expected a text that is not empty, found {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConjointError(
            f"{place}: holds an unpaired surrogate, which is not text; remove it"
        ) from error
    return value


def split_rows(rows: Sequence[PtxRow], heldout: int) -> tuple[list[PtxRow], list[PtxRow]]:
    """(trained, held-out). Rows of equal tokens are on one side; the file's order and the run's
    seed do not matter. At most a tenth of the distinct rows are held out."""
    distinct = {tuple(row.tokens): row for row in rows}
    ranked = sorted(distinct, key=lambda tokens: (derive_seed("ptx-heldout", *tokens), tokens))
    apart = set(ranked[: min(heldout, len(distinct) // 10)])
    return (
        [row for row in rows if tuple(row.tokens) not in apart],
        [distinct[tokens] for tokens in ranked if tokens in apart],
    )


class PtxStream:
    """Rows for each step, in an order that only the seed and one integer decide.

    `heldout` are those kept apart.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, Any]],
        renderer: PtxRenderer,
        config: PtxConfig,
        seed: int,
    ) -> None:
        """Renders every row at once, so that a malformed one is refused before any engine starts.

        `rows` are (place, row) as from `read_rows`; generated rows may use any place name.
        """
        rendered = [render_row(row, renderer, place, config.max_tokens) for place, row in rows]
        if not rendered:
            raise ConjointError(f"ptx.source {config.source} holds no rows")
        self._rows, self.heldout = split_rows(rendered, config.heldout)
        self._fingerprint = derive_seed(*(row.tokens for row in self._rows))
        self._count = config.rows_per_step
        self._seed = seed
        self._drawn = 0
        self._epoch = -1
        self._order: list[int] = []

    def next(self) -> list[PtxRow]:
        """The next `rows_per_step` rows; every row once an epoch, reshuffled each epoch."""
        rows = [self._row(self._drawn + i) for i in range(self._count)]
        self._drawn += self._count
        return rows

    def state(self) -> dict[str, int]:
        """Rows drawn so far, and a hash of all rows: a resumed run must find the same."""
        return {"drawn": self._drawn, "rows": self._fingerprint}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on where `state` was taken. Raises ConjointError if the rows are others."""
        if state["rows"] != self._fingerprint:
            raise ConjointError(
                "the rows of ptx.source are not those that the checkpoint was trained on; restore "
                "the file, or start a new run"
            )
        self._drawn = state["drawn"]

    def _row(self, number: int) -> PtxRow:
        epoch, place = divmod(number, len(self._rows))
        if epoch != self._epoch:
            self._order = list(range(len(self._rows)))
            random.Random(derive_seed(self._seed, "ptx", epoch)).shuffle(self._order)
            self._epoch = epoch
        return self._rows[self._order[place]]
