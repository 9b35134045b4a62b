"""The prompts of a run against the policy's tokenizer, before an engine starts.

A prompt that the chat template refuses is a user's mistake; one that leaves no room for an answer
in the context is refused or dropped, as `tasks.KIND.too_long` says. Only a tokenizer is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from conjoint.envs.confidence import asking
from conjoint.envs.mixture import Source
from conjoint.envs.sources.dataset import DatasetSource, RowSubset
from conjoint.envs.types import ConjointError, Message, Task
from conjoint.rl.config.tree import Config
from conjoint.rl.models.shape import positions
from conjoint.rollouts.renderer import Renderer

_NAMED = 5
"""Rows that a sentence names."""
_MARKS = 8
"""Tokens that a chat template may put around one message, beyond those around a short one."""


@dataclass(slots=True)
class _Lengths:
    """Rows of one file by their number from 1."""

    too_long: dict[int, int] = field(default_factory=dict)
    """Row -> tokens of a prompt that leaves no room for one token of an answer."""
    tight: dict[int, int] = field(default_factory=dict)
    """Row -> tokens of a prompt that leaves less room than the answer's budget."""


class Prompts:
    """Checks prompts, and keeps the sentences on what became of them in `notes`."""

    def __init__(self, cfg: Config, model: Path | None) -> None:
        """`model` is the folder of the start policy, None for a nano that is not built yet.

        Raises ConjointError for a model without chat template or end token, and for a context that
        is longer than the model's.
        """
        self._cfg = cfg
        self._model = model
        self.notes: list[str] = []
        most = positions(model) if model else cfg.nano.model.max_length
        if most is not None and cfg.rollout.max_model_len > most:
            raise ConjointError(
                f"rollout.max_model_len={cfg.rollout.max_model_len}, but the model has {most} "
                "positions; lower it"
            )
        if model is not None:
            _ = self.renderer

    @cached_property
    def renderer(self) -> Renderer:
        """The renderer of the model's folder, else of the tokenizer that nano will have, which
        takes seconds to make."""
        if self._model is not None:
            return Renderer.load(self._model)
        from conjoint.rl.nano.sft import sft_rows

        return Renderer(sft_rows(self._cfg.nano, self._cfg.asked)[0])

    def check_made(self, source: Source) -> None:
        """Raises ConjointError if the template refuses a task of a source that makes its tasks."""
        if self._model is not None:
            self._render(source.task(0), f"tasks.{source.kind}")

    def fitting(self, rows: DatasetSource) -> Source:
        """The rows whose prompts leave room for an answer; all rows, if an agent writes the
        prompts. Raises ConjointError for a prompt that the template refuses, or for those that are
        too long unless they are dropped."""
        kind, cfg = rows.kind, self._cfg
        if cfg.tasks[kind].agent.run:
            return rows
        tasks = [rows.task(i) for i in range(len(rows))]
        found = self._lengths(tasks, kind, str(rows.path))
        context = cfg.rollout.max_model_len
        if found.tight:
            self.notes.append(
                f"{_rows(found.tight, len(tasks))} of kind {kind} leave an answer less than its "
                f"budget of {cfg.largest_budget_of(kind)} tokens in the context of {context}: it "
                "ends where the context does."
            )
        if not found.too_long:
            return rows
        said = f"{_rows(found.too_long, len(tasks))} of {rows.path} leave no room for an answer"
        if cfg.tasks[kind].too_long == "refuse":
            raise ConjointError(
                f"{said} in rollout.max_model_len={context} (the longest has "
                f"{max(found.too_long.values())} tokens); raise it, shorten them, or set "
                f"tasks.{kind}.too_long=drop"
            )
        kept = [task for row, task in enumerate(tasks, 1) if row not in found.too_long]
        if not kept:
            raise ConjointError(
                f"{said} in rollout.max_model_len={context}, and none is left; raise it"
            )
        self.notes.append(f"{said} in the context of {context} and are dropped.")
        return RowSubset(kind, kept)

    def _lengths(self, tasks: Sequence[Task], kind: str, path: str) -> _Lengths:
        """Renders one task of each sequence of roles, and every prompt that may be long: a token
        is at least one byte of text."""
        found, around = _Lengths(), dict[tuple[str, ...], int]()
        context = self._cfg.rollout.max_model_len
        roomy = context - self._cfg.largest_budget_of(kind)
        for row, task in enumerate(tasks, 1):
            messages = self._shown(task)
            roles = tuple(message["role"] for message in messages)
            if roles not in around and self._model is not None:
                self._render(task, f"{path} row {row}")
                short = [Message(role=role, content="x") for role in roles]
                around[roles] = len(self.renderer.prompt(short))
            least = around.get(roles, 0) + _MARKS * len(roles)
            if sum(len(m["content"].encode()) for m in messages) + least <= roomy:
                continue
            tokens = self._render(task, f"{path} row {row}")
            if tokens >= context:
                found.too_long[row] = tokens
            elif tokens > roomy:
                found.tight[row] = tokens
        return found

    def _shown(self, task: Task) -> list[Message]:
        """The messages as the policy gets them."""
        confident = task.kind in self._cfg.confident
        return asking(task.messages) if confident else list(task.messages)

    def _render(self, task: Task, where: str) -> int:
        """The number of tokens of the prompt. Raises ConjointError naming the place."""
        try:
            return len(self.renderer.prompt(self._shown(task)))
        except ConjointError as error:
            roles = ", ".join(message["role"] for message in task.messages)
            raise ConjointError(f"{where} (roles {roles}): {error}") from error


def _rows(found: dict[int, int], total: int) -> str:
    """How many of all prompts, with the first rows by number."""
    named = ", ".join(map(str, [*found][:_NAMED])) + (", ..." if len(found) > _NAMED else "")
    return f"{len(found):,} of {total:,} prompts (row {named})"
