"""What test code holds: the statements and functions that check something, and who runs them.

Used where a reference is loaded, to refuse tests that check nothing or that the jail cannot run,
and in the checker's jail, to run each case guarded. The code is the task's, never a policy's.
"""

import ast
import re
import sys
from collections.abc import Iterator
from typing import TypeGuard

from conjoint.rewards.sandbox.inside.live import STAND_INS

PASSED, FAILED, ENTERED = "__case_passed__", "__case_failed__", "__case_entered__"
PYTEST = ("raises", "approx", "mark", "param", "fixture", "fail", "skip", "main")
"""What tests may use of pytest: see `frameworks.py`."""
_EXPECTING = ("assertRaises", "assertRaisesRegex", "raises", "suppress", "isinstance", "issubclass")
_ENDING = ("exit", "quit", "_exit", "abort")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Outline:
    """The parts of one module of tests for `entry`."""

    def __init__(self, tree: ast.Module, entry: str) -> None:
        self.tree = tree
        self.entry = entry
        self.defined = {node.name: node for node in tree.body if isinstance(node, _DEFINITIONS)}
        self.classes = [n for n in self.defined.values() if isinstance(n, ast.ClassDef)]
        self.unittests = self._unittests()
        self.test_classes = [
            node for node in self.classes if node.name.startswith("Test")
            and node.name not in self.unittests and any(map(_is_test, node.body))
        ]  # fmt: skip
        self.checking = self._checking()
        named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        self.test_functions: list[_Function] = [
            node for node in self.defined.values()
            if _is_test(node) and not (node.name in named and _parameters(node))
        ]  # fmt: skip
        """Also those that the code calls itself: who is called is known when it ran."""

    def _unittests(self) -> set[str]:
        found: set[str] = set()
        for _ in self.classes:
            for node in self.classes:
                bases = {_last_name(base) for base in node.bases}
                if bases & found or any(base.endswith("TestCase") for base in bases):
                    found.add(node.name)
        return found

    def _checking(self) -> set[str]:
        """Functions and helper classes in which, or in what they call, something is checked."""
        found: set[str] = set()
        helpers = self.defined.keys() - self.unittests - {node.name for node in self.test_classes}
        while more := {
            name for name in helpers - found if _checks(self.defined[name], found | {""})
        }:
            found |= more
        return found

    @property
    def check(self) -> ast.FunctionDef | None:
        """The function that is given the one under test, if there is one."""
        found = self.defined.get("check") if self.entry != "check" else None
        return found if isinstance(found, ast.FunctionDef) else None

    @property
    def count(self) -> int:
        """Tests that a framework runs, before parameters multiply them."""
        classes = [*self.test_classes, *(n for n in self.classes if n.name in self.unittests)]
        return len(self.test_functions) + sum(_is_test(s) for node in classes for s in node.body)

    def checks_something(self) -> bool:
        run = [node for node in self.tree.body if not isinstance(node, _DEFINITIONS)]
        run += [self.check] if self.check else []
        run += [*self.test_functions, *self.test_classes]
        if any(_is_test(statement) for node in self.classes for statement in node.body):
            run += [node for node in self.classes if node.name in self.unittests]
        return any(self.is_case(node) for node in run)

    def is_case(self, statement: ast.stmt) -> bool:
        return _checks(statement, self.checking)

    # What cannot be run, in words.

    def unusable(self) -> str:
        """Why these tests cannot be run in the jail; empty if they can."""
        for module, names in self._imports():
            if not (
                module in sys.stdlib_module_names
                or module == "pytest"
                or self._is_program(module, names)
            ):
                return f"imports {module}, which the jail does not have"
        for node in ast.walk(self.tree):
            match node:
                case ast.Attribute(value=ast.Name("pytest"), attr=used) if used not in PYTEST:
                    return f"uses pytest.{used}; of pytest there is {', '.join(PYTEST)}"
        if hooks := [name for name in self.defined if re.match("(setup|teardown)_", name)]:
            return f"defines {hooks[0]}(); use a fixture"
        return self._unusable_test()

    def _unusable_test(self) -> str:
        functions = [n for n in ast.walk(self.tree) if isinstance(n, _FUNCTIONS)]
        fixtures = {node.name for node in functions if _is_fixture(node)}
        for node in (n for n in self.classes if n.name in self.unittests):
            awaited = any("Async" in _last_name(base) for base in node.bases)
            for method in filter(_is_test, node.body):
                if isinstance(method, ast.AsyncFunctionDef) and not awaited:
                    return f"{node.name}.{method.name} is async, and is never awaited"
        inner = [m for node in self.test_classes for m in node.body if _is_test(m)]
        for test in [*self.test_functions, *inner]:
            if any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in _own_nodes(test)):
                return f"{test.name} has a yield, and no framework runs what is before it"
            wanted = _parameters(test)[test in inner :]
            if unknown := [p for p in wanted if p not in fixtures | _parametrized(test)]:
                return f"{test.name} takes '{unknown[0]}', which is no fixture of these tests"
        return ""

    def _imports(self) -> Iterator[tuple[str, set[str]]]:
        for node in self.tree.body:
            if isinstance(node, ast.Import):
                yield from ((alias.name.partition(".")[0], set()) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = (node.module or "").partition(".")[0]
                yield module, {alias.name for alias in node.names}

    def _is_program(self, module: str, names: set[str]) -> bool:
        return module == "solution" or bool(names & {self.entry, "Solution", "*"})

    def program_modules(self) -> set[str]:
        """Modules that the tests import the program from, under whatever name."""
        return {
            module for module, names in self._imports()
            if module not in sys.stdlib_module_names and self._is_program(module, names)
        }  # fmt: skip


def guard(outline: Outline) -> list[ast.stmt]:
    """Put every case into a `try` that reports how it ended, have tests say that they were entered,
    and see the program's exceptions where they are expected. Returns the cases, in order."""
    cases: list[ast.stmt] = []
    tested = {outline.entry.rpartition(".")[2]}
    bodies = [outline.tree.body]
    if check := outline.check:
        bodies.append(check.body)
        tested |= {argument.arg for argument in check.args.args[:1]}
    for body in bodies:
        for place, statement in enumerate(body):
            if isinstance(statement, (*_DEFINITIONS, ast.Return)):
                continue
            if outline.is_case(statement) or _uses(statement, tested):
                cases.append(statement)
                body[place] = _guarded(statement, len(cases))
    inner = [
        (f"{node.name}.", m) for node in outline.test_classes for m in node.body if _is_test(m)
    ]
    for prefix, test in [*(("", test) for test in outline.test_functions), *inner]:
        test.body.insert(0, _call(ENTERED, prefix + test.name))
    if check:
        check.body.insert(0, _call(ENTERED, "check"))
    ast.fix_missing_locations(_Widened().visit(outline.tree))
    return cases


class _Widened(ast.NodeTransformer):
    """Where the tests expect an exception that steers control flow, they also expect the stand-in
    under which the program's arrives."""

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.type = _widened(node.type) if node.type else None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _last_name(node.func) in _EXPECTING:
            node.args = [_widened(argument) for argument in node.args]
            for keyword in node.keywords:
                keyword.value = _widened(keyword.value)
        return node


def _widened(node: ast.expr) -> ast.expr:
    given = node.elts if isinstance(node, ast.Tuple) else [node]
    extra: list[ast.expr] = [
        ast.Name(id=stand_in_name(n.id), ctx=ast.Load())
        for n in given if isinstance(n, ast.Name) and n.id in STAND_INS
    ]  # fmt: skip
    return ast.Tuple(elts=[*given, *extra], ctx=ast.Load()) if extra else node


def stand_in_name(name: str) -> str:
    return f"__program_{name}__"


def _checks(node: ast.AST, names: set[str]) -> bool:
    """Whether something in it can fail by what the program answers: not `assert True`, nor an
    assert of a tuple, which is always true."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise):
            return True
        if isinstance(inner, ast.Assert) and not _always_true(inner.test):
            return True
        if isinstance(inner, ast.Call):
            name = _last_name(inner.func)
            if name.startswith(("assert", "fail")) or name == "raises":
                return True
            if name in _ENDING and inner.args:
                return True
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load) and inner.id in names:
            return True
    return False


def _always_true(test: ast.expr) -> bool:
    if isinstance(test, ast.Tuple):
        return bool(test.elts)
    return isinstance(test, ast.Constant) and bool(test.value)


def _uses(statement: ast.stmt, tested: set[str]) -> bool:
    """Whether it calls the program as a statement: it fails if that raises."""
    return any(
        isinstance(node, ast.Expr)
        and any(isinstance(n, ast.Name) and n.id in tested for n in ast.walk(node))
        for node in ast.walk(statement)
    )


def _is_test(node: ast.stmt) -> TypeGuard[_Function]:
    return isinstance(node, _FUNCTIONS) and node.name.startswith("test") and not _is_fixture(node)


def _parameters(node: _Function) -> list[str]:
    """Parameters without a default."""
    found = [*node.args.posonlyargs, *node.args.args]
    found = found[: len(found) - len(node.args.defaults)]
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return [a.arg for a in [*found, *(a for a, default in pairs if default is None)]]


def _parametrized(node: _Function) -> set[str]:
    found: set[str] = set()
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and _last_name(call.func) == "parametrize" and call.args:
            parts = [n.value for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant)]
            found |= {name.strip() for part in parts for name in str(part).split(",")}
    return found


def _is_fixture(node: _Function) -> bool:
    called = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(_last_name(d) == "fixture" for d in called)


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _call(name: str, *values: int | str) -> ast.stmt:
    function = ast.Name(id=name, ctx=ast.Load())
    arguments: list[ast.expr] = [ast.Constant(value) for value in values]
    return ast.Expr(ast.Call(func=function, args=arguments, keywords=[]))


def _guarded(statement: ast.stmt, number: int) -> ast.stmt:
    handler = ast.ExceptHandler(type=None, name=None, body=[_call(FAILED, number)])
    passed = [_call(PASSED, number)]
    guarded = ast.Try(body=[statement], handlers=[handler], orelse=passed, finalbody=[])
    return ast.copy_location(guarded, statement)
