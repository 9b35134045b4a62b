"""Learner -> engines. A sync ends when every engine has answered with version and checksum.

The order is the contract: the engines are paused (no request runs), the learner writes the weights,
each engine verifies, loads and answers, and the probe compares log-probs where it is due; only then
does the caller sample again. A checksum proves transport, not use; the probe proves use.

Transports are senders: `SharedMemorySender` here, `NcclSender` in `rl/nccl_sync.py`, `IpcSender` in
`rl/ipc_sync.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rl.types import ConjointError, StopRun, derive_seed
from rollouts.engine import RolloutEngine
from rollouts.weights import ALIGNMENT, Delta, Manifest, Sent, SharedBuffer, TensorSpec

if TYPE_CHECKING:
    import torch

    from rl.learner import Learner


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


@dataclass(frozen=True, slots=True)
class WeightMeta:
    """One parameter as vLLM's `ParamMeta` describes it; the shape is that of the full tensor."""

    name: str
    dtype: "torch.dtype"
    shape: tuple[int, ...]


class Weights(Protocol):
    """(Hugging Face name, full tensor) pairs. Each iteration is a fresh pass, which may be
    collective: every learner rank makes the same passes."""

    def __iter__(self) -> Iterator[tuple[str, "torch.Tensor"]]: ...

    def metadata(self) -> list[WeightMeta]:
        """What an iteration gives, in its order, known without one."""
        ...


class Sender(Protocol):
    """A transport. Travels to the learner's rank 0, where the first of equal ones stays."""

    def send(self, weights: Weights, version: int) -> Sent: ...


@dataclass(slots=True)
class SharedMemorySender:
    """Writes named tensors into one warm shared buffer; with `delta`, what changed into a file."""

    path: str
    delta: str | None = None
    """torch dtype of the engines, which the weights are cast to before they are compared; None
    sends them as they are, and no delta."""
    _buffer: SharedBuffer | None = field(default=None, init=False, compare=False, repr=False)
    _version: int | None = field(default=None, init=False, compare=False, repr=False)
    """Of what lies in the buffer."""

    def send(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> Manifest:
        """Returns the manifest of what now lies in the buffer."""
        import torch

        cast = getattr(torch, self.delta) if self.delta else None
        tensors = [(name, tensor.detach().to(cast)) for name, tensor in weights]
        specs, end = [], 0
        for name, tensor in tensors:
            nbytes = tensor.numel() * tensor.element_size()
            dtype = str(tensor.dtype).removeprefix("torch.")
            specs.append(TensorSpec(name, tuple(tensor.shape), dtype, end, nbytes))
            end = -(-(end + nbytes) // ALIGNMENT) * ALIGNMENT
        if self._buffer is None:
            self._buffer = SharedBuffer(self.path, end, create=True)
        delta = self._write_delta(specs, tensors) if self.delta else None
        self._version = None  # until the buffer is whole again
        parts = (
            (spec.offset, tensor.contiguous().view(-1).view(torch.uint8))
            for spec, (_, tensor) in zip(specs, tensors, strict=True)
        )
        checksum = self._buffer.write(parts, end)
        self._version = version
        return Manifest(self.path, version, checksum, end, tuple(specs), delta)

    def _write_delta(
        self, specs: list[TensorSpec], tensors: "list[tuple[str, torch.Tensor]]"
    ) -> Delta:
        """Write what differs from the buffer, which holds the version sent last."""
        import torch

        from rollouts.delta import changes, units

        path, nbytes = f"{self.path}.delta", 0
        if self._buffer is None or self._version is None:
            return Delta(path, None, 0)
        with open(path, "wb") as file:
            for spec, (_, tensor) in zip(specs, tensors, strict=True):
                fresh = tensor.contiguous().view(-1).view(torch.uint16).cpu().numpy()
                nbytes += file.write(changes(units(self._buffer.view, spec), fresh))
        return Delta(path, self._version, nbytes)


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
