"""Building the jail: what a zygote does once, and what a solution does to itself before it runs.

Owns the order of the layers. Once: namespaces with a read-only root that holds Python's library and
nothing else, or a scratch directory under Landlock; then an unprivileged user. Per solution: death
with the parent, no new privileges, no capabilities, limits, Landlock, seccomp.
"""

import errno
import fcntl
import os
import resource
import signal
from dataclasses import dataclass

from conjoint.rewards.sandbox.kernel import landlock, seccomp
from conjoint.rewards.sandbox.kernel import syscalls as kernel
from conjoint.rewards.sandbox.kernel.seccomp import Filter
from conjoint.rewards.sandbox.kernel.syscalls import (
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
)
from conjoint.rewards.sandbox.spec import Spec

NAMESPACES, LANDLOCK = "namespaces", "landlock"
_HIDDEN = ("site-packages", "dist-packages", "test", "ensurepip", "idlelib", "sitecustomize.py")
"""Parts of a library directory that are not Python's own, or of no use to a solution."""
_ZONES = "/usr/share/zoneinfo"
_LOCKED = {
    os.ST_RDONLY: MS_RDONLY,
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME,
    os.ST_NODIRATIME: MS_NODIRATIME,
    os.ST_RELATIME: MS_RELATIME,
}
"""What statvfs() reports of a mount -> the flag of mount() that keeps it so."""
_PROCESSES = 64
_HIDDEN_FILES_MB = 4
"""Largest file of the Landlock tier: an unlinked one is out of the quota's sight, 64 at most."""


@dataclass(frozen=True, slots=True)
class Room:
    """What jobs of one zygote share: their scratch path, namespace flags and prepared rules."""

    scratch: str
    flags: int
    ruleset: int | None
    processes: int
    proc: int
    """The machine's /proc, to see a job's processes by; -1 in a FORK zygote. Not for a solution."""


def enter(spec: Spec) -> Room:
    """Lock this zygote in. Raises OSError naming the refused step."""
    if spec.tier == NAMESPACES:
        return _enter_namespaces(spec)
    return _enter_landlock(spec)


def _enter_landlock(spec: Spec) -> Room:
    scratch = spec.directory
    if spec.layers.landlock and landlock.abi() == 0:
        raise OSError(errno.ENOSYS, "landlock: this kernel has none, or it is turned off")
    if spec.uid is None and spec.layers.landlock and landlock.abi() < 4:
        raise OSError(
            errno.ENOSYS, f"landlock: version {landlock.abi()}, needs 4 without a user to drop to"
        )
    if spec.uid is not None:
        os.chown(scratch, spec.uid, spec.uid)
        _become(spec.uid)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    rules = None
    if spec.layers.landlock:
        seen = [*_visible(spec.library), *spec.packages]
        low = landlock.ruleset(seen, spec.library, scratch, _executable(spec))
        # Out of the way of a solution's own descriptors 0 to 4.
        rules = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 64)
        os.close(low)
    # The limit counts all tasks of a user: one that is ours alone can be held tight.
    processes = _PROCESSES if spec.uid is not None else _own_tasks() + 4096
    return Room(scratch, 0, rules, processes, _proc(spec))


def _proc(spec: Spec) -> int:
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY) if spec.system else -1


def _executable(spec: Spec) -> list[str]:
    return [*spec.system, *spec.shared, spec.interpreter] if spec.system else []


def _visible(library: tuple[str, ...]) -> list[str]:
    """The entries of the library directories that a solution may read, and the time zones."""
    found = [
        os.path.join(root, name)
        for root in library
        for name in os.listdir(root)
        if name not in _HIDDEN
    ]
    return [*found, _ZONES]


def _own_tasks() -> int:
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return total


def _enter_namespaces(spec: Spec) -> Room:
    own = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET
    own |= kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    # Held open across the change of root; the solution has no proc at all.
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    all_of_proc = _proc(spec)
    try:
        if os.geteuid() == 0:
            # As root first: a dropped user may not read a library that lies in root's home.
            kernel.unshare(kernel.CLONE_NEWNS)
            _change_root(spec)
            if spec.uid is not None:
                _become(spec.uid)
            uid, gid = os.geteuid(), os.getegid()
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            kernel.unshare(own)
            _map_user(proc, uid, gid)
        else:
            uid, gid = os.geteuid(), os.getegid()
            kernel.unshare(own)
            _map_user(proc, uid, gid)
            _change_root(spec)
    finally:
        os.close(proc)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
    return Room(_scratch(spec), flags, None, _PROCESSES, all_of_proc)


