"""The command, with a learner that is killed half way through sending the weights of version 3:
`python -m tests.e2e.half_sender quickstart ...`."""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rl.weight_sync import SharedMemorySender

VERSION = 3


@dataclass(slots=True)
class KilledHalfWay(SharedMemorySender):
    def send(self, weights: Iterable[tuple[str, Any]], version: int) -> Any:
        if version == VERSION:
            _die_at_the_tenth_tensor()
        return SharedMemorySender.send(self, weights, version)


def _die_at_the_tenth_tensor() -> None:
    import torch

    real, left = torch.frombuffer, iter(range(10))

    def frombuffer(*args: Any, **how: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **how)

    torch.frombuffer = frombuffer


def main() -> None:
    import rl.build
    import scripts.main
    from tests.e2e import half_sender  # by the name under which the learner imports it

    rl.build.SharedMemorySender = half_sender.KilledHalfWay
    scripts.main.main()


if __name__ == "__main__":
    main()
