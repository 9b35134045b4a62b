"""The supervisor of one job: trusted, unprivileged, pid 1 of the job's namespaces.

Owns the life of one solution process: reads the job, forks the solution, collects what it writes up
to the caps, kills it by wall clock, quota or flood, and reports. It never runs or parses what the
solution wrote; it dies with the zygote, and the solution dies with it.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import NoReturn

from rewards.sandbox import kernel, rooms, scratch, solution, spec

_STDERR_CAP = 64 << 10
_TICK_MS = 50
_SETUP_S = 10.0


@dataclass(slots=True)
class _Stream:
    """One pipe of the solution: what was read, up to `cap` bytes."""

    descriptor: int
    cap: int
    kill_over: bool
    data: bytearray = field(default_factory=bytearray)
    open: bool = True

    def read(self) -> bool:
        """Take what is there, without waiting. Returns whether more may follow at once."""
        try:
            piece = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return False
        if not piece:
            self.open = False
            return False
        self.data += piece[: max(0, self.cap + 1 - len(self.data))]
        return True

    @property
    def over(self) -> bool:
        return self.kill_over and len(self.data) > self.cap


def main(sock: socket.socket, orders: spec.Spec, room: rooms.Room, lifeline: int) -> NoReturn:
    """Run one job in this freshly forked process and end it; exit status 0 if a report was sent."""
    code = 1
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if not select.select([lifeline], [], [], 0)[0]:
            sock.sendall(_report(sock, orders, room))
            code = 0
    except EOFError:
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            sock.sendall(_infra(f"{type(error).__name__}: {error}"))
            code = 0
    finally:
        os._exit(code)


def _infra(why: str) -> bytes:
    return spec.frame({"ended": "infra_error", "reason": why, "wall_s": 0.0, "cpu_s": 0.0})


def _report(sock: socket.socket, orders: spec.Spec, room: rooms.Room) -> bytes:
    header, (source, payload) = spec.receive(sock)
    if orders.tier == rooms.NAMESPACES:
        rooms.mount_scratch(orders)
        kernel.drop_capabilities()
    os.chdir(room.scratch)
    pipes = [os.pipe() for _ in range(4)]
    stdin = os.memfd_create("stdin")
    if header["entry"] is None:
        _fill(stdin, payload)
    pid = os.fork()
    if pid == 0:
        _become_solution(orders, room, [stdin, *(w for _, w in pipes)], header, source, payload)
    for descriptor in (stdin, *(w for _, w in pipes)):
        os.close(descriptor)
    for descriptor, _ in pipes:
        os.set_blocking(descriptor, False)
    report = _watch(sock, orders, room, pid, [r for r, _ in pipes])
    if orders.tier == rooms.LANDLOCK:
        scratch.empty(room.scratch)
    return report


def _fill(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


def _become_solution(
    orders: spec.Spec,
    room: rooms.Room,
    descriptors: list[int],
    header: dict[str, str | None],
    source: bytes,
    payload: bytes,
) -> NoReturn:
    """In the forked child: descriptors 0-4, every layer, then the untrusted code."""
    setup = descriptors[-1]
    try:
        moved = [os.dup2(d, 100 + i) for i, d in enumerate(descriptors)]
        setup = moved[-1]
        for number, descriptor in enumerate(moved):
            os.dup2(descriptor, number)
        setup = 4
        rooms.confine(orders, room)
        kernel.close_from(5)
        os.write(setup, b"k")
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(setup, f"{type(error).__name__}: {error}".encode(errors="replace"))
        os._exit(1)
    os.close(setup)
    for name in [n for n in sys.modules if n.partition(".")[0] in ("rewards", "rl")]:
        del sys.modules[name]
    solution.run(source, header["entry"], payload)


def _watch(
    sock: socket.socket, orders: spec.Spec, room: rooms.Room, pid: int, pipes: list[int]
) -> bytes:
    """Collect until the solution ends or is killed, then the report frame."""
    cap = orders.output_kb << 10
    out, err, replies, setup = (
        _Stream(pipes[0], cap, True),
        _Stream(pipes[1], _STDERR_CAP, False),
        _Stream(pipes[2], cap, True),
        _Stream(pipes[3], 1000, False),
    )
    streams = {s.descriptor: s for s in (out, err, replies, setup)}
    exited = os.pidfd_open(pid)
    begun = time.monotonic()
    ready_at: float | None = None
    killed: tuple[str, str] | None = None
    next_look = begun
    poll = select.poll()
    for descriptor in (*streams, exited):
        poll.register(descriptor, select.POLLIN)
    poll.register(sock, select.POLLRDHUP)
    while killed is None:
        events = dict(poll.poll(_TICK_MS))
        now = time.monotonic()
        if sock.fileno() in events:
            os.kill(pid, signal.SIGKILL)
            raise EOFError
        for descriptor in set(events) & set(streams):
            streams[descriptor].read()
            if not streams[descriptor].open:
                poll.unregister(descriptor)
        if ready_at is None and setup.data[:1] == b"k":
            ready_at = now
        if exited in events:
            break
        if ready_at is None:
            if now - begun > _SETUP_S:
                killed = ("infra_error", f"the jail was not ready after {_SETUP_S:g} s")
        elif now - ready_at > orders.wall_s:
            killed = ("timeout", f"ran longer than {orders.wall_s:g} s")
        elif out.over or replies.over:
            killed = ("error", f"wrote more than {orders.output_kb} KiB")
        elif orders.tier == rooms.LANDLOCK and now >= next_look:
            next_look = now + _TICK_MS / 1000
            killed = _over_quota(room.scratch, orders.scratch_mb)
    if killed is not None:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    for stream in streams.values():
        # At most what a full pipe holds: nobody who still writes may keep us here.
        for _ in range(32):
            if not stream.open or not stream.read():
                break
    cpu = usage.ru_utime + usage.ru_stime
    wall = time.monotonic() - (ready_at or begun)
    if setup.data[:1] != b"k" and killed is None:
        why = setup.data.decode(errors="replace") or f"set-up ended with status {status}"
        killed = ("infra_error", why)
    if killed is None and (out.over or replies.over):
        killed = ("error", f"wrote more than {orders.output_kb} KiB")
    ended, reason = killed or _verdict(status, cpu, orders)
    header = {"ended": ended, "reason": reason, "wall_s": wall, "cpu_s": cpu}
    return spec.frame(header, bytes(out.data[:cap]), bytes(err.data), bytes(replies.data[:cap]))


def _over_quota(path: str, limit_mb: int) -> tuple[str, str] | None:
    try:
        if scratch.used_bytes(path) <= limit_mb << 20:
            return None
    except OSError as error:
        return ("error", f"scratch directory: {error.strerror}")
    return ("error", f"wrote more than {limit_mb} MiB of files")


def _verdict(status: int, cpu: float, orders: spec.Spec) -> tuple[str, str]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        spent = cpu >= orders.cpu_s
        if number == signal.SIGXCPU or (number == signal.SIGKILL and spent):
            return "timeout", f"used more than {orders.cpu_s} s of CPU"
        names = {s.value: s.name for s in signal.Signals}
        return "error", f"was killed by {names.get(number, number)}"
    code = os.WEXITSTATUS(status)
    return ("finished", "") if code == 0 else ("error", f"ended with exit status {code}")
