"""What a worker owns, with small real processes: found by its mark, killed, its memory removed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from conjoint.envs.marks import DRIVER_MARK, mark_environment
from conjoint.rl.run.interrupt import kill_all
from conjoint.rollouts.engine.belongings import Belongings, marked, segments
from conjoint.rollouts.weights.buffer import remove_buffers

pytestmark = pytest.mark.timeout(120)

HOLDER = """
import os, subprocess, sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")  # as if the tracker died first
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, __file__], start_new_session=True)
print(memory.name, flush=True)
time.sleep(1000)
"""
"""A process with a segment, and with an argument a child that has left its group, with another."""


def start(folder: Path, mark: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Two processes and the paths of their two segments."""
    (folder / "holder.py").write_text(HOLDER)
    process = subprocess.Popen(
        [sys.executable, folder / "holder.py", "with a child"],
        env=os.environ | mark_environment(mark),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, [f"/dev/shm/{process.stdout.readline().strip()}" for _ in range(2)]


@pytest.fixture
def mark():
    mark = f"test-{uuid4().hex}"
    yield mark
    Belongings(mark).reap()


def test_reap_ends_a_stopped_process_and_one_whose_parent_is_gone(tmp_path: Path, mark: str):
    process, paths = start(tmp_path, mark)
    owned = Belongings(mark)
    pids = owned.processes()
    assert process.pid in pids and len(pids) >= 2  # and their resource trackers
    assert segments(pids) == set(paths) and all(map(os.path.exists, paths))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    assert owned.reap() == []
    assert marked(mark) == []
    assert not os.path.exists(paths[1])
    Path(paths[0]).unlink()  # was never noted, and nothing that lives mapped it


def test_a_segment_that_was_noted_goes_although_its_process_died_before(tmp_path: Path, mark: str):
    process, paths = start(tmp_path, mark)
    owned = Belongings(mark)
    owned.note()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    owned.reap()
    assert not any(map(os.path.exists, paths))


def test_a_mark_covers_its_extensions_and_no_neighbour(tmp_path: Path, mark: str):
    process, _ = start(tmp_path, f"{mark}-1-2")
    assert process.pid in marked(mark) and process.pid in marked(f"{mark}-1")
    assert marked(f"{mark}-1-20") == marked(f"{mark}-1-") == marked(mark[:-1]) == []


def test_what_a_driver_leaves_is_removed_when_it_is_killed(tmp_path: Path):
    """Also its buffer of weights, which is named after it, and the folder of its children."""
    folder = tmp_path / "files"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "holder.py").write_text(HOLDER)
    (tmp_path / "driver.py").write_text(f"""
import os, pathlib, subprocess, sys, time
from conjoint.rl.run.interrupt import kill_all
from conjoint.envs.marks import DRIVER_MARK
from conjoint.rollouts.engine.belongings import marked_children
from conjoint.rollouts.weights.buffer import SharedBuffer, buffer_path
with marked_children(folder=pathlib.Path({str(folder)!r})):
    holder = subprocess.Popen([sys.executable, {str(tmp_path / "holder.py")!r}, "with a child"],
                              stdout=subprocess.PIPE, text=True)
unmarked = subprocess.Popen(["sleep", "30"])
buffer = buffer_path("run")
SharedBuffer(buffer, 4096, create=True)
names = [holder.stdout.readline().strip() for _ in range(2)]
print(DRIVER_MARK, unmarked.pid, buffer, *names, flush=True)
time.sleep(1000)
""")
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    theirs, unmarked, buffer, *names = driver.stdout.readline().split()
    assert f"-{driver.pid}-" in buffer
    paths = [*(f"/dev/shm/{name}" for name in names), buffer, str(folder)]
    assert len(marked(theirs)) >= 2 and all(map(os.path.exists, paths))
    driver.kill()  # and is not waited for yet: its id is still taken
    deadline = time.monotonic() + 60
    while marked(theirs) or any(map(os.path.exists, paths)):
        assert time.monotonic() < deadline, (marked(theirs), paths)
        time.sleep(0.05)
    driver.wait()
    os.kill(int(unmarked), signal.SIGKILL)  # it lived


def test_a_run_that_kills_what_it_started_also_removes_its_memory(tmp_path: Path):
    process, paths = start(tmp_path, DRIVER_MARK)
    kill_all([])
    assert process.wait(10) == -signal.SIGKILL and marked(DRIVER_MARK) == []
    assert not any(map(os.path.exists, paths))


def test_marks_do_not_stay_in_the_drivers_environment():
    assert not any(DRIVER_MARK in value for value in os.environ.values())


def test_buffers_of_another_process_stay(tmp_path: Path):
    ours = Path(f"/dev/shm/conjoint-{os.getpid()}-mine")
    ours.touch()
    remove_buffers(os.getpid() * 10)
    assert ours.exists()
    remove_buffers(os.getpid())
    assert not ours.exists()


def test_last_words_are_the_end_of_both_logs_without_rays_own_lines(tmp_path: Path, mark: str):
    (tmp_path / "holder.py").write_text(HOLDER)
    log = tmp_path / "worker-1.err"
    log.with_suffix(".out").write_text(":actor_name:x\nERROR the core failed\n")
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, tmp_path / "holder.py"],
            env=os.environ | mark_environment(mark),
            stderr=err,
            stdout=subprocess.DEVNULL,
        )
    owned = Belongings(mark)
    while not owned.note():
        time.sleep(0.01)
    owned.reap()
    process.wait()
    log.write_text(":job_id:1\nTraceback\nValueError: no\n")
    assert owned.last_words(3) == "ERROR the core failed\nTraceback\nValueError: no"
    assert owned.last_words(1) == "ValueError: no"
