"""Attacks and honest programs of our own, by category, and the verdicts that are right for each.

Rows have the form of a code task: language, source, tests; `must` holds the accepted verdicts.
Standard library only, because an unprivileged user's Python reads this too.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

_DOORS_AT_ONCE = 15
HERE = "/".join(__file__.split("/")[:-1])
Row = dict[str, Any]
KILLED = ("error", "timeout")
BLOCKED = ("pass",)
DOUBLE = {"type": "stdio", "cases": [{"input": "21\n", "output": "42\n"}]}
CALLS = {
    "type": "function",
    "entry": "f",
    "cases": [{"args": [2], "expected": 4}, {"args": [-3], "expected": -6}],
}


def says(text: str, given: str = "") -> dict[str, Any]:
    return {"type": "stdio", "cases": [{"input": given, "output": text}]}


def row(
    name: str, source: str, tests: Any, must: tuple[str, ...], language: str = "python", **more: Any
) -> Row:
    return {
        "name": name,
        "language": language,
        "source": source,
        "tests": tests,
        "must": must,
    } | more


def blocked(attempts: Mapping[str, str]) -> str:
    """A script that says which of some attempts did not raise, and last that it got so far."""
    return (
        "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, attempt in {dict(attempts)!r}.items():\n"
        "    try:\n        exec(attempt, {'ctypes': ctypes, 'os': os, 'socket': socket, "
        "'libc': libc})\n"
        "    except (Exception, SystemExit):\n        pass\n"
        "    else:\n        print('ESCAPED by', name)\n"
        "print('BLOCKED')\n"
    )


# What a program may not do: each attempt must raise.
DOORS = {
    "password file": "open('/etc/passwd')",
    "shadow file": "open('/etc/shadow')",
    "this repository": f"open({__file__!r})",
    "tests and data": f"os.listdir({HERE!r})",
    "own environment block": "open('/proc/self/environ')",
    "own memory by file": "open('/proc/self/mem', 'rb')",
    "parent environment": "open('/proc/%d/environ' % os.getppid())",
    "environment of pid 1": "open('/proc/1/environ')",
    "process list": "os.listdir('/proc')",
    "kernel log": "open('/dev/kmsg')",
    "kernel log by call": "assert libc.klogctl(3, ctypes.create_string_buffer(99), 99) >= 0",
    "root directory": "assert set(os.listdir('/')) - {'dev', 'tmp', 'usr', 'root'}",
    "home directory": "os.listdir('/root/.ssh')",
    "temporary files of others": "assert [n for n in os.listdir('/dev/shm')]",
    "environment secret": "assert any('canary' in v for v in os.environ.values())",
    "inherited descriptor": (
        "n = 4\nwhile n < 1024:\n    try: os.fstat(n)\n    except OSError: n += 1\n"
        "    else: break\nassert n < 1024"
    ),
    "write in the library": "open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')",
    "bytecode cache": "open(os.path.join(os.path.dirname(os.__file__), '__pycache__/x'), 'w')",
    "write beside the library": "open('/usr/lib/sbx_pwn', 'w')",
    "write in a program directory": "open('/usr/bin/sbx_pwn', 'w')",
    "removing a host file": "os.unlink('/usr/lib/os-release')",
    "mass deletion": "import shutil\nshutil.rmtree('/usr/lib')",
    "device node": "os.mknod('d', 0o20666, os.makedev(1, 1))",
    "symlink out": "os.symlink('/etc/passwd', 'l')\nopen('l').read()",
    "symlinked directory out": "os.symlink('/etc', 'e')\nos.listdir('e')",
    "hard link out": "os.link('/usr/lib/os-release', 'h')",
    "rename out": "open('a', 'w').close()\nos.rename('a', '/usr/lib/sbx_pwn')",
    "dot dot out": "open('../../../../../../etc/passwd')",
    "mode of a host file": "os.chmod('/usr/lib/os-release', 0o600)",
    "owner of a host file": "os.chown('/usr/lib/os-release', os.getuid(), -1)",
    "times of a host file": "os.utime('/usr/lib/os-release')",
    "attribute of a host file": "os.setxattr('/usr/lib/os-release', 'user.x', b'y')",
    "handle of a host file": (
        "h = ctypes.create_string_buffer(b'\\x80', 200)\n"
        "assert libc.name_to_handle_at(-100, b'/usr/lib', h, ctypes.byref(ctypes.c_int()), 0) == 0"
    ),
    "fork": "if os.fork() == 0: os._exit(0)",
    "vfork": "assert libc.syscall(58 if os.uname().machine == 'x86_64' else 9999) >= 0",
    "forkpty": "import pty\npty.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/true'])",
    "shell": "assert os.system('true') == 0",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "worker process": (
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()"
    ),
    "exec": "import sys\nos.execv(sys.executable, ['python', '-c', 'print(\"ESCAPED\")'])",
    "exec of the loader": "os.execv('/lib64/ld-linux-x86-64.so.2', ['ld', '/bin/echo', 'ESCAPED'])",
    "exec by descriptor": (
        "d = os.open('/usr/bin/env', os.O_RDONLY)\n"
        "argv = (ctypes.c_char_p * 2)(b'env', None)\n"
        "assert libc.syscall(322, d, b'', argv, argv, 0x1000) == 0"
    ),
    "clone3": "assert libc.syscall(435, 0, 0) >= 0 or ctypes.get_errno() != 38",
    "user namespace": "assert libc.unshare(0x10000000) == 0",
    "user namespace by clone": "assert libc.syscall(56, 0x10000011, 0, 0, 0, 0) >= 0",
    "entering a namespace": "assert libc.setns(0, 0) == 0",
    "mount": "assert libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0",
    "bind mount": "assert libc.mount(b'/usr', b'.', None, 4096, None) == 0",
    "new mount call": "assert libc.syscall(430, b'proc', 0) >= 0",
    "unmount": "assert libc.umount2(b'/tmp', 2) == 0",
    "chroot": "os.chroot('.')",
    "setuid": "os.setuid(0)\nopen('/etc/shadow')",
    "setgid": "os.setgid(0)\nassert os.getegid() == 0\nopen('/etc/shadow')",
    "real-time priority": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "lower niceness": "os.nice(-5)",
    "all processors": "os.sched_setaffinity(0, {0})",
    "raising a limit": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 50, 1 << 50))"
    ),
    "core dumps": "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))",
    "kill all": "os.kill(-1, 9)",
    "kill the group": "os.killpg(0, 9)",
    "signal to pid 1": "os.kill(1, 0)",
    "signal to the parent": "assert os.getppid() > 1\nos.kill(os.getppid(), 15)",
    "signals by number": (
        "for n in range(2, 40000):\n"
        "    if n == os.getpid(): continue\n    try: os.kill(n, 0); break\n"
        "    except OSError: pass\nelse: raise OSError"
    ),
    "signal by queue": "assert libc.syscall(129, os.getppid() or 1, 9, 0) == 0",
    "signal by process descriptor": "os.pidfd_open(os.getppid() or 1)",
    "signal by descriptor owner": (
        "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid() or 1)"
    ),
    "lock on a file of all": (
        "import fcntl\nfcntl.flock(open(os.__file__), fcntl.LOCK_SH | fcntl.LOCK_NB)"
    ),
    "lease on a file of all": (
        "import fcntl\nfcntl.fcntl(open(os.__file__), fcntl.F_SETLEASE, fcntl.F_UNLCK)"
    ),
    "limits of the parent": "import resource\nresource.prlimit(os.getppid() or 1, 0, (1, 1))",
    "outliving the parent": "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "memory of the parent": "assert libc.process_vm_readv(os.getppid() or 1, 0, 0, 0, 0, 0) == 0",
    "being traced": "assert libc.ptrace(0, 0, 0, 0) == 0",
    "tracing the parent": "assert libc.ptrace(0x4206, os.getppid() or 1, 0, 0) == 0",
    "memory file": "os.memfd_create('x')",
    "bpf": "assert libc.syscall(321, 0, 0, 0) >= 0",
    "keyring": "assert libc.syscall(248, b'user', b'x', b'y', 1, -2) >= 0",
    "perf": "assert libc.syscall(298, 0, 0, -1, -1, 0) >= 0",
    "userfaultfd": "assert libc.syscall(323, 0) >= 0",
    "io_uring": "assert libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0",
    "module loading": "assert libc.syscall(175, b'x', 1, b'') == 0",
    "clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)",
    "host name": "socket.sethostname('x')",
    "personality": "assert libc.personality(0x0040000) >= 0",
    "terminal injection": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')",
    "TCP": "socket.create_connection(('127.0.0.1', 22), 1)",
    "TCP server": "socket.create_server(('127.0.0.1', 0))",
    "IPv6": "socket.socket(socket.AF_INET6)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "DNS": "socket.getaddrinfo('example.org', 80)",
    "web": "import urllib.request\nurllib.request.urlopen('http://169.254.169.254/', timeout=1)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "raw packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "vsock": "socket.socket(socket.AF_VSOCK)",
    "datagram pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "socket file": "socket.socket(socket.AF_UNIX).bind('s')",
    "shared memory": "assert libc.shmget(0x5b5b, 4096, 0o1666) >= 0",
    "named shared memory": (
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory('sbx_pwn', True, 9)"
    ),
    "message queue": "assert libc.mq_open(b'/q', 0o102, 0o600, 0) >= 0",
    "semaphore": "assert libc.semget(0x5b5b, 1, 0o1666) >= 0",
    "site-packages": "import pytest",
    "this project": "import conjoint.rewards.sandbox.codec",
    "module planted for the next run": "open('/usr/lib/python3/sitecustomize.py', 'w')",
    "file watch": "assert libc.inotify_init1(0) >= 0",
}

# How a program must end that eats time, memory, descriptors, disk or output. What `waits` ends by
# the clock only; what `spends` takes a second of CPU; both are too slow to run everywhere.
ENDS = {
    "ignored signals": (
        "import signal\nfor s in (24, 14, 15, 2): signal.signal(s, signal.SIG_IGN)\nwhile 1: pass",
        KILLED,
        "spends",
    ),
    "handled CPU signal": (
        "import signal\nsignal.signal(24, lambda *a: None)\nsignal.setitimer(2, 0)\nwhile 1: pass",
        KILLED,
        "spends",
    ),
    "one C call (a regular expression)": (
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        KILLED,
        "spends",
    ),
    "one C call (a power)": ("pow(7, 10 ** 7) % 10 ** 9999", KILLED, "spends"),
    "spin on stdin": ("import sys\nwhile 1: sys.stdin.read()", KILLED, "spends"),
    "gradual memory": ("x = []\nwhile 1: x.append(bytearray(1 << 20))", ("error",)),
    "string growth": ("s = 'x'\nwhile 1: s += s", ("error",)),
    "mapped memory": ("import mmap\nx = []\nwhile 1: x.append(mmap.mmap(-1, 1 << 26))", ("error",)),
    "memory by threads": (
        "import threading\nx = []\ndef g():\n    while 1: x.append(bytearray(1 << 20))\n"
        "for _ in range(4): threading.Thread(target=g).start()",
        ("fail", *KILLED),
    ),
    "decompression": (
        "import bz2\nd = bz2.compress(bytes(1 << 24))\nx = [bz2.decompress(d) for _ in range(99)]",
        KILLED,
        "spends",
    ),
    "recursion": ("def f(): f()\nf()", ("error",)),
    "unlimited recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\nx = ()\n"
        "for _ in range(3 * 10 ** 6): x = (x,)\nhash(x)",
        KILLED,
        "spends",
    ),
    "descriptors by pipes": ("import os\nx = []\nwhile 1: x.append(os.pipe())", ("error",)),
    "descriptors by pairs": (
        "import socket\nx = []\nwhile 1: x.append(socket.socketpair())",
        ("error",),
    ),
    "thread bomb": (
        "import threading\ndef g():\n    while 1: threading.Thread(target=g, daemon=True).start()\n"
        "g()",
        KILLED,
    ),
    "one big file": ("open('x', 'wb').write(bytes(64 << 20))", ("error",)),
    "sparse file": ("open('x', 'wb').truncate(1 << 40)", ("error",)),
    "reserved file": ("import os\nos.posix_fallocate(os.open('x', 66), 0, 1 << 30)", ("error",)),
    "inodes": ("n = 0\nwhile 1:\n    open(f'f{n}', 'w').close()\n    n += 1", KILLED),
    "directories": ("import os\nwhile 1:\n    os.mkdir('d')\n    os.chdir('d')", KILLED),
    "stdout flood without newline": ("import os\nwhile 1: os.write(1, b'x' * 65536)", KILLED),
    "stdout flood with newlines": ("while 1: print(42)", KILLED),
    "stderr flood": (
        "import os\nfor _ in range(999): os.write(2, b'x' * 9999)\nraise SystemExit(4)",
        ("error",),
    ),
    "parser recursion": ("(" * 100_000, ("error",)),
    "deep nesting": ("x = " + "-" * 200_000 + "1", ("error",)),
    "deep blocks": ("".join(" " * n + "if 1:\n" for n in range(150)) + " " * 150 + "1", ("error",)),
    "folded constant": ("x = 'a' * (1 << 62)", ("error",)),
    "null byte": ("print(1)\0", ("error",)),
    "lone surrogate in the source": ("x = '\ud800'\nprint(x)", ("error",)),
    "wrong coding line": ("# coding: utf-7\nprint(42", ("error",)),
    "crash": ("import ctypes\nctypes.string_at(0)", ("error",)),
    "abort": ("import os\nos.abort()", ("error",)),
    "killed by itself": ("import os\nos.kill(os.getpid(), 9)", ("error",)),
    "stopped by itself": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        KILLED,
        "waits",
    ),
    "sleep": ("import time\ntime.sleep(600)", KILLED, "waits"),
    "sleeping thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait).start()",
        KILLED,
        "waits",
    ),
    "open fifo": ("import os\nos.mkfifo('p')\nopen('p')", KILLED, "waits"),
    "timer without end": (
        "import signal\nsignal.signal(14, lambda *a: None)\nsignal.setitimer(0, 0.01, 0.01)\n"
        "while 1: signal.pause()",
        KILLED,
        "waits",
    ),
    "exit handler without end": (
        "import atexit\n@atexit.register\ndef g():\n    while 1: pass\nprint(42)",
        KILLED,
        "spends",
    ),
    "closed descriptors": (
        "import os\nos.closerange(0, 64)\nraise SystemExit(3)",
        ("error",),
    ),
    "exception that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        ("error",),
    ),
    "exception text bomb": ("raise ValueError('x' * (1 << 26))", ("error",)),
}

HONEST = {
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(20000)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(9000))",
        "9000\n",
    ),
    "asyncio": ("import asyncio\nasync def g(): print(1)\nasyncio.run(g())", "1\n"),
    "long output": ("print('x' * 200_000)", "x" * 200_000 + "\n"),
    "file": ("open('a', 'w').write('7')\nprint(open('a').read())", "7\n"),
    "late import": ("import wave, http.client, xml.dom.minidom\nprint(1)", "1\n"),
    "C modules": ("import sqlite3, ssl, lzma, hashlib, decimal, ctypes\nprint(1)", "1\n"),
    "exit": ("print(1)\nexit()", "1\n"),
    "exit handler": ("import atexit\natexit.register(print, 2)\nprint(1)", "1\n2\n"),
    "main guard": ("if __name__ == '__main__': print(1)", "1\n"),
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int\nprint(A(1))",
        "A(x=1)\n",
    ),
    "thread left running": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()",
        "1\n",
    ),
    "thread pool": (
        "from concurrent.futures import ThreadPoolExecutor as P\n"
        "print(sum(P(4).map(lambda n: n * n, range(9))))",
        "204\n",
    ),
    "unicode": ("print('\u00e9\U0001f600')", "\u00e9\U0001f600\n"),
    "CRLF": ("import sys\nsys.stdout.write('1\\r\\n2\\r\\n')", "1\n2\n"),
    "work": ("print(sum(n * n for n in range(300_000)))", "8999955000050000\n"),
    "standard error": ("import sys\nprint('thinking', file=sys.stderr)\nprint(1)", "1\n"),
}


def rows() -> Iterator[Row]:
    doors = iter(DOORS.items())
    while some := dict(islice(doors, _DOORS_AT_ONCE)):
        name = f"doors from {next(iter(some))}"
        yield row(name, blocked(some), says("BLOCKED\n"), BLOCKED, count=len(some))
    for name, (source, must, *how) in ENDS.items():
        wall, costly = "waits" in how, bool(how)
        yield row(name, source, DOUBLE, must, wall=wall, costly=costly)
    for name, (source, output) in HONEST.items():
        yield row(name, source, says(output), ("pass",))
    rich = "def f(x): return {1: (x, [None, True, 2.5, b'a', {3}]), 'k': 10 ** 30}"
    expected = {
        "type": "function",
        "entry": "f",
        "cases": [{"args": [7], "expected": {1: (7, [None, True, 2.5, b"a", {3}]), "k": 10**30}}],
    }
    yield row("rich types", rich, expected, ("pass",))
    yield row("function", "def f(x): return 2 * x", CALLS, ("pass",))
    yield row("raised where it must", "def f(x): return 1 // x", CALLS, ("fail",))
