"""Inside the jail: calls that come one at a time, from tests that run elsewhere.

Owns one call on both sides: how it is written, what the solution's side answers, and how the
checker's side takes what the call did to its arguments. Of the solution's side nothing is trusted.

A call is `[name, args, kwargs]`. Its answer is `["value", wire, changed]`, `["argument", index,
changed]` for the very object that was passed there, `["instance", number, changed]` for an object
of one of the program's classes, which stays here, `["raised", names, args, text, changed]` with
the exception's class and those it derives from, `["refused", text]` for what may not cross, or
`["missing", text]`. `changed` is None, or the arguments as the call left them. A name is that of a
function, `Solution().f` for a method of a new object, or `#number.f` for one of an instance.
"""

import builtins
import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conjoint.rewards.sandbox import codec

_FIXED = (type(None), bool, int, float, str)
"""Wire forms of values that no call can change."""
_MAX_NAME = 120
_OWNER = "Solution"
"""The class in which LeetCode's programs define the function."""
_STEERING = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit)


def _stand_in(cls: type[BaseException]) -> type[BaseException]:
    found: Any = type(
        cls.__name__, (Exception if issubclass(cls, Exception) else BaseException,), {}
    )
    return found


STAND_INS = {cls.__name__: _stand_in(cls) for cls in _STEERING}
"""Exceptions that steer loops, generators and the interpreter itself, by name -> the class under
which a program's reaches the tests. It steers nothing: a loop of the tests over a program's answers
must not end as if it were done."""


def answer(calls: int, namespace: Mapping[str, Any], reply: Callable[[list[Any]], None]) -> None:
    """Answer each line that comes on descriptor `calls`, until it is closed."""
    instances: list[Any] = []
    with os.fdopen(calls, "rb") as lines:
        for line in lines:
            name, args, kwargs = json.loads(line)
            function = find(namespace, name, instances)
            if function is None:
                reply(["missing", f"defines no function '{name}'"])
                continue
            try:
                # By its name, as Python's own convention has it: any other call that gives an
                # object has given nothing that can be compared.
                keep = instances if isinstance(function, type) and name[:1].isupper() else None
                reply(_call(function, args, kwargs, keep))
            except codec.CodecError as error:
                reply(["refused", str(error)])
            except RecursionError:
                reply(["refused", "a value nested too deep"])


def find(
    namespace: Mapping[str, Any], name: str, instances: Sequence[Any] = ()
) -> Callable[..., Any] | None:
    """What a call of `name` calls; None where the program has no such thing. A plain name is that
    of a method of its `class Solution`, if it has one, or else of the module."""
    owner, _, method = name.rpartition(".")
    if owner.startswith("#"):
        found = getattr(instances[int(owner[1:])], method, None)
        return found if callable(found) else None
    cls = namespace.get(owner.removesuffix("()") or _OWNER)
    if isinstance(cls, type) and any(method in vars(base) for base in cls.__mro__[:-1]):
        return lambda *args, **kwargs: getattr(cls(), method)(*args, **kwargs)
    found = namespace.get(method)
    return found if callable(found) else None


def _call(
    function: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    instances: list[Any] | None,
) -> list[Any]:
    given, named = [codec.decode(arg) for arg in args], decoded(kwargs)
    try:
        value = function(*given, **named)
    except BaseException as error:
        return ["raised", *_exception(error), _changed(args, kwargs, given, named)]
    if instances is not None:
        instances.append(value)
        return ["instance", len(instances) - 1, _changed(args, kwargs, given, named)]
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


def exception(names: list[str], args: Any, text: str) -> BaseException:
    """The exception that the tests see: the built-in one that a program's is, or derives from,
    under its own name; a stand-in where it would steer their own control flow."""
    known: Mapping[str, Any] = vars(builtins)
    base = next(
        (
            known[name]
            for name in map(str, names)
            if isinstance(known.get(name), type) and issubclass(known[name], BaseException)
        ),
        Exception,
    )
    base = STAND_INS.get(base.__name__, base)
    name = str(names[0])[:_MAX_NAME]
    cls = base if name == base.__name__ else type(name, (base,), {})
    values = (text,) if args is None else tuple(codec.decode(args))
    try:
        return cls(*values)
    except Exception:  # some want arguments of a kind
        return Exception(str(text))


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
