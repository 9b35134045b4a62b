"""The command, with a learner that is killed half way through sending the weights of version 3:
`python -m tests.e2e.half_sender quickstart ...`."""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from conjoint.rl import build
from conjoint.rollouts.weights.buffer import SharedBuffer
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from conjoint.scripts import main as command

VERSION = 3


@dataclass(slots=True)
class KilledHalfWay(SharedMemorySender):
    def send(self, weights: Iterable[tuple[str, Any]], version: int) -> Any:
        if version == VERSION:
            SharedBuffer.write = _write_half_and_die  # type: ignore[method-assign]
        return SharedMemorySender.send(self, weights, version)


_write = SharedBuffer.write


def _write_half_and_die(self: SharedBuffer, parts: Iterable[Any], nbytes: int) -> str:
    whole = list(parts)
    _write(self, whole[: len(whole) // 2], nbytes)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")


def main() -> None:
    from tests.e2e import half_sender  # by the name under which the learner imports it

    build.SharedMemorySender = half_sender.KilledHalfWay
    command.main()


if __name__ == "__main__":
    main()
