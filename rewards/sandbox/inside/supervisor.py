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
import time
from dataclasses import dataclass, field
from typing import NoReturn

from conjoint.rewards.sandbox import spec
from conjoint.rewards.sandbox.inside import confine as rooms
from conjoint.rewards.sandbox.inside import scratch, solution, starts
from conjoint.rewards.sandbox.inside.tree import Tree
from conjoint.rewards.sandbox.kernel import syscalls as kernel
from conjoint.rewards.sandbox.kernel.seccomp import Filter

_STDERR_CAP = 64 << 10
_TICK_MS = 50
_SETUP_S = 10.0
_Ending = tuple[str, str]
"""How a solution ended (a value of `base.Ended`) and why, in words."""
_DONE_WITH: _Ending = ("finished", "")


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


@dataclass(slots=True)
class _Run:
    """One running solution as it is watched: what it wrote, and since when it runs."""

    out: _Stream
    err: _Stream
    replies: _Stream
    setup: _Stream
    begun: float
    ready_at: float | None = None
    """When every layer of the jail was in place: from then on its wall clock runs."""
    next_look: float = 0.0
    """When files and memory, which no event reports, are measured again."""

    @property
    def streams(self) -> tuple[_Stream, ...]:
        return self.out, self.err, self.replies, self.setup

    @property
    def over(self) -> bool:
        return self.out.over or self.replies.over


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
    header, (source, payload), talk = spec.receive_with_pipes(sock)
    how, entry = header["how"], header["entry"]
    orders = starts.limited(orders, how)
    if how == starts.CALL:
        from conjoint.rewards.sandbox.inside import calls

        orders = calls.limited(orders, header["wall_s"])
    if orders.tier == rooms.NAMESPACES:
        rooms.mount_scratch(orders)
        kernel.drop_capabilities()
    os.chdir(room.scratch)
    pipes = [os.pipe() for _ in range(4)]
    stdin = os.memfd_create("stdin")
    if entry is None:
        _fill(stdin, payload)
    ours, theirs = [r for r, _ in pipes], [stdin, *(w for _, w in pipes)]
    if talk:
        # Calls come in and answers go out past us: the pool itself holds the other ends.
        os.dup2(talk[0], theirs[0])
        os.dup2(talk[1], theirs[3])
        os.close(talk[1])
    job = _Job(orders, room, how, starts.allowed(how, orders.tier))
    start = None
    if how not in starts.FORKED:
        start = starts.prepare(how, orders, room.scratch, source, entry, payload)
        theirs += [d for d in (start.program, start.bundle) if d >= 0]
    tree = Tree(room.proc) if job.allowed.processes else None
    # As pid 1 we only get signals of our own namespace that we handle. Python handles SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _become_solution(job, theirs, start, entry, source, payload)
    for descriptor in theirs:
        os.close(descriptor)
    for descriptor in ours:
        os.set_blocking(descriptor, False)
    report = _watch(sock, job, pid, ours, tree, talk[:1])
    if tree is not None:
        tree.kill()
    if orders.tier == rooms.LANDLOCK:
        scratch.empty(room.scratch)
    return report


@dataclass(frozen=True, slots=True)
class _Job:
    """What is watched: limits, places, how it runs and what it may do."""

    orders: spec.Spec
    room: rooms.Room
    how: str
    allowed: Filter


