"""Rewards that a user names in config: `module:function` or `path/to/file.py:function`.

Accepted forms: ours, `(task: Task, response: str) -> float | Score`, and TRL's, `(prompts,
completions, **columns) -> list[float]`; both may be async. They run in a worker that can be killed,
so one that raises, hangs or returns nonsense masks what it was asked about and never stops a run.
"""

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from conjoint.envs.types import ConjointError, Group, Message, Outcome, Score, Task
from conjoint.rewards.base import Example, RewardContext
from conjoint.rewards.killable import DeadlinePassed, WorkerError, WorkerPool, describe

_IMPORT_S = 60.0
_REFERENCE_COLUMNS = ("reference", "answer", "solution", "ground_truth")


class Fault(StrEnum):
    """What is wrong with a reward of the user's own; the last two only `--check` can find."""

    SLOW = "slow"
    RAISES = "raises"
    CRASHES = "crashes"
    FAILS = "fails"
    """It returned a Score without a value: its own word that it could not grade."""
    OUT_OF_RANGE = "out of range"
    WRONG_COUNT = "wrong count"
    WRONG_TYPE = "wrong type"
    NOT_FINITE = "not finite"
    GAMEABLE = "gameable"
    NOT_REPEATABLE = "not repeatable"


_Graded = tuple[float | None, Outcome | Fault | None, tuple[str, ...]]
"""A worker's answer for one response: a number and None, a Score's value and its outcome, or None
and the fault; then the reasons. Plain data, no user objects."""


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

    def __init__(self, config: PluginConfig, form: str) -> None:
        self.name = config.function.rpartition(":")[2]
        self.form = form
        self.deadline_s = config.deadline_s
        self._config = config
        self._pool = WorkerPool(
            f"reward {self.name}",
            deadline_s=config.deadline_s,
            memory_mb=0,
            warm=functools.partial(_load, _absolute(config.function)),
        )

    async def __call__(self, group: Group, context: RewardContext) -> list[Score]:
        return [score for score, _ in await self.with_faults(group)]

    async def with_faults(self, group: Group) -> list[tuple[Score, Fault | None]]:
        """The group's scores, each missing one with the function's fault."""
        responses = [t.response for t in group.trajectories]
        if self.form == "trl":
            return await self._ask(_grade_group, group.task, responses)
        lists = await asyncio.gather(*(self._ask(_grade_one, group.task, [r]) for r in responses))
        return [scored for one in lists for scored in one]

    async def examples(self) -> list[Example]:
        """What `examples()` beside the function gives (see `rewards.base.Example`), [] if there is
        none. Raises ConjointError if it fails."""
        try:
            plain = await self._pool.call(_examples, _absolute(self._config.function))
        except WorkerError as error:
            raise ConjointError(
                f"examples() beside {self._config.function} cannot be used: {error}"
            ) from error
        return [Example(_task(fields), right, cheats) for fields, right, cheats in plain]

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    async def _ask(
        self, grade: Callable[..., list[_Graded]], task: Task, responses: list[str]
    ) -> list[tuple[Score, Fault | None]]:
        fields, spec = _fields(task), _absolute(self._config.function)
        try:
            graded = await self._pool.call(grade, spec, fields, responses)
        except DeadlinePassed as error:
            return [self._missing(Fault.SLOW, f"the function {error}")] * len(responses)
        except WorkerError as error:
            reason = f"the function failed: {error}"
            return [self._missing(Fault.CRASHES, reason)] * len(responses)
        return [self._score(*one) for one in graded]

    def _score(
        self, value: float | None, kind: Outcome | Fault | None, reasons: tuple[str, ...]
    ) -> tuple[Score, Fault | None]:
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
        return Score.of(self.name, scaled, f"returned {value:g}"), None

    def _missing(self, fault: Fault, reason: str) -> tuple[Score, Fault]:
        return Score.infra_error(self.name, reason), fault


def load_plugin(config: PluginConfig, key: str) -> PluginReward:
    """The reward behind a config entry, imported once in a worker to see that it can be called.

    Raises ConjointError naming `key` where it does not import, is not callable, does not have one
    of the two forms, or where deadline or range cannot be.
    """
    config.validate(key)
    spec = config.function
    pool = WorkerPool(f"{key} import", deadline_s=_IMPORT_S, memory_mb=0)
    try:
        form = pool.call_blocking(_form, _absolute(spec))
    except WorkerError as error:
        raise ConjointError(f"{key}: {spec!r} cannot be used: {error}") from error
    finally:
        pool.close()
    return PluginReward(config, form)


def _absolute(spec: str) -> str:
    module, _, name = spec.rpartition(":")
    return f"{os.path.abspath(module)}:{name}" if module.endswith(".py") else spec


# Below: what runs in the worker.


@functools.cache
def _load(spec: str) -> Callable[..., Any]:
    """Import the function; its own folder (or the working directory) is importable too, after
    everything else: a user's math.py must not stand in for the standard library's."""
    source, _, name = spec.rpartition(":")
    folder = os.path.dirname(source) if source.endswith(".py") else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    if source.endswith(".py"):
        found = importlib.util.spec_from_file_location(f"plugin_{Path(source).stem}", source)
        if found is None or found.loader is None:
            raise ImportError(f"{source} is not a Python file")
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        found.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    function = getattr(module, name, None)
    if not callable(function):
        raise TypeError(f"{source} has no function {name}")
    return function


