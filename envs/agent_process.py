"""The parent of an agent's command: it runs the command and then ends everything that it started.

A process that starts its own session, forks twice or clears its environment is still found: whose
parent ends becomes a child of the nearest ancestor that asked for orphans, and that is this
process. It is a program of its own, run as a file with no package:

    agent_process.py PARENT WORD...

It ends with the command's exit code (128 + N after signal N) once none of them is left, and does
the same on SIGTERM, which it also gets when its parent (process id PARENT) dies.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(parent: int, words: list[str]) -> int:
    """Run the command `words`; its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS | {signal.SIGCHLD})
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        return 1
    command = os.fork()
    if not command:
        _become(words)
    code = None
    while code is None and signal.sigwait(_ENDS | {signal.SIGCHLD}) == signal.SIGCHLD:
        code = _code_of(command)
    while left := children():
        for pid in left:
            with contextlib.suppress(PermissionError):  # it has become another user's
                os.kill(pid, signal.SIGKILL)
        # Those that a killed one leaves behind are ours by then.
        os.waitpid(left[0], 0)
        code = _code_of(command) if code is None else code
    return 128 + signal.SIGTERM if code is None else code


def _become(words: list[str]) -> None:
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS | {signal.SIGCHLD})
        os.execvp(words[0], words)
    except OSError as error:
        os.write(2, f"{words[0]}: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _code_of(command: int) -> int | None:
    """Collect what has ended; the command's exit code if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code


def children() -> list[int]:
    """Process ids of this process's own children, ended ones included."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    # After the name, which may hold anything: state, parent.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:  # it has ended
                continue
            if parent == os.getpid():
                found.append(int(entry))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