def _fill(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


def _become_solution(
    job: _Job,
    descriptors: list[int],
    start: starts.Start | None,
    entry: str | None,
    source: bytes,
    payload: bytes,
) -> NoReturn:
    """In the forked child: descriptors 0-4 (an exec'd one has more), every layer, then the
    untrusted code."""
    setup = descriptors[4]
    try:
        moved = [os.dup2(d, 100 + i) for i, d in enumerate(descriptors)]
        setup = moved[4]
        for number, descriptor in enumerate(moved):
            os.dup2(descriptor, number)
        setup = 4
        rooms.confine(job.orders, job.room, job.allowed)
        kernel.close_from(len(descriptors))
        os.write(setup, b"k")
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(setup, f"{type(error).__name__}: {error}".encode(errors="replace"))
        os._exit(1)
    if start is not None:
        starts.begin(start, setup)
    os.close(setup)
    if job.how == starts.CHECK:
        from conjoint.rewards.sandbox.inside import checker

        checker.run(source, str(entry), payload)
    if job.how == starts.CALL:
        from conjoint.rewards.sandbox.inside import calls

        calls.run(str(entry), payload)
    solution.run(source, entry, payload)


def _watch(
    sock: socket.socket,
    job: _Job,
    pid: int,
    pipes: list[int],
    tree: Tree | None,
    talk: list[int],
) -> bytes:
    """Collect until the solution ends or is killed, then the report frame.

    `talk` is the pipe on which the pool sends calls, if it does: once it is closed there, the
    solution is done with.
    """
    cap = job.orders.output_kb << 10
    run = _Run(
        out=_Stream(pipes[0], cap, True),
        err=_Stream(pipes[1], _STDERR_CAP, False),
        replies=_Stream(pipes[2], cap, True),
        setup=_Stream(pipes[3], 1000, False),
        begun=time.monotonic(),
    )
    killed = _collect(sock, job, pid, run, tree, talk)
    if killed is not None:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    for stream in run.streams:
        # At most what a full pipe holds: nobody who still writes may keep us here.
        for _ in range(32):
            if not stream.open or not stream.read():
                break
    return _ended(job, run, killed, status, usage.ru_utime + usage.ru_stime)


def _collect(
    sock: socket.socket, job: _Job, pid: int, run: _Run, tree: Tree | None, talk: list[int]
) -> _Ending | None:
    """Read what the solution writes until it ends by itself (None) or must be killed (why)."""
    streams = {stream.descriptor: stream for stream in run.streams}
    exited = os.pidfd_open(pid)
    poll = select.poll()
    for descriptor in (*streams, exited):
        poll.register(descriptor, select.POLLIN)
    poll.register(sock, select.POLLRDHUP)
    for descriptor in talk:
        poll.register(descriptor, 0)
    while True:
        events = dict(poll.poll(_TICK_MS))
        now = time.monotonic()
        if sock.fileno() in events:
            os.kill(pid, signal.SIGKILL)
            raise EOFError
        for descriptor in set(events) & set(streams):
            streams[descriptor].read()
            if not streams[descriptor].open:
                poll.unregister(descriptor)
        if run.ready_at is None and run.setup.data[:1] == b"k":
            run.ready_at = now
        if exited in events:
            return None
        if any(descriptor in events for descriptor in talk):
            return _DONE_WITH
        if (broken := _broken_limit(job, run, tree, now)) is not None:
            return broken


def _broken_limit(job: _Job, run: _Run, tree: Tree | None, now: float) -> _Ending | None:
    """The limit that the running solution is beyond, None if it may go on."""
    orders = job.orders
    if run.ready_at is None:
        late = now - run.begun > _SETUP_S
        return ("infra_error", f"the jail was not ready after {_SETUP_S:g} s") if late else None
    if now - run.ready_at > orders.wall_s:
        return "timeout", f"ran longer than {orders.wall_s:g} s"
    if run.over:
        return "error", f"wrote more than {orders.output_kb} KiB"
    if now < run.next_look:
        return None
    run.next_look = now + _TICK_MS / 1000
    if tree is not None and tree.resident_bytes() > orders.memory_mb << 20:
        return "error", f"used more than {orders.memory_mb} MiB of memory"
    if orders.tier == rooms.LANDLOCK:
        return _over_quota(job.room.scratch, orders.scratch_mb)
    return None


def _ended(job: _Job, run: _Run, killed: _Ending | None, status: int, cpu: float) -> bytes:
    """The report frame of a solution that is gone."""
    wall = time.monotonic() - (run.ready_at or run.begun)
    ended, reason = _ending(job, run, killed, status, cpu)
    binary = b""
    if job.how == starts.COMPILE and ended == "finished":
        try:
            binary = starts.compiled()
        except OSError as error:
            ended, reason = "error", f"left no program: {error.strerror}"
    header = {"ended": ended, "reason": reason, "wall_s": wall, "cpu_s": cpu}
    out, replies = (bytes(s.data[: s.cap]) for s in (run.out, run.replies))
    return spec.frame(header, out, bytes(run.err.data), binary or replies)


def _ending(job: _Job, run: _Run, killed: _Ending | None, status: int, cpu: float) -> _Ending:
    if killed == _DONE_WITH and not _was_killed(status):
        killed = None  # it had ended by itself, which tells more
    if killed is not None:
        return killed
    if run.setup.data != b"k":
        why = bytes(run.setup.data).removeprefix(b"k").decode(errors="replace")
        return "infra_error", why or f"set-up ended with status {status}"
    if run.over:
        return "error", f"wrote more than {job.orders.output_kb} KiB"
    return _verdict(status, cpu, job)


def _over_quota(path: str, limit_mb: int) -> _Ending | None:
    try:
        if scratch.used_bytes(path) <= limit_mb << 20:
            return None
    except OSError as error:
        return ("error", f"scratch directory: {error.strerror}")
    return ("error", f"wrote more than {limit_mb} MiB of files")


def _was_killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _verdict(status: int, cpu: float, job: _Job) -> _Ending:
    orders = job.orders
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGSYS and job.allowed.fork_kills:
            return "error", f"needs processes, which the {orders.tier} tier lacks (unsupported)"
        spent = cpu >= orders.cpu_s
        if number == signal.SIGXCPU or (number == signal.SIGKILL and spent):
            return "timeout", f"used more than {orders.cpu_s} s of CPU"
        names = {s.value: s.name for s in signal.Signals}
        return "error", f"was killed by {names.get(number, number)}"
    code = os.WEXITSTATUS(status)
    return ("finished", "") if code == 0 else ("error", f"ended with exit status {code}")
