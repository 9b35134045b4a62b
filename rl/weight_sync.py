"""Learner -> engines. A sync ends when every engine has answered with version and checksum.

The order is the contract: the engines are paused (no request runs), the learner writes the weights,
each engine verifies, loads and answers, and the probe compares log-probs where it is due; only then
does the caller sample again. A checksum proves transport, not use; the probe proves use.

Transports are senders (`rollouts/weights/`): shared memory, NCCL and CUDA IPC.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from conjoint.envs.types import ConjointError, StopRun, derive_seed
from conjoint.rollouts.engine.base import RolloutEngine
from conjoint.rollouts.weights.sender import Sender

if TYPE_CHECKING:
    from conjoint.rl.learner.base import Learner


@dataclass(frozen=True, slots=True)
class WeightSyncConfig:
    backend: str = "shm"
    """shm: one machine, any device. nccl: GPUs, one or more machines. ipc: one shared GPU."""
    delta: bool = False
    """Send what changed since the last sync, in the engines' dtype; for slow links, see
    docs/clusters.md. shm only."""
    probe_every: int = 10
    """Compare log-probs of a probe prompt after the first sync and every Nth after it; 0: never."""
    probe_tokens: int = 64
    probe_tolerance: float = 1e-3
    """Largest |engine - learner| log-prob of the probe. fp32 needs about 1e-5, bf16 about 0.1."""

    def validate(self) -> None:
        if self.backend not in ("shm", "nccl", "ipc"):
            raise ConjointError(
                f"weight_sync.backend={self.backend!r} is unknown; use shm, nccl or ipc"
            )
        if self.delta and self.backend != "shm":
            raise ConjointError(
                f"weight_sync.delta has no effect with weight_sync.backend={self.backend}; use shm"
            )


class WeightSync(Protocol):
    async def __call__(self, learner: "Learner", engine: RolloutEngine, version: int) -> None: ...


class PausedSync:
    """pause -> send -> load -> probe -> resume. `drain` lets what runs end first; otherwise it is
    frozen and goes on under the new weights."""

    def __init__(
        self,
        cfg: WeightSyncConfig,
        sender: Sender,
        vocab_size: int,
        seed: int,
        *,
        drain: bool = True,
    ) -> None:
        self._cfg = cfg
        self._drain = drain
        self._sender = sender
        self._probe = [derive_seed(seed, "probe", i) % vocab_size for i in range(cfg.probe_tokens)]
        self._syncs = 0
        self.last_probe_gap = 0.0

    async def __call__(self, learner: "Learner", engine: RolloutEngine, version: int) -> None:
        await engine.pause(drain=self._drain)
        sent = await learner.send_weights(self._sender, version)
        await engine.load_weights(sent, version)
        await engine.resume()
        due = self._cfg.probe_every and self._syncs % self._cfg.probe_every == 0
        self._syncs += 1
        if due:
            await self.probe(learner, engine)

    async def probe(self, learner: "Learner", engine: RolloutEngine) -> None:
        """Raises StopRun when engine and learner disagree about the probe prompt."""
        ours = await learner.logprobs(self._probe)
        theirs = await engine.prompt_logprobs(self._probe)
        gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        self.last_probe_gap = gap
        # "not <=" so that a NaN fires too.
        if not gap <= self._cfg.probe_tolerance:
            raise StopRun(
                f"after a weight sync the engine's log-probs of the probe prompt differ from the "
                f"learner's by {gap:.3g} (weight_sync.probe_tolerance is "
                f"{self._cfg.probe_tolerance}): "
                "the engine does not use the weights it was sent"
            )
