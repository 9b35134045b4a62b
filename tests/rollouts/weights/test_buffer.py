"""A buffer is a new file of this user, and is never reached through a link."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conjoint.rollouts.weights.buffer import (
    SharedBuffer,
    buffer_path,
    remove_buffers,
    sweep_buffers,
)
from conjoint.rollouts.weights.shm_sender import SharedMemorySender

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
DEAD = 2**22 + 1
"""No process has this id: it is above the largest that Linux gives."""


def link(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def taken(path: Path) -> None:
    path.write_bytes(b"x" * 4096)


@pytest.mark.parametrize("what", [link, taken, os.mkfifo, os.mkdir])
def test_whatever_has_the_name_already_is_refused_and_not_touched(
    tmp_path: Path, what: Callable[[Path], None]
):
    (tmp_path / "victim").write_text("precious")
    path = tmp_path / "buffer"
    what(path)
    before = os.lstat(path)
    with pytest.raises(FileExistsError):
        SharedBuffer(str(path), 4096, create=True)
    assert os.lstat(path) == before
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_file_is_for_this_user_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        sender = SharedMemorySender(str(tmp_path / "buffer"), "bfloat16")
        for version in (1, 2):
            sender.send([("w", torch.full((4,), float(version)))], version)
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {"buffer": 0o600, "buffer.delta": 0o600}


def test_changes_are_not_written_through_a_link(tmp_path: Path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "buffer.delta").symlink_to(tmp_path / "victim")
    sender = SharedMemorySender(str(tmp_path / "buffer"), "bfloat16")
    for version in (1, 2):
        sent = sender.send([("w", torch.full((4,), float(version)))], version)
    assert sent.delta is not None and sent.delta.nbytes
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "buffer.delta").is_symlink()


@pytest.mark.parametrize("what", [link, os.mkfifo])
def test_an_engine_opens_no_link_and_waits_for_no_pipe(
    tmp_path: Path, what: Callable[[Path], None]
):
    (tmp_path / "victim").write_bytes(b"x" * 4096)
    what(tmp_path / "buffer")
    with pytest.raises(OSError):
        SharedBuffer(str(tmp_path / "buffer"), 4096, create=False)


@NEEDS_ROOT
def test_an_engine_opens_no_file_of_another_user(tmp_path: Path):
    (tmp_path / "buffer").write_bytes(b"x" * 4096)
    os.chown(tmp_path / "buffer", 65534, 65534)
    with pytest.raises(PermissionError, match="not a file of this user"):
        SharedBuffer(str(tmp_path / "buffer"), 4096, create=False)


def test_nobody_knows_the_name_before():
    assert buffer_path("run") != buffer_path("run")


def test_what_others_have_put_there_stops_no_run_and_stays():
    folder = Path(f"/dev/shm/conjoint-{DEAD}-folder")
    ours = Path(f"/dev/shm/conjoint-{DEAD}-ours")
    theirs = Path(f"/dev/shm/conjoint-{DEAD}-theirs")
    try:
        folder.mkdir()
        ours.touch()
        if os.geteuid() == 0:
            theirs.touch()
            os.chown(theirs, 65534, 65534)
        sweep_buffers()
        assert not ours.exists() and folder.exists()
        assert theirs.exists() == (os.geteuid() == 0)
        remove_buffers(DEAD)
    finally:
        folder.rmdir()
        theirs.unlink(missing_ok=True)
