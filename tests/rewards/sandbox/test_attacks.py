"""Attacks by category, in both tiers: each is stopped, and by the right verdict."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rewards.sandbox.base import Ended

_DOORS = {
    "password file": "open('/etc/passwd')",
    "shadow file": "open('/etc/shadow')",
    "this repository": f"open({__file__!r})",
    "own environment block": "open('/proc/self/environ')",
    "parent environment": "open('/proc/%d/environ' % os.getppid())",
    "process list": "os.listdir('/proc')",
    "kernel log": "open('/dev/kmsg')",
    "root directory": "assert set(os.listdir('/')) - {'dev', 'tmp', 'usr', 'root'}",
    "home directory": "os.listdir('/root/.ssh')",
    "environment secret": "assert any('canary' in v for v in os.environ.values())",
    "inherited descriptor": (
        "n = 4\nwhile n < 1024:\n    try: os.fstat(n)\n    except OSError: n += 1\n"
        "    else: break\nassert n < 1024"
    ),
    "write in the library": "open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')",
    "bytecode cache": "open(os.path.join(os.path.dirname(os.__file__), '__pycache__/x'), 'w')",
    "device node": "os.mknod('d', 0o20666, os.makedev(1, 1))",
    "symlink out": "os.symlink('/etc/passwd', 'l')\nopen('l').read()",
    "hard link out": "os.link('/usr/lib/os-release', 'h')",
    "mode of a host file": "os.chmod('/usr/lib/os-release', 0o600)",
    "times of a host file": "os.utime('/usr/lib/os-release')",
    "fork": "if os.fork() == 0: os._exit(0)",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/true'])",
    "exec": "import sys\nos.execv(sys.executable, ['python'])",
    "clone3": "assert libc.syscall(435, 0, 0) >= 0 or ctypes.get_errno() != 38",
    "user namespace": "assert libc.unshare(0x10000000) == 0",
    "setuid": "os.setuid(0)\nopen('/etc/shadow')",
    "real-time priority": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "lower niceness": "os.nice(-5)",
    "kill all": "os.kill(-1, 9)",
    "kill the group": "os.killpg(0, 9)",
    "signal to pid 1": "os.kill(1, 0)",
    "signal by descriptor owner": (
        "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid() or 1)"
    ),
    "limits of the parent": "import resource\nresource.prlimit(os.getppid() or 1, 0, (1, 1))",
    "outliving the parent": "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "memory of the parent": "assert libc.process_vm_readv(os.getppid() or 1, 0, 0, 0, 0, 0) == 0",
    "memory file": "os.memfd_create('x')",
    "bpf": "assert libc.syscall(321, 0, 0, 0) >= 0",
    "keyring": "assert libc.syscall(248, b'user', b'x', b'y', 1, -2) >= 0",
    "perf": "assert libc.syscall(298, 0, 0, -1, -1, 0) >= 0",
    "userfaultfd": "assert libc.syscall(323, 0) >= 0",
    "TCP": "socket.create_connection(('127.0.0.1', 22), 1)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "DNS": "socket.getaddrinfo('example.org', 80)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "datagram pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "message queue": "assert libc.mq_open(b'/q', 0o102, 0o600, 0) >= 0",
    "semaphore": "assert libc.semget(0x5b5b, 1, 0o1666) >= 0",
    "site-packages": "import pytest",
    "module planted for the next run": "open('/usr/lib/python3/sitecustomize.py', 'w')",
}


@pytest.mark.parametrize("name", _DOORS)
def test_door_is_closed(driver: Any, blocked: Any, name: str) -> None:
    result = driver.script(blocked(_DOORS[name]))
    assert result.stdout == b"BLOCKED\n", result


_ENDS = {
    "ignored signals": (
        "import signal\nfor s in (24, 14, 15, 2): signal.signal(s, signal.SIG_IGN)\nwhile 1: pass",
        {Ended.TIMEOUT},
    ),
    "one C call (a regular expression)": (
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        {Ended.TIMEOUT},
    ),
    "gradual memory": ("x = []\nwhile 1: x.append(bytearray(1 << 20))", {Ended.ERROR}),
    "string growth": ("s = 'x'\nwhile 1: s += s", {Ended.ERROR}),
    "recursion": ("def f(): f()\nf()", {Ended.ERROR}),
    "unlimited recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\nx = ()\n"
        "for _ in range(3 * 10 ** 6): x = (x,)\nhash(x)",
        {Ended.ERROR},
    ),
    "one big file": ("open('x', 'wb').write(bytes(64 << 20))", {Ended.ERROR}),
    "sparse file": ("open('x', 'wb').truncate(1 << 40)", {Ended.ERROR}),
    "stderr flood": (
        "import os\nfor _ in range(999): os.write(2, b'x' * 9999)\nraise SystemExit(4)",
        {Ended.ERROR},
    ),
    "parser recursion": ("(" * 100_000, {Ended.ERROR}),
    "deep nesting": ("x = " + "-" * 200_000 + "1", {Ended.ERROR}),
    "null byte": ("print(1)\0", {Ended.ERROR}),
    "lone surrogate in the source": ("x = '\ud800'", {Ended.ERROR}),
    "crash": ("import ctypes\nctypes.string_at(0)", {Ended.ERROR}),
    "abort": ("import os\nos.abort()", {Ended.ERROR}),
    "killed by itself": ("import os\nos.kill(os.getpid(), 9)", {Ended.ERROR}),
    "closed descriptors": ("import os\nos.closerange(0, 64)\nraise SystemExit(3)", {Ended.ERROR}),
    "exception that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        {Ended.ERROR},
    ),
}


@pytest.mark.parametrize("name", _ENDS)
def test_end_is_the_programs_own_doing(driver: Any, name: str) -> None:
    source, accepted = _ENDS[name]
    begun = time.monotonic()
    result = driver.script(source)
    assert result.ended in accepted, result
    assert result.reason
    assert len(result.stderr) <= (64 << 10) + 1
    assert time.monotonic() - begun < 20


def test_waiting_without_cpu_is_stopped_by_the_clock(driver: Any, start: Any) -> None:
    quick = start(driver.jail.tier, wall_s=1.0)
    sleepers = [
        "import time\ntime.sleep(60)",
        "import threading\nthreading.Thread(target=threading.Event().wait).start()",
    ]
    for result in quick.scripts(sleepers):
        assert (result.ended, result.reason) == (Ended.TIMEOUT, "ran longer than 1 s")
    quick.close()


def test_x32_abi_is_killed(driver: Any, blocked: Any) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is an ABI of x86_64")
    result = driver.script(blocked("libc.syscall(0x40000000 + 39)"))
    assert result.ended is Ended.ERROR
    assert "SIGSYS" in result.reason


def test_thread_bomb_is_bounded(driver: Any) -> None:
    source = (
        "import threading, time\nthreading.stack_size(32768)\nn = 0\ntry:\n"
        "    for n in range(6000):\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "except RuntimeError: pass\nprint(n, flush=True)\nimport os; os._exit(0)"
    )
    result = driver.script(source)
    assert result.ended in (Ended.FINISHED, Ended.TIMEOUT, Ended.ERROR)
    if driver.jail.tier == "namespaces" or os.geteuid() == 0:
        assert int(result.stdout) < 64


def test_nothing_is_left_for_the_next_program(driver: Any) -> None:
    litter = (
        "import os\nopen('a', 'w').write('x')\nos.symlink('/etc', 'etc')\nos.mkfifo('p')\n"
        "os.mkdir('moved-1')\nos.mkdir('closed', 0)\nleft = 'TRACE-' + 'a77'\n"
        "for _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    )
    look = (
        "import gc, os\nprint(os.listdir('.'))\nmark = 'TRACE-' + 'a77'\n"
        "print([o for o in gc.get_objects() if isinstance(o, dict) and mark in o.values()"
        " and o.get('mark') != mark])"
    )
    for _ in range(driver.jail.config.workers):
        driver.script(litter)
    for result in driver.scripts([look] * 4):
        assert result.stdout == b"[]\n[]\n", result


def test_many_jobs_leave_no_process_and_no_descriptor(driver: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rewards.sandbox.soak", driver.jail.tier],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"descriptors": 0, "processes": 0, "restarts": 0}


_HONEST = {
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(20000)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(9000))",
        b"9000\n",
    ),
    "asyncio": ("import asyncio\nasync def g(): print(1)\nasyncio.run(g())", b"1\n"),
    "long output": ("print('x' * 200_000)", b"x" * 200_000 + b"\n"),
    "file": ("open('a', 'w').write('7')\nprint(open('a').read())", b"7\n"),
    "late import": ("import wave, http.client, xml.dom.minidom\nprint(1)", b"1\n"),
    "exit": ("print(1)\nexit()", b"1\n"),
    "exit handler": ("import atexit\natexit.register(print, 2)\nprint(1)", b"1\n2\n"),
    "main guard": ("if __name__ == '__main__': print(1)", b"1\n"),
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int\nprint(A(1))",
        b"A(x=1)\n",
    ),
    "thread left running": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()",
        b"1\n",
    ),
    "unicode": ("print('\u00e9\U0001f600')", "\u00e9\U0001f600\n".encode()),
}


@pytest.mark.parametrize("name", _HONEST)
def test_honest_program_runs(driver: Any, name: str) -> None:
    source, wanted = _HONEST[name]
    result = driver.script(source)
    assert (result.ended, result.stdout) == (Ended.FINISHED, wanted), result


def test_stdin_arrives_whole_and_ends(driver: Any) -> None:
    text = b"line\n" * 100_000
    result = driver.script("import sys\nprint(len(sys.stdin.read()))\nprint(input())", text)
    assert result.stdout == b"500000\n"
    assert "EOFError" in result.reason


def test_the_same_program_gives_the_same_output(driver: Any) -> None:
    source = "import random\nprint(random.random(), {'a', 'b', 'c', 'd'}, hash('x'))"
    assert len({result.stdout for result in driver.scripts([source] * 6)}) == 1


def test_result_names_the_tier(driver: Any) -> None:
    assert driver.script("").tier == driver.jail.tier in ("namespaces", "landlock")
