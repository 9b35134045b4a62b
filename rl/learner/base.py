"""The learner as the loop sees it: its configuration and its protocol. Imports nothing heavy.

The DeepSpeed rank is `rl/learner/rank.py`, its Ray fan-out `rl/learner/group.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from conjoint.rl.learner.batch import Batch


class Learner(Protocol):
    """What the loop and the weight sync ask of a learner."""

    async def step(self, batch: "Batch", version: int) -> dict[str, float]:
        """Train on one batch; `version` is that of the weights before it."""
        ...

    async def logprobs(self, tokens: list[int]) -> list[float]:
        """Log-prob of each token given those before it, temperature 1; n tokens give n-1."""
        ...

    async def ptx_loss(self, batch: "Batch") -> float:
        """Mean cross-entropy, in nats, of the PTX tokens of `heldout_batch`; trains nothing."""
        ...

    async def send_weights(self, sender: Any, version: int) -> Any:
        """Run `sender.send(named_weights, version)` beside the weights; returns what it returns."""
        ...

    async def save(self, folder: Path) -> None:
        """Write `folder/deepspeed` (for `load`) and `folder/hf` (for `from_pretrained`)."""
        ...

    async def save_model(self, folder: Path) -> None:
        """Write what `from_pretrained` opens, and nothing that trains."""
        ...

    async def load(self, folder: Path) -> None: ...

    async def close(self) -> None: ...
