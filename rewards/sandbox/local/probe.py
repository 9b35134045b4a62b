"""The proof at start-up: a tier counts only if this program, run in it, finds every door closed.

The program is ours, so its word is good. Each line tries one thing a solution must not be able to
do, and one that it must.
"""

PROBE = r"""
import os, tempfile
held, open_doors = [], []

def closed(name, attempt):
    try:
        attempt()
    except (OSError, AssertionError):
        held.append(name)
    else:
        open_doors.append(name)

def connect():
    import socket
    socket.create_connection(("127.0.0.1", 9), 1)

def signal_parent():
    os.kill(os.getppid() or 1, 0)

def become_root():
    os.setuid(0)
    assert os.geteuid() == 0 and open("/etc/shadow")

closed("reading /etc/passwd", lambda: open("/etc/passwd"))
closed("reading /proc", lambda: open("/proc/self/environ"))
closed("listing site-packages", lambda: open(os.path.join(LIBRARY, "site-packages", "README.txt")))
closed("writing outside scratch", lambda: open(os.path.join(LIBRARY, "conjoint_probe"), "w"))
closed("a network connection", connect)
closed("a new process", os.fork)
closed("a signal to another process", signal_parent)
closed("becoming root", become_root)
with tempfile.TemporaryFile() as file:
    file.write(b"x")
import wave
print("open: " + ", ".join(open_doors) if open_doors else "all closed")
"""
EXPECTED = b"all closed\n"


def source(library: str) -> str:
    return f"LIBRARY = {library!r}\n{PROBE}"
