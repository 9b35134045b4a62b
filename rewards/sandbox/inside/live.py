"""Inside the jail: calls that come one at a time, from tests that run elsewhere.

Owns one call on both sides: how it is written, what the solution's side answers, and how the
checker's side takes what the call did to its arguments. Of the solution's side nothing is trusted.

A call is `[name, args, kwargs]`. Its answer is `["value", wire, changed]`, `["argument", index,
changed]` for the very object that was passed there, `["raised", names, args, text, changed]` with
the exception's class and those it derives from, `["refused", text]` for what may not cross, or
`["missing", text]`. `changed` is None, or the arguments as the call left them.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from conjoint.rewards.sandbox import codec

_FIXED = (type(None), bool, int, float, str)
"""Wire forms of values that no call can change."""


def answer(calls: int, namespace: Mapping[str, Any], reply: Callable[[list[Any]], None]) -> None:
    """Answer each line that comes on descriptor `calls`, until it is closed."""
    with os.fdopen(calls, "rb") as lines:
        for line in lines:
            name, args, kwargs = json.loads(line)
            function = namespace.get(name)
            if not callable(function):
                reply(["missing", f"defines no function '{name}'"])
                continue
            try:
                reply(_call(function, args, kwargs))
            except codec.CodecError as error:
                reply(["refused", str(error)])
            except RecursionError:
                reply(["refused", "a value nested too deep"])


def _call(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    given, named = [codec.decode(arg) for arg in args], decoded(kwargs)
    try:
        value = function(*given, **named)
    except BaseException as error:
        return ["raised", *_exception(error), _changed(args, kwargs, given, named)]
    for index, arg in enumerate(given):
        if value is arg and type(args[index]) not in _FIXED:
            return ["argument", index, _changed(args, kwargs, given, named)]
    return ["value", codec.encode(value), _changed(args, kwargs, given, named)]


def decoded(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: codec.decode(wire) for name, wire in kwargs.items()}


def _exception(error: BaseException) -> list[Any]:
    names = [cls.__name__ for cls in type(error).__mro__ if cls is not object]
    try:
        args = codec.encode(error.args)
    except (codec.CodecError, RecursionError):
        args = None
    try:
        text = str(error)[:200]
    except BaseException:
        text = ""
    return [names, args, text]


def _changed(
    args: list[Any], kwargs: dict[str, Any], given: list[Any], named: dict[str, Any]
) -> list[Any] | None:
    if all(type(wire) in _FIXED for wire in (*args, *kwargs.values())):
        return None
    now = [
        [codec.encode(value) for value in given],
        {name: codec.encode(value) for name, value in named.items()},
    ]
    # As text: 1, 1.0 and True are equal, and no nan is.
    return None if json.dumps(now) == json.dumps([args, kwargs]) else now


def write_back(old: Any, new: Any) -> Any:
    """`old` with what a call made of it, in place where its type can be changed, else `new`."""
    if type(old) is not type(new):
        return new
    if isinstance(old, (list, deque)):
        items = _written_items(old, new)
        old.clear()
        old.extend(items)
    elif isinstance(old, dict):
        pairs = [(k, write_back(old[k], v) if k in old else v) for k, v in new.items()]
        old.clear()
        for key, value in pairs:
            old[key] = value
    elif isinstance(old, (set, bytearray)):
        old.clear()
        old.update(new) if isinstance(old, set) else old.extend(new)
    elif isinstance(old, tuple):
        items = tuple(_written_items(old, new))
        same = len(items) == len(old) and all(a is b for a, b in zip(items, old, strict=True))
        return old if same else items
    else:
        return old if old == new else new
    return old


def _written_items(old: Any, new: Any) -> list[Any]:
    """The items of `new`; one that stands where `old` had its like is that object, updated."""
    known = list(old)[: len(new)]
    return [write_back(a, b) for a, b in zip(known, new, strict=False)] + list(new)[len(known) :]
