"""Learner and engine take turns on one GPU: the engine is out of its memory during a step.

The order is the contract: the engine is idle and asleep before the step begins; the weight sync
after it wakes the memory of the weights, loads them, and `resume` wakes that of the KV cache. The
learner keeps its own memory all the time. Not run on a GPU yet: the order is tested with fakes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from conjoint.rl.learner.base import Learner

if TYPE_CHECKING:
    from conjoint.rl.learner.batch import Batch


class Sleeper(Protocol):
    async def sleep(self) -> None: ...


class ColocatedLearner:
    """A `Learner` that sends the engine to sleep before each step."""

    def __init__(self, learner: Learner, engine: Sleeper) -> None:
        self._learner = learner
        self._engine = engine

    async def step(self, batch: "Batch", version: int) -> dict[str, float]:
        await self._engine.sleep()
        return await self._learner.step(batch, version)

    async def logprobs(self, tokens: list[int]) -> list[float]:
        return await self._learner.logprobs(tokens)

    async def ptx_loss(self, batch: "Batch") -> float:
        return await self._learner.ptx_loss(batch)

    async def send_weights(self, sender: Any, version: int) -> Any:
        return await self._learner.send_weights(sender, version)

    async def save(self, folder: Path) -> None:
        await self._learner.save(folder)

    async def save_model(self, folder: Path) -> None:
        await self._learner.save_model(folder)

    async def load(self, folder: Path) -> None:
        await self._learner.load(folder)

    async def close(self) -> None:
        await self._learner.close()
