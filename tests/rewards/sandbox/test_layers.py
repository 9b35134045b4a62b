"""Each layer of the jail with all the others off: what it holds, it holds by itself."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conjoint.rewards.sandbox.base import Ended
from conjoint.rewards.sandbox.kernel import landlock, seccomp
from conjoint.rewards.sandbox.kernel import syscalls as kernel
from conjoint.rewards.sandbox.spec import Layers
from tests.rewards.sandbox.conftest import CANARY_SOCKET

_NONE = Layers(uid_drop=False, rlimits=False, landlock=False, seccomp=False)
_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a user to drop")


@pytest.fixture
def alone(start: Any) -> Iterator[Callable[[str, Layers], Any]]:
    """Start a jail of the given tier with the given layers only."""
    started = []

    def start_alone(tier: str, layers: Layers) -> Any:
        started.append(start(tier, layers, scratch_mb=8, workers=1))
        return started[-1]

    yield start_alone
    for one in started:
        one.close()


def _all_blocked(jail: Any, blocked: Any, *attempts: str) -> None:
    for attempt in attempts:
        assert jail.script(blocked(attempt)).stdout == b"BLOCKED\n", attempt


def _open(jail: Any, blocked: Any, attempt: str) -> None:
    """The door stands open without the layer: else the test above would prove nothing."""
    assert jail.script(blocked(attempt)).stdout == b"ESCAPED\n", attempt


def test_no_layer_is_no_jail(alone: Any, blocked: Any) -> None:
    jail = alone("landlock", _NONE)
    for attempt in (
        "open('/etc/passwd')",
        "socket.socket()",
        "if os.fork() == 0: os._exit(0)",
        "os.kill(os.getppid(), 0)",
        "import mmap\nmmap.mmap(-1, 700 << 20)",
        "os.chdir('/'); os.listdir('/proc')",
    ):
        _open(jail, blocked, attempt)


def test_namespaces_alone(alone: Any, blocked: Any) -> None:
    jail = alone("namespaces", _NONE)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with listener:
        _all_blocked(
            jail,
            blocked,
            "open('/etc/passwd')",
            f"open({__file__!r})",
            "open('/proc/self/environ')",
            "import pytest",
            f"socket.create_connection(('127.0.0.1', {port}), 1)",
            f"socket.socket(socket.AF_UNIX).connect('\\0{CANARY_SOCKET}')",
            "open(os.__file__, 'a')",
            "os.kill(3, 0)",
            "assert os.getpid() > 2 or os.getppid() != 1",
            "open('x', 'wb').write(bytes(9 << 20))",
            "assert os.listdir('/tmp')",
        )
    _open(jail, blocked, "socket.socket()")
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(47.125)\n"
    assert jail.script(daemon).ended is Ended.FINISHED
    zygotes = {str(worker.process.pid) for worker in jail.jail._workers}
    deadline = time.monotonic() + 15
    while _descendants(zygotes) - zygotes and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _descendants(zygotes) == zygotes


def _descendants(roots: set[str]) -> set[str]:
    found = set(roots)
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
                parent = stat.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent in found:
            found.add(pid)
    return found


def test_landlock_alone(alone: Any, blocked: Any) -> None:
    jail = alone("landlock", Layers(uid_drop=False, rlimits=False, seccomp=False))
    attempts = [
        "open('/etc/passwd')",
        f"open({__file__!r})",
        "os.listdir('/')",
        "open('/proc/self/environ')",
        "open(os.__file__, 'a')",
        "import pytest",
        "os.execv('/bin/true', ['true'])",
        "open('/tmp/sbx_pwn', 'w')",
        "os.link('/etc/passwd', 'l')",
    ]
    if landlock.abi() >= 4:
        attempts.append("socket.create_server(('127.0.0.1', 0))")
    if landlock.abi() >= 6:
        attempts += [
            "os.kill(os.getppid(), 0)",
            f"socket.socket(socket.AF_UNIX).connect('\\0{CANARY_SOCKET}')",
        ]
    _all_blocked(jail, blocked, *attempts)
    _open(jail, blocked, "if os.fork() == 0: os._exit(0)")


def test_seccomp_alone(alone: Any, blocked: Any) -> None:
    jail = alone("landlock", Layers(uid_drop=False, rlimits=False, landlock=False))
    _all_blocked(
        jail,
        blocked,
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "socket.socket()",
        "socket.socketpair(type=socket.SOCK_DGRAM)",
        f"socket.socketpair()[0].sendto(b'x', '\\0{CANARY_SOCKET}')",
        "os.kill(os.getppid(), 0)",
        "os.kill(-1, 0)",
        "os.memfd_create('x')",
        "os.chmod('.', 0o755)",
        "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "import resource\nresource.prlimit(os.getppid(), 0)",
        "assert libc.ptrace(16, os.getppid(), 0, 0) == 0",
        "assert libc.unshare(0x10000000) == 0",
        "assert libc.shmget(0x5b5b, 4096, 0o1666) >= 0",
        "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    )
    _open(jail, blocked, "open('/etc/passwd')")
    _open(jail, blocked, "a, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'")


def test_rlimits_alone(alone: Any, blocked: Any) -> None:
    jail = alone("landlock", Layers(uid_drop=False, landlock=False, seccomp=False))
    _all_blocked(
        jail,
        blocked,
        "bytearray(700 << 20)",
        "[os.open('/dev/null', 0) for _ in range(64)]",
        "open('x', 'wb').write(bytes(5 << 20))",
    )
    spin = jail.script("import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile 1: pass")
    assert spin.ended is Ended.TIMEOUT
    _open(jail, blocked, "open('/etc/passwd')")


@_root
def test_process_limit_needs_the_dropped_user(alone: Any, blocked: Any) -> None:
    bomb = (
        "import os, time\nfor n in range(200):\n    try:\n"
        "        if os.fork() == 0:\n            time.sleep(0.5); os._exit(0)\n"
        "    except OSError:\n        break\nprint(n)\n"
    )
    jail = alone("landlock", Layers(landlock=False, seccomp=False))
    assert int(jail.script(bomb).stdout) < 64


@_root
def test_dropped_user_alone(alone: Any, blocked: Any) -> None:
    jail = alone("landlock", Layers(rlimits=False, landlock=False, seccomp=False))
    _all_blocked(
        jail,
        blocked,
        "open('/etc/shadow')",
        "open('/etc/passwd', 'a')",
        "os.listdir('/root')",
        "os.setuid(0)",
        f"os.kill({os.getpid()}, 0)",
        f"open('/proc/{os.getpid()}/environ', 'rb').read()",
        "assert os.geteuid() == 0",
    )
    _open(jail, blocked, "open('/etc/passwd')")


def test_the_filter_is_whole_on_both_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in kernel.MACHINES:
        monkeypatch.setattr(kernel, "machine", lambda machine=machine: machine)
        for tier in ("namespaces", "landlock"):
            for allowed in (
                seccomp.Filter(),
                seccomp.Filter(processes=True),
                seccomp.Filter(exec_from=1 << 40, fork_kills=True),
            ):
                code = seccomp.program(tier, 77, allowed)
                assert len(code) % 8 == 0
                assert len(code) // 8 < 4096, "the kernel's limit"


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("landlock", 1)