def _form(spec: str) -> str:
    """ "trl" or "task", by the names and number of the function's parameters."""
    parameters = inspect.signature(_load(spec)).parameters.values()
    names = {p.name for p in parameters}
    keywords = any(p.kind is p.VAR_KEYWORD for p in parameters)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if names & {"completions", "prompts"} or (keywords and not positional):
        return "trl"
    if len(positional) >= 2 >= len(required):
        return "task"
    raise TypeError(
        f"its parameters are ({', '.join(p.name for p in parameters)}); expected "
        "(task, response) or TRL's (prompts, completions, **columns)"
    )


def _examples(spec: str) -> list[tuple[Any, str, dict[str, str]]]:
    """(task's fields, right answer, cheats) of each example of the function's module."""
    make = getattr(sys.modules[_load(spec).__module__], "examples", None)
    plain = []
    for example in list(make()) if callable(make) else []:  # type: ignore[call-overload]
        if not isinstance(example, Example):
            kind = type(example).__name__
            raise TypeError(f"it gave {kind}, expected conjoint.rewards.base.Example")
        plain.append((_fields(example.task), example.right, dict(example.cheats)))
    return plain


def _fields(task: Task) -> tuple[str, str, list[Message], Any, dict[str, Any]]:
    return task.id, task.kind, list(task.messages), task.reference, dict(task.meta)


def _task(fields: tuple[str, str, list[Message], Any, dict[str, Any]]) -> Task:
    task_id, kind, messages, reference, meta = fields
    return Task(task_id, kind, tuple(messages), reference, meta)


def _finish(result: Any) -> Any:
    async def wait() -> Any:
        return await result

    return asyncio.run(wait()) if inspect.isawaitable(result) else result


def _grade_one(spec: str, fields: Any, responses: list[str]) -> list[_Graded]:
    """Ours: one response a call."""
    try:
        result = _finish(_load(spec)(_task(fields), responses[0]))
    except BaseException as error:
        return [_raised(error)]
    return [_graded(result)]


def _grade_group(spec: str, fields: Any, responses: list[str]) -> list[_Graded]:
    """TRL's: the group's responses in one call, every column repeated for each.

    Prompts and completions are text, or lists of messages where the task's own row gave messages
    (meta `conversational`), as TRL does it.
    """
    task = _task(fields)
    arguments: dict[str, Any] = {
        name: [value] * len(responses) for name, value in _columns(task).items()
    }
    if task.meta.get("conversational"):
        arguments["prompts"] = [[dict(m) for m in task.messages] for _ in responses]
        arguments["completions"] = [[{"role": "assistant", "content": r}] for r in responses]
    else:
        arguments["prompts"] = [task.prompt] * len(responses)
        arguments["completions"] = list(responses)
    try:
        function = _load(spec)
        parameters = inspect.signature(function).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            arguments = {p.name: arguments[p.name] for p in parameters if p.name in arguments}
        results = _finish(function(**arguments))
        results = results.tolist() if hasattr(results, "tolist") else results
    except BaseException as error:
        return [_raised(error)] * len(responses)
    if not isinstance(results, (list, tuple)):
        reason = f"the function returned {type(results).__name__}, expected a list"
        return [_broken(Fault.WRONG_TYPE, reason)] * len(responses)
    if len(results) != len(responses):
        reason = f"the function returned {len(results)} numbers for {len(responses)} answers"
        return [_broken(Fault.WRONG_COUNT, reason)] * len(responses)
    return [_graded(result) for result in results]


def _columns(task: Task) -> dict[str, Any]:
    """Columns as a TRL reward sees them: the reference by its usual names, its fields, the meta."""
    columns: dict[str, Any] = dict.fromkeys(_REFERENCE_COLUMNS, task.reference)
    if isinstance(task.reference, Mapping):
        columns |= {str(key): value for key, value in task.reference.items()}
    return columns | {k: v for k, v in task.meta.items() if k != "conversational"}


def _graded(result: Any) -> _Graded:
    try:
        if isinstance(result, Score):
            if result.value is None:
                return None, Fault.FAILS, tuple(map(str, result.reasons))
            value, outcome = float(result.value), Outcome(result.outcome)
            if not 0.0 <= value <= 1.0 or outcome is Outcome.INFRA_ERROR:
                reason = f"the function returned a Score of {value:g} as {outcome}"
                return _broken(Fault.OUT_OF_RANGE, reason)
            return value, outcome, tuple(map(str, result.reasons))
        if result is None or isinstance(result, (str, bytes)):
            reason = f"the function returned {result!r:.80}, expected a number"
            return _broken(Fault.WRONG_TYPE, reason)
        value = float(result)
    except BaseException as error:
        reason = f"the function returned no number ({describe(error)})"
        return _broken(Fault.WRONG_TYPE, reason)
    if not math.isfinite(value):
        return _broken(Fault.NOT_FINITE, f"the function returned {value}")
    return value, None, ()


def _raised(error: BaseException) -> _Graded:
    return _broken(Fault.RAISES, f"the function raised {describe(error)}")


def _broken(fault: Fault, reason: str) -> _Graded:
    return None, fault, (reason,)
