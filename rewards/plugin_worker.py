"""The user's own reward inside its worker: it is imported, recognised, called, and its answer read.

A function has one of four forms, known by the names of its parameters. All may be async.

| form | parameters | returns |
|---|---|---|
| task | (task, response), by place | a number or a Score |
| trl | prompts, completions, columns of the row, `COLUMNS` below | a list |
| verl | data_source, solution_str, ground_truth, extra_info | a number, or a dict with `score` |
| verl_batch | data_sources, solution_strs, ground_truths, extra_infos | a list of such |

Only plain data cross to the driver and back: no object of the user's own is unpickled there.
"""

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from conjoint.envs.types import Message, Outcome, Score, Task
from conjoint.rewards.base import Example
from conjoint.rewards.killable import describe

Form = Literal["task", "trl", "verl", "verl_batch"]


@dataclass(frozen=True, slots=True)
class FormWords:
    """A form's name in words, and whether it takes the answers of a group in one call."""

    words: str
    grouped: bool


FORMS: dict[Form, FormWords] = {
    "task": FormWords("the form (task, response)", grouped=False),
    "trl": FormWords("TRL's form", grouped=True),
    "verl": FormWords("verl's form", grouped=False),
    "verl_batch": FormWords("verl's form for a batch", grouped=True),
}
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")
COLUMNS: dict[Form, tuple[str, ...]] = {
    "trl": (
        *("prompts", "completions", "completion_ids"),
        *("trainer_state", "log_extra", "log_metric"),
    )
}
"""Form that also takes columns of the rows -> what it is given besides."""

_REFERENCE_COLUMNS = ("reference", "answer", "solution", "ground_truth")
_FOREIGN = {"completion": "verifiers'", "sample": "slime's", "label": "OpenRLHF's"}
"""Parameters by which rewards of other forms are known, which must not be called by place."""


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


Graded = tuple[float | None, Outcome | Fault | None, tuple[str, ...]]
"""A worker's answer for one response: a number and None, a Score's value and its outcome, None and
ABSTAIN, or None and the fault; then the reasons."""

