"""Rows whose answers a verifier grades, for the tools that let a model try them."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from conjoint.envs.sources.dataset import rows_and_tasks
from conjoint.envs.types import ConjointError, Task
from conjoint.rewards.registry import REWARDS, always_judged, default_kinds, reference_check
from conjoint.rl.config.overrides import suggest
from conjoint.rl.nano.start_policy import check_model
from conjoint.rl.run.interrupt import Interrupt
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.eval.config import SampleConfig
from conjoint.scripts.eval.grader import Grader
from conjoint.scripts.until_signal import say, supervised


class OfOneKind(Protocol):
    @property
    def input(self) -> str: ...

    @property
    def kind(self) -> str: ...


def check_kind(kind: str) -> None:
    """Raises ConjointError for a task kind without a verifier."""
    known = [k for k, names in default_kinds().items() if all(map(_verifies, names))]
    if kind not in known:
        raise ConjointError(f"kind={kind} has no verifier; {suggest(kind, known)}")


def _verifies(name: str) -> bool:
    """Whether a reward checks answers against a reference, by more than a judge's opinion."""
    return REWARDS[name].validate_reference is not None and not always_judged(name)


def read(cfg: OfOneKind) -> tuple[list[dict[str, Any]], list[Task]]:
    """The rows and their tasks. Raises ConjointError naming file and line."""
    check = reference_check(default_kinds()[cfg.kind])
    pairs = list(rows_and_tasks(Path(cfg.input), cfg.kind, validate=check))
    if not pairs:
        raise ConjointError(f"{cfg.input} holds no rows")
    return [row for row, _ in pairs], [task for _, task in pairs]


def with_policy(
    cfg: SampleConfig,
    kind: str,
    tasks: Sequence[Task],
    tokens: int,
    use: Callable[[ChatPolicy, Grader], Awaitable[object]],
) -> int:
    """Run `use` with the policy of `cfg`, ready for `tasks` and answers of so many tokens, and with
    a grader of the kind; what is started ends with it. Returns 0, or 128 + the signal that ended
    it. Raises ConjointError before anything loads."""
    model = None if cfg.endpoint else check_model(cfg.model)
    grader = Grader([kind], cfg)
    grader.check(tasks)

    async def work(interrupt: Interrupt) -> None:
        # Loads Ray and the engines: only now, when nothing can be refused any more.
        from conjoint.scripts.eval.open_policy import opened

        try:
            await grader.start()
            needed = [(task, tokens) for task in tasks]
            async with opened(cfg, model, needed, say, interrupt.install) as policy:
                await use(policy, grader)
        finally:
            await grader.close()

    return supervised(work)
