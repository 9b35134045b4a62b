"""Inside the jail: how a program that is not forked from the zygote starts, for each language.

Owns what the process may do (`allowed`), its files, arguments and environment. All of it is
confined before it starts: the system-call filter tells the one exec that starts it from others. A
fresh Python gets `solution.py` as compiled code: the jail has no file of this project.
"""

import contextlib
import errno
import functools
import importlib.util
import marshal
import os
import signal
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from conjoint.rewards.sandbox.kernel import syscalls as kernel
from conjoint.rewards.sandbox.kernel.seccomp import Filter
from conjoint.rewards.sandbox.spec import Spec

FORK, PYTHON, COMPILE, BINARY, BASH = "fork", "python", "compile", "binary", "bash"
CHECK, CALL = "check", "call"
"""How a job runs: forked from the zygote (a program, the tests of another one, or a call of the
verifier profile), or exec'd."""
FORKED = (FORK, CHECK, CALL)

_BUNDLE = 6
_THREAD_STACK = 8 << 20
"""The usual size: a process that is exec'd takes that of its main stack, which is far larger."""
_BOOT = f"""
import _thread, marshal, sys
_thread.stack_size({_THREAD_STACK})
with open({_BUNDLE}, "rb") as file:
    modules, job = marshal.load(file), marshal.load(file)
for name, code in modules.items():
    module = sys.modules[name] = type(sys)(name)
    if code is not None:
        exec(code, module.__dict__)
    above, _, last = name.rpartition(".")
    if above:
        setattr(sys.modules[above], last, module)
sys.modules["conjoint.rewards.sandbox.inside.solution"].run(*job)
"""
_PACKAGES = (
    "conjoint",
    "conjoint.rewards",
    "conjoint.rewards.sandbox",
    "conjoint.rewards.sandbox.inside",
)
_SOLUTION = "conjoint.rewards.sandbox.inside.solution"
_CALLS = ("conjoint.rewards.sandbox.codec", "conjoint.rewards.sandbox.inside.live")

_COMPILER, _SHELL = "g++", "bash"
_FLAGS = ("-std=gnu++20", "-DONLINE_JUDGE", "-O2", "-w", "-pipe", "-fdiagnostics-color=never")
_SOURCES = {COMPILE: "solution.cpp", BASH: "solution.sh"}
_COMPILED = "solution"
_MFD_EXEC = 0x10
"""Asked for where vm.memfd_noexec is 1."""
_MAX_BINARY = 16 << 20
COMPILE_WALL_S, _COMPILE_CPU_S, _COMPILE_MB, _COMPILE_SCRATCH_MB = 60.0, 30, 1024, 64


@dataclass(frozen=True, slots=True)
class Start:
    """The file to execute, its arguments and environment, and what Python reads first (or -1)."""

    program: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    bundle: int


def allowed(how: str, tier: str) -> Filter:
    """What the system-call filter lets this job do beyond threads."""
    if how in FORKED:
        return Filter()
    if how == COMPILE or (how == BASH and tier == "namespaces"):
        return Filter(processes=True)
    return Filter(exec_from=kernel.syscall_address(), fork_kills=how == BASH)


def limited(orders: Spec, how: str) -> Spec:
    """`orders` with the limits of this job: a compiler, which runs nothing, has its own."""
    if how != COMPILE:
        return orders
    return replace(
        orders,
        wall_s=COMPILE_WALL_S,
        cpu_s=_COMPILE_CPU_S,
        memory_mb=max(orders.memory_mb, _COMPILE_MB),
        scratch_mb=max(orders.scratch_mb, _COMPILE_SCRATCH_MB),
    )


def prepare(
    how: str, orders: Spec, scratch: str, source: bytes, entry: str | None, payload: bytes
) -> Start:
    """Write the job's files below the current directory, which is its scratch, and open what is
    executed. Raises OSError where the jail does not show it."""
    environment = {
        "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch,
        "ONLINE_JUDGE": "true",
    }  # fmt: skip
    if how == PYTHON:
        bundle = _memory(modules(entry is not None) + marshal.dumps((source, entry, payload)))
        flags = ("-s", "-P", "-S", "-B", "-X", "utf8", "-c", _BOOT)
        environment |= {"PYTHONHASHSEED": "0", "PYTHONHOME": orders.home or sys.base_prefix}
        if orders.shared:
            environment["LD_LIBRARY_PATH"] = os.path.dirname(orders.shared[0])
        program = os.open(orders.interpreter, os.O_PATH)
        return Start(program, (orders.interpreter, *flags), environment, bundle)
    if how == BINARY:
        return Start(_memory(source, _MFD_EXEC), ("./" + _COMPILED,), environment, -1)
    name = _SOURCES[how]
    with open(name, "xb") as file:
        file.write(source)
    if how == COMPILE:
        arguments = (_COMPILER, *_FLAGS, "-o", _COMPILED, name)
    else:
        arguments = (_SHELL, "--norc", "--noprofile", name)
    return Start(_find(arguments[0]), arguments, environment, -1)


def _find(program: str) -> int:
    try:
        return os.open(f"/usr/bin/{program}", os.O_PATH)
    except FileNotFoundError:
        return os.open(f"/bin/{program}", os.O_PATH)


def _memory(data: bytes, flags: int = 0) -> int:
    try:
        descriptor = os.memfd_create("program", os.MFD_CLOEXEC | flags)
    except OSError:  # a kernel before 6.3, where every memory file may be executed
        descriptor = os.memfd_create("program")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def begin(start: Start, setup: int) -> NoReturn:
    """Become the program. Descriptors 0 to 2 stay, and for Python 3 and the bundle's."""
    kept = (0, 1, 2) if start.bundle < 0 else (0, 1, 2, 3, _BUNDLE)
    for descriptor in range(_BUNDLE + 1):
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, descriptor in kept)
    # Python ignores these two, and a child of it would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        kernel.execute(_BUNDLE - 1, start.arguments, start.environment)
    except OSError as error:
        os.write(setup, f"{start.arguments[0]}: {error}".encode())
    os._exit(1)


def compiled() -> bytes:
    """What the compiler left in the scratch directory. Raises OSError where that is no program."""
    descriptor = os.open(_COMPILED, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BINARY:
            raise OSError(errno.EFBIG, f"the compiled program is larger than {_MAX_BINARY} bytes")
        return file.read(_MAX_BINARY)


@functools.cache
def modules(calls: bool) -> bytes:
    """The code that a fresh Python begins with, by module name; first called before the lock."""
    names = (*_CALLS, _SOLUTION) if calls else (_SOLUTION,)
    return marshal.dumps(dict.fromkeys(_PACKAGES) | {name: _code(name) for name in names})


def prepare_modules() -> None:
    """Compile what a fresh Python begins with, while this project's files can be read."""
    for calls in (False, True):
        modules(calls)


def _code(name: str) -> Any:
    found = importlib.util.find_spec(name)
    assert found is not None and found.loader is not None
    return found.loader.get_code(name)  # type: ignore[attr-defined]
