"""Rows whose answers a verifier grades, for the tools that let a model try them."""

from pathlib import Path
from typing import Any, Protocol

from envs.sources.dataset import rows_and_tasks
from rl.critic import JUDGED
from rl.overrides import suggest
from rl.scoring import DEFAULT_KINDS
from rl.tasks import REFERENCE_CHECKS
from rl.types import ConjointError, Task

VERIFIERS = REFERENCE_CHECKS.keys() - JUDGED
"""Rewards that need no judge, and say what a reference must be."""


class OfOneKind(Protocol):
    @property
    def input(self) -> str: ...

    @property
    def kind(self) -> str: ...


def check_kind(kind: str) -> None:
    """Raises ConjointError for a task kind without a verifier."""
    known = [k for k, names in DEFAULT_KINDS.items() if set(names) <= VERIFIERS]
    if kind not in known:
        raise ConjointError(f"kind={kind} has no verifier; {suggest(kind, known)}")


def read(cfg: OfOneKind) -> tuple[list[dict[str, Any]], list[Task]]:
    """The rows and their tasks. Raises ConjointError naming file and line."""

    def check(kind: str, reference: Any) -> None:
        for name in DEFAULT_KINDS[kind]:
            REFERENCE_CHECKS[name](reference)

    pairs = list(rows_and_tasks(Path(cfg.input), cfg.kind, validate=check))
    if not pairs:
        raise ConjointError(f"{cfg.input} holds no rows")
    return [row for row, _ in pairs], [task for _, task in pairs]