Fields = tuple[str, str, list[Message], Any, dict[str, Any]]
"""A task as plain data: id, kind, messages, reference, meta."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the driver knows of the answers of one call."""

    responses: list[str]
    completion_ids: list[list[int]]
    columns: tuple[str, ...] = ()
    """Columns that any task of the run has."""
    step: int = 0
    num_steps: int = 0


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a TRL reward may ask of its `trainer_state`."""

    global_step: int
    """Steps done."""
    max_steps: int
    """Steps of the run; 0 outside one."""


@functools.cache
def load(spec: str) -> Callable[..., Any]:
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


def form_of(spec: str) -> tuple[Form, tuple[str, ...]]:
    """The form of the function, and the parameters that it cannot be called without.

    Raises TypeError for a function of another form.
    """
    parameters = inspect.signature(load(spec)).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    names = {p.name for p in named}
    keywords = any(p.kind is p.VAR_KEYWORD for p in parameters)
    needs = tuple(p.name for p in named if p.default is p.empty)
    positional = [p for p in named if p.kind is not p.KEYWORD_ONLY]
    if names & {"completions", "prompts"} or (keywords and not positional):
        return "trl", needs
    plural = tuple(f"{name}s" for name in _VERL)
    for form, given in (("verl", _VERL), ("verl_batch", plural)):
        if given[1] in names:
            if strange := [name for name in needs if name not in given]:
                raise TypeError(f"it asks for {strange[0]!r}; verl gives {', '.join(given)}")
            return form, needs  # type: ignore[return-value]
    foreign = next((name for name in _FOREIGN if name in names), None)
    required = [p for p in positional if p.default is p.empty]
    if foreign is None and len(positional) >= 2 >= len(required):
        return "task", ()
    seems = f", which seems to be {_FOREIGN[foreign]} form" if foreign else ""
    raise TypeError(
        f"its parameters are ({', '.join(p.name for p in parameters)}){seems}; expected "
        "(task, response), TRL's (prompts, completions, **columns) or verl's "
        "(data_source, solution_str, ground_truth, extra_info)"
    )


def examples_of(spec: str) -> list[tuple[Fields, str, dict[str, str]]]:
    """(task's fields, right answer, cheats) of each example of the function's module."""
    make = getattr(sys.modules[load(spec).__module__], "examples", None)
    plain = []
    for example in list(make()) if callable(make) else []:  # type: ignore[call-overload]
        if not isinstance(example, Example):
            kind = type(example).__name__
            raise TypeError(f"it gave {kind}, expected conjoint.rewards.base.Example")
        plain.append((to_fields(example.task), example.right, dict(example.cheats)))
    return plain


def to_fields(task: Task) -> Fields:
    return task.id, task.kind, list(task.messages), task.reference, dict(task.meta)


def from_fields(fields: Fields) -> Task:
    task_id, kind, messages, reference, meta = fields
    return Task(task_id, kind, tuple(messages), reference, meta)


def grade(spec: str, form: Form, fields: Fields, known: Known) -> list[Graded]:
    """One call of the function: what it says of each response."""
    task, count = from_fields(fields), len(known.responses)
    logged = _Logged(count)
    try:
        function = load(spec)
        if form == "task":
            results = [_finish(function(task, known.responses[0]))]
        else:
            arguments = _ARGUMENTS[form](task, known, logged)
            results = _finish(function(**_accepted(function, arguments)))
            results = results.tolist() if hasattr(results, "tolist") else results
            results = results if FORMS[form].grouped else [results]
    except BaseException as error:
        return [_broken(Fault.RAISES, f"the function raised {describe(error)}")] * count
    if not isinstance(results, (list, tuple)):
        reason = f"the function returned {type(results).__name__}, expected a list"
        return [_broken(Fault.WRONG_TYPE, reason)] * count
    if len(results) != count:
        reason = f"the function returned {len(results)} numbers for {count} answers"
        return [_broken(Fault.WRONG_COUNT, reason)] * count
    read = {"trl": _of_trl, "task": _graded}.get(form, _of_verl)
    graded = [read(result) for result in results]
    return [
        (value, kind, (*reasons, *more))
        for (value, kind, reasons), more in zip(graded, logged.reasons(), strict=True)
    ]


# -- arguments ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Logged:
    """What a TRL reward logs: it is shown with the answers' scores."""

    count: int
    metrics: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def log_metric(self, name: str, value: Any) -> None:
        self.metrics[name] = value

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        self.extra[column] = list(values)

    def reasons(self) -> list[tuple[str, ...]]:
        of_all = [_word(*pair) for pair in self.metrics.items()]
        return [
            (*of_all, *(_word(k, v[i]) for k, v in self.extra.items() if i < len(v)))
            for i in range(self.count)
        ]


def _trl(task: Task, known: Known, logged: _Logged) -> dict[str, Any]:
    """TRL's arguments: every column repeated for each answer.

    Prompts and completions are text, or lists of messages where the task's own row gave messages
    (meta `conversational`), as TRL does it.
    """
    count = len(known.responses)
    columns = dict.fromkeys(known.columns) | _columns(task)
    arguments: dict[str, Any] = {name: [value] * count for name, value in columns.items()}
    if task.meta.get("conversational"):
        arguments["prompts"] = [[dict(m) for m in task.messages] for _ in known.responses]
        arguments["completions"] = [
            [{"role": "assistant", "content": response}] for response in known.responses
        ]
    else:
        arguments["prompts"] = [task.prompt] * count
        arguments["completions"] = list(known.responses)
    return arguments | {
        "completion_ids": known.completion_ids,
        "trainer_state": TrainerState(known.step, known.num_steps),
        "log_extra": logged.log_extra,
        "log_metric": logged.log_metric,
    }


def _verl(task: Task, known: Known, logged: _Logged) -> dict[str, Any]:
    """verl's arguments. A row without `data_source` gives its kind; one without `extra_info` its
    other columns."""
    extra = task.meta.get("extra_info")
    if not isinstance(extra, Mapping):
        own = ("data_source", "ability", "env_class", "conversational")
        extra = {key: value for key, value in task.meta.items() if key not in own}
    source = task.meta.get("data_source") or task.kind
    values = (source, known.responses[0], task.reference, dict(extra))
    return dict(zip(_VERL, values, strict=True))


def _verl_batch(task: Task, known: Known, logged: _Logged) -> dict[str, Any]:
    found = {
        name: [value] * len(known.responses) for name, value in _verl(task, known, logged).items()
    }
    return {f"{name}s": values for name, values in found.items()} | {
        "solution_strs": list(known.responses)
    }


_ARGUMENTS: dict[Form, Callable[[Task, Known, _Logged], dict[str, Any]]] = {
    "trl": _trl,
    "verl": _verl,
    "verl_batch": _verl_batch,
}


def columns_of(task: Task) -> list[str]:
    """Names of the columns that the task's row has; those of a reference only if there is one."""
    lacks = _REFERENCE_COLUMNS if task.reference is None else ()
    return [name for name in _columns(task) if name in task.meta or name not in lacks]


def _columns(task: Task) -> dict[str, Any]:
    """Columns as a TRL reward sees them: the reference by its usual names, its fields, the meta."""
    columns: dict[str, Any] = dict.fromkeys(_REFERENCE_COLUMNS, task.reference)
    if isinstance(task.reference, Mapping):
        columns |= {str(key): value for key, value in task.reference.items()}
    return columns | {k: v for k, v in task.meta.items() if k != "conversational"}


def _accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function has parameters for."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return arguments
    return {p.name: arguments[p.name] for p in parameters if p.name in arguments}


def _finish(result: Any) -> Any:
    async def wait() -> Any:
        return await result

    return asyncio.run(wait()) if inspect.isawaitable(result) else result


# -- results -----------------------------------------------------------------------------------


def _of_trl(result: Any) -> Graded:
    if result is None:
        return None, Outcome.ABSTAIN, ("the function returned None and so abstains",)
    return _graded(result)


def _of_verl(result: Any) -> Graded:
    """A number, a dict whose `score` is one and whose other entries are kept as reasons, or a
    sequence that begins with one."""
    if isinstance(result, Mapping):
        if "score" not in result:
            return _broken(Fault.WRONG_TYPE, "the function returned a dict without 'score'")
        value, kind, reasons = _graded(result["score"])
        rest = tuple(_word(k, v) for k, v in result.items() if k != "score")
        return value, kind, (*reasons, *rest)
    if isinstance(result, (list, tuple)) and result:
        return _graded(result[0])
    return _graded(result)


def _word(name: Any, value: Any) -> str:
    return f"{name}: {value}"[:_MAX_WORD]


_MAX_WORD = 500
"""Characters of one logged value."""


def _graded(result: Any) -> Graded:
    try:
        if isinstance(result, Score):
            if result.value is None and result.outcome == Outcome.ABSTAIN:
                return None, Outcome.ABSTAIN, tuple(map(str, result.reasons))
            if result.value is None:
                return None, Fault.FAILS, tuple(map(str, result.reasons))
            value, outcome = float(result.value), Outcome(result.outcome)
            if not 0.0 <= value <= 1.0 or outcome in (Outcome.INFRA_ERROR, Outcome.ABSTAIN):
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


def _broken(fault: Fault, reason: str) -> Graded:
    return None, fault, (reason,)
