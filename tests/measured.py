"""Run pytest and count the CPU time of all that it starts: `python -m tests.measured [ARGUMENTS]`.

Prints the total and the ten dearest files, and fails above the budget of the suite. Seconds of CPU
(user + system) hold on a busy machine too, which wall time does not; no test asserts either.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

BUDGET_S = 1700
"""CPU seconds that the whole suite may take; the aim is 1,500 (docs/testing.md). Whoever adds a
test makes an old one cheaper."""
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
        code = _wait_for_all(pytest.pid)
        by_file = _collected(Path(notes))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = used.ru_utime + used.ru_stime
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
