"""The command, with a learner that is killed half way through sending the weights of version 3:
`python -m tests.e2e.half_sender quickstart ...`."""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rl.weight_sync import SharedMemorySender
from rollouts.weights import SharedBuffer

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
    import rl.build
    import scripts.main
    from tests.e2e import half_sender  # by the name under which the learner imports it

    rl.build.SharedMemorySender = half_sender.KilledHalfWay
    scripts.main.main()


if __name__ == "__main__":
    main()