def _become(uid: int) -> None:
    """Drop to an unprivileged user: RLIMIT_NPROC does not bind uid 0, even in a user namespace."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid):
        raise OSError(errno.EPERM, "setresuid: the user did not change")


def _map_user(proc: int, uid: int, gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}") from None
        finally:
            os.close(descriptor)


def _change_root(spec: Spec) -> None:
    """A new root: an empty tmpfs with read-only binds of the library, zones and five devices."""
    root = spec.directory
    kernel.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=1024")
    for name in (_scratch(spec), "/dev", "/hidden"):
        os.mkdir(root + name, 0o755)
    for path in (*_executable(spec), *spec.library, _ZONES):
        _show(path, root)
    for path in spec.library:
        for name in _HIDDEN:
            if os.path.isdir(os.path.join(path, name)):
                _bind(f"{root}/hidden", f"{root}{path}/{name}", MS_NODEV)
    for path in spec.packages:
        _show(path, root)
    for path in landlock.DEVICES:
        os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        _bind(path, root + path, MS_NOEXEC, writable=True)
    os.chdir(root)
    kernel.pivot_root(".", ".")
    kernel.detach(".")
    os.chdir("/")
    kernel.mount("none", "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _show(path: str, root: str) -> None:
    """`path` below the new root, to read only; a link as a link; nothing where there is nothing."""
    if os.path.lexists(root + path) and not os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(root + path), 0o755, exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), root + path)
    elif os.path.exists(path):
        if os.path.isdir(path):
            os.makedirs(root + path, 0o755, exist_ok=True)
        else:
            os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        _bind(path, root + path, MS_NODEV)


def _bind(source: str, target: str, extra: int, writable: bool = False) -> None:
    kernel.mount(source, target, flags=MS_BIND)
    # Flags the host set are locked inside a user namespace: leaving one out is refused.
    seen = os.statvfs(target).f_flag
    flags = sum(kept for reported, kept in _LOCKED.items() if seen & reported)
    if source not in landlock.DEVICES or not writable:
        flags |= MS_RDONLY
    kernel.mount("none", target, flags=flags | extra | MS_NOSUID | MS_REMOUNT | MS_BIND)


def _scratch(spec: Spec) -> str:
    """Where the scratch directory is mounted: it must not cover what lies below /tmp."""
    below = any(path.startswith("/tmp/") for path in (*spec.library, *spec.packages))
    return "/scratch" if below else "/tmp"


def mount_scratch(spec: Spec) -> None:
    """A fresh scratch directory of limited size in this job's own mount namespace."""
    kernel.mount(
        "tmpfs",
        _scratch(spec),
        "tmpfs",
        MS_NOSUID | MS_NODEV | MS_NOEXEC,
        f"mode=0700,size={spec.scratch_mb}m,nr_inodes=2048",
    )


def confine(spec: Spec, room: Room, allowed: Filter) -> None:
    """Lock the calling process in for good, as the last act before untrusted code."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    if spec.layers.rlimits:
        _limit(spec, room, allowed)
    if spec.layers.landlock:
        rules = room.ruleset
        if rules is None and landlock.abi() > 0:
            readable = [*spec.library, *spec.packages, _ZONES]
            rules = landlock.ruleset(readable, (), room.scratch, _executable(spec))
        if rules is not None:
            landlock.restrict(rules)
    if spec.layers.seccomp:
        seccomp.install(spec.tier, os.getpid(), allowed)


def _limit(spec: Spec, room: Room, allowed: Filter) -> None:
    file_mb = spec.scratch_mb
    if spec.tier == LANDLOCK and not allowed.processes:
        file_mb = min(file_mb, _HIDDEN_FILES_MB)
    for what, soft, hard in (
        (resource.RLIMIT_AS, spec.memory_mb << 20, spec.memory_mb << 20),
        (resource.RLIMIT_CPU, spec.cpu_s, spec.cpu_s + 1),
        (resource.RLIMIT_NPROC, room.processes, room.processes),
        (resource.RLIMIT_FSIZE, file_mb << 20, file_mb << 20),
        (resource.RLIMIT_STACK, 64 << 20, 64 << 20),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
        (resource.RLIMIT_SIGPENDING, 64, 64),
    ):
        ceiling = resource.getrlimit(what)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(what, (soft, hard))
