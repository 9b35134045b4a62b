"""The learner's side of weight transfer by shared memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conjoint.rollouts.weights.buffer import SharedBuffer, create_own
from conjoint.rollouts.weights.manifest import ALIGNMENT, Delta, Manifest, TensorSpec

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class SharedMemorySender:
    """Writes named tensors into one shared buffer and, with `delta`, their changes into a file."""

    path: str
    """File of the buffer."""
    delta: str | None = None
    """torch dtype of the engines: the weights are cast to it before versions are compared. None
    sends the weights as they are, without a delta."""
    _buffer: SharedBuffer | None = field(default=None, init=False, compare=False, repr=False)
    _version: int | None = field(default=None, init=False, compare=False, repr=False)
    """Version of the weights in the buffer; None if it does not hold a complete version."""

    def send(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> Manifest:
        """Write the weights into the buffer; returns its manifest."""
        import torch

        cast = getattr(torch, self.delta) if self.delta else None
        tensors = [(name, tensor.detach().to(cast)) for name, tensor in weights]
        specs, end = [], 0
        for name, tensor in tensors:
            nbytes = tensor.numel() * tensor.element_size()
            dtype = str(tensor.dtype).removeprefix("torch.")
            specs.append(TensorSpec(name, tuple(tensor.shape), dtype, end, nbytes))
            # Rounded up: the engine views each tensor in place, which needs aligned memory.
            end = -(-(end + nbytes) // ALIGNMENT) * ALIGNMENT
        if self._buffer is None:
            self._buffer = SharedBuffer(self.path, end, create=True)
        # Before the buffer is overwritten: it holds the version that the delta starts from.
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
        """Write the differences from the buffer, which holds the last version sent, into a file."""
        import torch

        from conjoint.rollouts.weights.delta import changes, units

        path, nbytes = f"{self.path}.delta", 0
        if self._buffer is None or self._version is None:
            return Delta(path, None, 0)
        Path(path).unlink(missing_ok=True)  # that of the version before
        with open(create_own(path), "wb") as file:
            for spec, (_, tensor) in zip(specs, tensors, strict=True):
                fresh = tensor.contiguous().view(-1).view(torch.uint16).cpu().numpy()
                nbytes += file.write(changes(units(self._buffer.view, spec), fresh))
        return Delta(path, self._version, nbytes)
