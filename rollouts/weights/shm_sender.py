"""Learner -> engines through one warm buffer in shared memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conjoint.rollouts.weights.buffer import SharedBuffer
from conjoint.rollouts.weights.manifest import ALIGNMENT, Delta, Manifest, TensorSpec

if TYPE_CHECKING:
    import torch


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

        from conjoint.rollouts.weights.delta import changes, units

        path, nbytes = f"{self.path}.delta", 0
        if self._buffer is None or self._version is None:
            return Delta(path, None, 0)
        with open(path, "wb") as file:
            for spec, (_, tensor) in zip(specs, tensors, strict=True):
                fresh = tensor.contiguous().view(-1).view(torch.uint16).cpu().numpy()
                nbytes += file.write(changes(units(self._buffer.view, spec), fresh))
        return Delta(path, self._version, nbytes)
