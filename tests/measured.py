"""Run pytest and count the CPU time of all that it starts: `python -m tests.measured [ARGUMENTS]`.

Prints the total and the ten dearest files, and fails above the budget of the suite. Seconds of CPU
(user + system) hold on a busy machine too, which wall time does not; no test asserts either.

Linux adds the seconds of a child to those of the parent that waits for it. Ray's raylet waits for
none of its workers (it ignores SIGCHLD), so that `time make test` lacks about a quarter of what
the suite uses. The seconds of a raylet's children are therefore read while they live.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

BUDGET_S = 2800
"""CPU seconds that the whole suite may take. The aim is 1,500 (docs/testing.md); the same tests
take a third more in slow hours of one machine. Whoever adds a test makes an old one cheaper."""
NOTES = "CONJOINT_TEST_NOTES"
"""Environment variable: the folder where each test process leaves its seconds by file."""
_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> int:
    """pytest's exit code, or 1 if all passed and the budget did not last."""
    # Ray's processes outlive the test that started them. As their reaper we get their seconds too.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as notes:
        command = [sys.executable, "-m", "pytest", *arguments]
        pytest = subprocess.Popen(command, env=os.environ | {NOTES: notes})
        of_rays = RayWorkers(notes)
        threading.Thread(target=of_rays.watch, daemon=True).start()
        code = _wait_for_all(pytest.pid)
        by_file = _collected(Path(notes)) + of_rays.by_file()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = used.ru_utime + used.ru_stime + of_rays.by_file().total()
    print(f"\nCPU time {total:.0f} s of {BUDGET_S} s, wall time {time.monotonic() - start:.0f} s")
    for file, seconds in by_file.most_common(int(os.environ.get("FILES", 10))):
        print(f"{seconds:8.1f} s  {file}")
    print(f"{total - by_file.total():8.1f} s  collection, and processes that outlived their test")
    if code == 0 and total > BUDGET_S:
        print("The tests passed, but their budget (tests/measured.py) is spent: make one cheaper.")
        return 1
    return code


def _wait_for_all(first: int) -> int:
    """Wait for every process that is or becomes ours; the exit code of `first`."""
    code: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG if code is not None else 0)
        except ChildProcessError:
            break
        if pid == 0:  # pytest has ended, and what is left of it is not going to
            break
        if pid == first:
            code = os.waitstatus_to_exitcode(status)
    assert code is not None
    return code


def _collected(notes: Path) -> Counter[str]:
    seconds: Counter[str] = Counter()
    for file in notes.iterdir():
        seconds.update(json.loads(file.read_text()))
    return seconds


class RayWorkers:
    """CPU seconds of the processes whose parent is a raylet, the last second of each left out."""

    def __init__(self, notes: str) -> None:
        self._ours = f"{NOTES}={notes}".encode()
        """In the environment of what this run of the tests has started."""
        self._seconds: dict[tuple[str, str], float] = {}
        """By process id and start."""
        self._files: dict[tuple[str, str], str | None] = {}
        """The test file that started the process's Ray; None: it is not of this run."""

    def watch(self, every_s: float = 1.0) -> None:
        while True:
            self.look()
            time.sleep(every_s)

    def look(self) -> None:
        processes = list(filter(None, map(_stat, Path("/proc").glob("[0-9]*"))))
        raylets = {pid for pid, name, *_ in processes if name == "raylet"}
        for pid, _, parent, start, seconds in processes:
            if parent in raylets:
                if (pid, start) not in self._files:
                    self._files[pid, start] = self._test_file(pid)
                self._seconds[pid, start] = seconds

    def by_file(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for process, seconds in list(self._seconds.items()):
            if file := self._files[process]:
                found[file] += seconds
        return found

    def _test_file(self, pid: str) -> str | None:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return None
        if self._ours not in variables:
            return None
        key = b"PYTEST_CURRENT_TEST="
        told = next((v.removeprefix(key).decode() for v in variables if v.startswith(key)), "")
        return told.partition("::")[0] or "Ray's workers, of no test that is known"


def _stat(folder: Path) -> tuple[str, str, str, str, float] | None:
    """Id, name, parent, start and CPU seconds (waited-for children included) of a process; None
    if it has ended."""
    try:
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()  # from proc(5)'s third field on
    seconds = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return folder.name, name, fields[1], fields[19], seconds


class Meter:
    """CPU seconds of one test process and of the children it waited for, by test file."""

    def __init__(self, folder: str) -> None:
        self._file = Path(folder, str(os.getpid()))
        self._seconds: Counter[str] = Counter()
        self._last = self._now()

    def lap(self, nodeid: str) -> None:
        """What was used since the last call belongs to the file of this test."""
        now = self._now()
        self._seconds[nodeid.partition("::")[0]] += now - self._last
        self._last = now

    def write(self) -> None:
        self._file.write_text(json.dumps(self._seconds))

    @staticmethod
    def _now() -> float:
        user, system, children_user, children_system, _ = os.times()
        return user + system + children_user + children_system


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
