"""Weight sync from learner to engines.

A sync runs in a fixed order:
1. The engines pause: no request runs.
2. The learner sends the weights of the new version.
3. Each engine loads them and confirms their version and checksum.
4. The engines resume.
5. If a probe is due, learner and engines compute log-probs of one prompt, and these must agree.

The checksum proves that the bytes arrived. The probe proves that the engine samples from them.
The senders, one for each transport, are in `rollouts/weights/`: shared memory, NCCL and CUDA IPC.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from conjoint.envs.types import ConjointError, StopRun, derive_seed
from conjoint.rollouts.engine.base import RolloutEngine
from conjoint.rollouts.weights.sender import Sender

if TYPE_CHECKING:
    from conjoint.rl.learner.base import Learner


@dataclass(frozen=True, slots=True)
class WeightSyncConfig:
    """Transport of the weights, and the probe that tests it."""

    backend: str = "shm"
    """shm: shared memory of one machine, any device. nccl: GPUs of one or more machines. ipc: one
    GPU that learner and engines share."""
    delta: bool = False
    """Also write the changes since the last sync, in the engines' dtype, for slow links; see
    docs/clusters.md. shm only."""
    probe_every: int = 10
    """Syncs between two probes; the first sync has one. 0 never probes."""
    probe_tokens: int = 64
    """Length of the probe prompt, in random tokens."""
    probe_tolerance: float = 1e-3
    """Largest |engine - learner| log-prob that the probe accepts, in nats. fp32 needs about 1e-5,
    bf16 about 0.1."""

    def validate(self) -> None:
        if self.backend not in ("shm", "nccl", "ipc"):
            raise ConjointError(
                f"weight_sync.backend={self.backend!r} is unknown; use shm, nccl or ipc"
            )
        if self.delta and self.backend != "shm":
            raise ConjointError(
                f"weight_sync.delta has no effect with weight_sync.backend={self.backend}; use shm"
            )


class PausedSync:
    """Pauses the engines: pause -> send -> load -> resume -> probe if due.

    With `drain` in-flight answers end first. Otherwise they are frozen and continue under the new
    weights.
    """

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
        # Random tokens: the same prompt in every probe, whatever the tokenizer.
        self._probe = [derive_seed(seed, "probe", i) % vocab_size for i in range(cfg.probe_tokens)]
        self._syncs = 0
        self.last_probe_gap = 0.0
        """Largest |engine - learner| log-prob of the last probe."""

    async def __call__(self, learner: "Learner", engine: RolloutEngine, version: int) -> None:
        await engine.pause(drain=self._drain)
        sent = await learner.send_weights(self._sender, version)
        await engine.load_weights(sent, version)
        await engine.resume()
        # The first sync probes too: a wrong transport should stop the run before its first step.
        due = self._cfg.probe_every and self._syncs % self._cfg.probe_every == 0
        self._syncs += 1
        if due:
            await self.probe(learner, engine)

    async def probe(self, learner: "Learner", engine: RolloutEngine) -> None:
        """Raises StopRun if log-probs of engine and learner differ by more than the tolerance."""
        ours = await learner.logprobs(self._probe)
        theirs = await engine.prompt_logprobs(self._probe)
        gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        self.last_probe_gap = gap
        # Not `gap > tolerance`, which is false for NaN.
        if not gap <= self._cfg.probe_tolerance:
            raise StopRun(
                f"after a weight sync the engine's log-probs of the probe prompt differ from the "
                f"learner's by {gap:.3g} (weight_sync.probe_tolerance is "
                f"{self._cfg.probe_tolerance}): "
                "the engine does not use the weights it was sent"
            )
