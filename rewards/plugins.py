"""Rewards that a user names in config: `module:function` or `path/to/file.py:function`.

`plugin_worker.py` lists the forms that a function may have. It runs in a worker that can be killed,
so one that raises, hangs or returns nonsense masks what it was asked about and never stops a run.
"""

import asyncio
import functools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conjoint.envs.types import ConjointError, Group, Outcome, Score, Task, Trajectory
from conjoint.rewards.base import Example, RewardContext
from conjoint.rewards.killable import DeadlinePassed, WorkerError, WorkerPool
from conjoint.rewards.plugin_worker import (
    COLUMNS,
    FORMS,
    Fault,
    Form,
    Graded,
    Known,
    columns_of,
    examples_of,
    form_of,
    from_fields,
    grade,
    load,
    to_fields,
)

_IMPORT_S = 60.0


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One reward of the user's own."""

    function: str
    """`module:function` or `path/to/file.py:function`."""
    deadline_s: float = 10.0
    """Wall seconds for one call; beyond it the worker is killed and the answers are masked."""
    low: float = 0.0
    """The function's number that means the worst answer (score 0)."""
    high: float = 1.0
    """The function's number that means the best answer (score 1)."""

    def validate(self, key: str) -> None:
        """Raises ConjointError naming `key`, which gives the function."""
        spec = self.function
        module, _, name = spec.rpartition(":")
        if not module or not name.isidentifier():
            raise ConjointError(
                f"{key}: {spec!r} must be module:function or path/to/file.py:function."
            )
        if module.endswith(".py") and not Path(module).is_file():
            raise ConjointError(f"{key}: {spec!r} cannot be used: there is no file {module}.")
        if not (0 < self.deadline_s < math.inf):
            raise ConjointError(
                f"{key}: {spec!r} has deadline_s={self.deadline_s}; expected above 0."
            )
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ConjointError(
                f"{key}: {spec!r} has the range {self.low} to {self.high}; expected low below high."
            )


class PluginReward:
    """A `RewardFn` around the user's function. Build it with `load_plugin`."""

    def __init__(self, config: PluginConfig, form: Form, needs: Sequence[str] = ()) -> None:
        """`needs` are the columns that the function cannot be called without."""
        self.name = config.function.rpartition(":")[2]
        self.form: Form = form
        self.deadline_s = config.deadline_s
        self._config = config
        self._needs = tuple(needs)
        self._columns: dict[str, None] = {}
        self._pool = WorkerPool(
            f"reward {self.name}",
            deadline_s=config.deadline_s,
            memory_mb=0,
            warm=functools.partial(load, _absolute(config.function)),
        )

    def fit(self, tasks: Iterable[Task], where: str, *, tokens: bool = True) -> None:
        """Note the columns of all tasks that the function may be asked about: one that only some of
        them have is None for the others, as in a table.

        `where` names the tasks in an error, `tokens` says whether their answers have tokens. Raises
        ConjointError for a column that the function asks for and no task has.
        """
        if self.form not in COLUMNS:
            return
        for task in tasks:
            self._columns |= dict.fromkeys(columns_of(task))
        have = {*self._columns, *COLUMNS[self.form]} - (set() if tokens else {"completion_ids"})
        if missing := [name for name in self._needs if name not in have]:
            raise ConjointError(
                f"{self._config.function} asks for {missing[0]!r}, which no row of {where} has; "
                f"add that column, or give the parameter a default"
            )

    async def __call__(self, group: Group, context: RewardContext) -> list[Score]:
        return [score for score, _ in await self.with_faults(group, context)]

    async def with_faults(
        self, group: Group, context: RewardContext | None = None
    ) -> list[tuple[Score, Fault | None]]:
        """The group's scores, each missing one with the function's fault."""
        context, answers = context or RewardContext(), group.trajectories
        parts = [answers] if FORMS[self.form].grouped else [[answer] for answer in answers]
        lists = await asyncio.gather(*(self._ask(group.task, part, context) for part in parts))
        return [scored for one in lists for scored in one]

    async def examples(self) -> list[Example]:
        """What `examples()` beside the function gives (see `rewards.base.Example`), [] if there is
        none. Raises ConjointError if it fails."""
        try:
            plain = await self._pool.call(examples_of, _absolute(self._config.function))
        except WorkerError as error:
            raise ConjointError(
                f"examples() beside {self._config.function} cannot be used: {error}"
            ) from error
        return [Example(from_fields(fields), right, cheats) for fields, right, cheats in plain]

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    async def _ask(
        self, task: Task, answers: Sequence[Trajectory], context: RewardContext
    ) -> list[tuple[Score, Fault | None]]:
        """One call of the function. All answers are masked where it gives none."""
        known = Known(
            [t.response for t in answers],
            [_completion(t) for t in answers],
            tuple(self._columns),
            context.step,
            context.num_steps,
        )
        spec = _absolute(self._config.function)
        try:
            graded = await self._pool.call(grade, spec, self.form, to_fields(task), known)
        except DeadlinePassed as error:
            return [self._missing(Fault.SLOW, f"the function {error}")] * len(answers)
        except WorkerError as error:
            reason = f"the function failed: {error}"
            return [self._missing(Fault.CRASHES, reason)] * len(answers)
        return [self._score(one) for one in graded]

    def _score(self, graded: Graded) -> tuple[Score, Fault | None]:
        value, kind, reasons = graded
        if kind is Outcome.ABSTAIN:
            return Score.abstain(self.name, *reasons), None
        if value is None or isinstance(kind, Fault):
            return Score.infra_error(self.name, *reasons), Fault(kind)
        if kind is not None:  # the function returned a Score, which is in [0, 1] already
            return Score(self.name, value, kind, reasons), None
        low, high = self._config.low, self._config.high
        scaled = (value - low) / (high - low)
        if not 0.0 <= scaled <= 1.0:
            return self._missing(
                Fault.OUT_OF_RANGE,
                f"returned {value:g}, outside its range {low:g} to {high:g}; configure the range "
                "that the function really has",
            )
        return Score.of(self.name, scaled, f"returned {value:g}", *reasons), None

    def _missing(self, fault: Fault, reason: str) -> tuple[Score, Fault]:
        return Score.infra_error(self.name, reason), fault


def load_plugin(config: PluginConfig, key: str) -> PluginReward:
    """The reward behind a config entry, imported once in a worker to see that it can be called.

    Raises ConjointError naming `key` where it does not import, is not callable, does not have one
    of the known forms, or where deadline or range cannot be.
    """
    config.validate(key)
    spec = config.function
    pool = WorkerPool(f"{key} import", deadline_s=_IMPORT_S, memory_mb=0)
    try:
        form, needs = pool.call_blocking(form_of, _absolute(spec))
    except WorkerError as error:
        raise ConjointError(f"{key}: {spec!r} cannot be used: {error}") from error
    finally:
        pool.close()
    return PluginReward(config, form, needs)


def _completion(t: Trajectory) -> list[int]:
    """The tokens behind the prompt."""
    return t.tokens[t.sampled.index(True) :] if True in t.sampled else []


def _absolute(spec: str) -> str:
    module, _, name = spec.rpartition(":")
    return f"{os.path.abspath(module)}:{name}" if module.endswith(".py") else spec
