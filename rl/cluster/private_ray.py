"""What keeps a Ray of our own to this user: loopback, a token, a folder that no other can enter.

Whoever can talk to Ray can run any command as the user of the run, so each way in is closed, for
its processes and for all that they start. docs/engines.md has the facts of Ray behind each line.
"""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private import ray_constants

from conjoint.rollouts.engine.process_environment import ONE_MACHINE, changed_environment

LOOPBACK = "127.0.0.1"
_TOKEN = secrets.token_hex(32)
"""One for each process that drives a Ray: Ray keeps the first that it reads. It is in memory and in
the environment of Ray's processes, in no file."""
_LONGEST = 20
"""Bytes of a folder's name in which Ray's sockets still fit: a socket's name has at most 107, of
which those of Ray need 87."""


def private_folder() -> Path:
    """A new folder for Ray's files, sockets and logs, that only this user can enter."""
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(place)) > _LONGEST:
        place = "/tmp"
    return Path(tempfile.mkdtemp(prefix="conjoint-", dir=place))


@contextmanager
def kept_private(folder: Path) -> Iterator[dict[str, Any]]:
    """Keys for `ray.init` within the block: a new Ray of this user and this machine alone, whatever
    the environment says about other clusters."""
    variables = {
        **ONE_MACHINE,
        "NCCL_SOCKET_IFNAME": "lo",
        "TMPDIR": str(folder),
        "RAY_AUTH_TOKEN": _TOKEN,
        # Token mode is Ray's choice where nothing is set, and only that way is it read again.
        "RAY_AUTH_MODE": None,
        "RAY_AUTH_TOKEN_PATH": None,
        "RAY_ADDRESS": None,
        "RAY_REDIS_ADDRESS": None,
    }
    # Ray makes the folder that it is given open to everybody, so it gets one below ours.
    keys = {"address": "local", "include_dashboard": False, "_temp_dir": str(folder / "ray")}
    with changed_environment(variables), _node_on_loopback():
        yield keys


@contextmanager
def _node_on_loopback() -> Iterator[None]:
    """Ray takes 127.0.0.1 for its node only where it believes that there can be no cluster; then
    each of its servers listens there alone. Given as an address, it becomes that of the machine."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
