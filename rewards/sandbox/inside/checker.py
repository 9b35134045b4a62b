"""Inside the checker's jail: runs assert tests against a solution that runs in another jail.

Owns what the tests see of the solution: functions that hand each call out and the answer back in
(`live.py`). What comes back is plain data or a built-in exception; anything else
ends the tests at once, so that no test can be pleased by it. The verdict goes out on descriptor 3,
which no solution has.

Lines out: `c` and a call, `p` and [cases passed, all cases], `v` and the verdict. A case is a
statement of the tests, at their top or at that of their `check`, that can fail: it holds an assert
or a raise, or names the function under test.
"""

import ast
import builtins
import contextlib
import importlib
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.inside import live, solution

_OUT = 3
_MAX_TEXT = 120
_PASSED, _FAILED = "__case_passed__", "__case_failed__"


def run(source: bytes, entry: str, payload: bytes) -> NoReturn:
    """Run the tests; never returns. The payload says whether to go on after a failed case."""
    try:
        answers = os.fdopen(solution.take_stdin(), "rb")
        solution.open_streams()
        solution.start_clean()
        _Tests(source.decode("utf-8", "surrogatepass"), entry, answers, json.loads(payload)).run()
    finally:
        os._exit(1)


class _Tests:
    def __init__(self, source: str, entry: str, answers: Any, every_case: bool) -> None:
        self._source = source
        self._entry = entry
        self._answers = answers
        self._every_case = every_case
        self._tree = ast.parse(source)
        self._cases = _guard_cases(self._tree, entry)
        self._case = 0  # number from 1 of the case that ended last
        self._passed = 0
        self._told = -1  # cases passed that the pool knows of
        self._failures: list[tuple[str, str]] = []
        self._last: _Call | None = None
        self._raised: BaseException | None = None

    def run(self) -> NoReturn:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        code = compile(self._tree, "tests.py", "exec", dont_inherit=True)
        names = module.__dict__
        free = {name: self._function(name) for name in _names(code) if not hasattr(builtins, name)}
        names.update(free)
        names.update(_modules(self._tree, free))
        names.update({_PASSED: self._case_passed, _FAILED: self._case_failed})
        under_test = names[self._entry] = self._function(self._entry)
        try:
            exec(code, names)
            check = names.get("check")
            if self._entry != "check" and callable(check) and check is not free.get("check"):
                check(under_test)
        except BaseException as error:
            self._end(*self._what_failed(error, "the tests"))
        if self._last is None:
            self._end("unusable", f"the tests never call {self._entry}")
        self._end(*(self._failures[0] if self._failures else ("passed", "")))

    def _function(self, name: str) -> Callable[..., Any]:
        def relayed(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        relayed.__name__ = relayed.__qualname__ = name
        return relayed

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            sent = [codec.encode(arg) for arg in args]
            named = {key: codec.encode(value) for key, value in kwargs.items()}
        except (codec.CodecError, RecursionError) as error:
            self._end("unusable", f"the tests give {name} {error}, which cannot leave their jail")
        self._last = _Call(name, args, kwargs)
        self._write(b"c", [name, sent, named])
        line = self._answers.readline()
        if not line:
            os._exit(1)  # nobody listens any more
        try:
            kind, *body = codec.loads(line)
            value = self._read(kind, body, self._last)
        except (TypeError, ValueError, LookupError, AttributeError):
            self._end("fail", f"{self._last} sent something that is not an answer")
        self._last.value = value
        if kind == "raised" or kind == "missing":
            self._raised = value
            raise value
        return value

    def _read(self, kind: str, body: list[Any], call: "_Call") -> Any:
        """What an answer says: a value, or the exception to raise. Raises for a malformed one."""
        if kind == "gone":
            self._end("gone", f"{call} gave no answer")
        if kind == "missing" and call.name != self._entry:
            return NameError(f"name '{call.name}' is not defined")
        if kind == "missing":
            self._end("raised", f"the program {str(body[0])[:_MAX_TEXT]}")
        if kind == "refused":
            self._end("fail", f"{call} gave {str(body[0])[:_MAX_TEXT]}")
        if (changed := body[-1]) is not None:
            for old, new in zip(call.args, changed[0], strict=True):
                live.write_back(old, codec.decode(new))
            for key, new in live.decoded(changed[1]).items():
                live.write_back(call.kwargs[key], new)
        if kind == "raised":
            return _exception(*body[:3])
        return call.args[body[0]] if kind == "argument" else codec.decode(body[0])

    # Cases.

    def _case_passed(self, number: int) -> None:
        self._case, self._passed = number, self._passed + 1

    def _case_failed(self, number: int) -> None:
        error = sys.exc_info()[1]
        statement = ast.get_source_segment(self._source, self._cases[number - 1]) or "a statement"
        where = f"case {number} of {len(self._cases)}: {_cut(' '.join(statement.split()))}"
        self._failures.append(self._what_failed(error, where))
        self._case = number
        if not self._every_case:
            self._end(*self._failures[0])

    def _what_failed(self, error: BaseException | None, where: str) -> tuple[str, str]:
        """("raised" if it is the solution's own exception that came through, else "fail", words)"""
        if error is self._raised:
            return "raised", f"{where}: {self._last} failed with {_described(error)}"
        said = "" if isinstance(error, AssertionError) else f"{_described(error)}; "
        if self._last is None:
            return "fail", f"{where}: {said}before any call"
        return "fail", f"{where}: {said}{self._last} gave {_shown(self._last.value)}"

    # Out.

    def _end(self, kind: str, text: str) -> NoReturn:
        """Send the verdict and stop here, whatever the tests would catch."""
        if kind in ("gone", "fail", "raised") and not text.startswith(("case ", "the tests")):
            text = f"case {self._case + 1} of {len(self._cases)}: {text}"
        self._write(b"v", [kind, text])
        os._exit(0)

    def _write(self, mark: bytes, message: list[Any]) -> None:
        data = mark + codec.dumps(message) + b"\n"
        if self._passed != self._told:
            self._told = self._passed
            data = b"p" + codec.dumps([self._passed, len(self._cases)]) + b"\n" + data
        view = memoryview(data)
        while view:
            view = view[os.write(_OUT, view) :]


@dataclass(slots=True)
class _Call:
    """The last call, for the words of a verdict."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any = None
    """What it gave, or the exception that it raised."""

    def __str__(self) -> str:
        named = [f"{key}={_shown(value)}" for key, value in self.kwargs.items()]
        return _cut(f"{self.name}({', '.join([*map(_shown, self.args), *named])})")


def _guard_cases(tree: ast.Module, entry: str) -> list[ast.stmt]:
    """Put every case into a `try` that reports how it ended. Returns the cases, in order."""
    cases: list[ast.stmt] = []
    bodies = [tree.body]
    bodies += [n.body for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    parameters = {
        n.args.args[0].arg
        for n in tree.body
        if isinstance(n, ast.FunctionDef) and n.name == "check" and n.args.args
    }
    for body in bodies:
        for place, statement in enumerate(body):
            if _can_fail(statement, {entry} | parameters):
                cases.append(statement)
                body[place] = _guarded(statement, len(cases))
    return cases


def _can_fail(statement: ast.stmt, tested: set[str]) -> bool:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Return)):
        return False
    return any(
        isinstance(node, (ast.Assert, ast.Raise))
        or (isinstance(node, ast.Expr) and _names_one(node, tested))
        for node in ast.walk(statement)
    )


def _names_one(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def _guarded(statement: ast.stmt, number: int) -> ast.stmt:
    def call(name: str) -> ast.stmt:
        function = ast.Name(id=name, ctx=ast.Load())
        return ast.Expr(ast.Call(func=function, args=[ast.Constant(number)], keywords=[]))

    handler = ast.ExceptHandler(type=None, name=None, body=[call(_FAILED)])
    guarded = ast.Try(body=[statement], handlers=[handler], orelse=[call(_PASSED)], finalbody=[])
    return ast.fix_missing_locations(ast.copy_location(guarded, statement))


def _names(code: types.CodeType) -> set[str]:
    """Every name that the code uses, in any of its functions."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _modules(tree: ast.Module, free: Mapping[str, Any]) -> dict[str, types.ModuleType]:
    """Standard modules that the tests use and do not import: a plain run has the program's."""
    used = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = {}
    for name in used.intersection(free, sys.stdlib_module_names):
        with contextlib.suppress(ImportError):
            found[name] = importlib.import_module(name)
    return found


def _exception(names: list[str], args: Any, text: str) -> BaseException:
    """The built-in exception that a solution's is, or derives from, under its own name."""
    known: Mapping[str, Any] = vars(builtins)
    base = next(
        (
            known[name]
            for name in map(str, names)
            if isinstance(known.get(name), type) and issubclass(known[name], BaseException)
        ),
        Exception,
    )
    name = str(names[0])[:_MAX_TEXT]
    cls = base if name == base.__name__ else type(name, (base,), {})
    values = (text,) if args is None else tuple(codec.decode(args))
    try:
        return cls(*values)
    except Exception:  # some want arguments of a kind
        return Exception(str(text))


def _described(error: BaseException | None) -> str:
    try:
        return _cut(f"{type(error).__name__}: {error}")
    except (RecursionError, ValueError):
        return type(error).__name__


def _shown(value: Any) -> str:
    try:
        return _cut(repr(value))
    except (RecursionError, ValueError):
        return "a value that cannot be shown"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
