"""A digest of named tensors, computed on their device; it does not depend on their order.

Hashing on the host would cost a copy of the model. A sum runs at the memory speed of the GPU. The
digest finds damage in transport, but an attacker could forge it.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

_CHUNK = 1 << 24
"""Elements widened to 64 bits at a time, which bounds the extra memory to 256 MiB: two tensors of
128 MiB."""
_MASK = (1 << 64) - 1
# Viewed as integers, equal bits are equal numbers: floats would lose -0.0 and NaN patterns.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class WeightDigest:
    """Sum over all tensors of a * s + b, modulo 2**64.

    s is the sum of x[i] * (2i + 1) over the bit patterns x of the tensor, read as integers. a (odd)
    and b are hashes of the tensor's name, dtype and shape. 2i + 1 and a are odd, hence invertible
    modulo 2**64, so a change of any single element changes the digest.
    """

    def __init__(self) -> None:
        self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add one tensor. Waits for its device, which returns one number to the host."""
        flat = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
        total = torch.zeros((), dtype=torch.int64, device=flat.device)
        for start in range(0, flat.numel(), _CHUNK):
            # int64 arithmetic wraps around on overflow, which is the sum modulo 2**64.
            part = flat[start : start + _CHUNK].to(torch.int64)
            odd = torch.arange(start, start + part.numel(), device=flat.device).mul_(2).add_(1)
            total += part.mul_(odd).sum()
        label = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        key = hashlib.blake2b(label, digest_size=16).digest()
        a, b = int.from_bytes(key[:8], "big") | 1, int.from_bytes(key[8:], "big")
        self._total = (self._total + a * int(total.item()) + b) & _MASK

    def hexdigest(self) -> str:
        """16 hexadecimal digits."""
        return f"{self._total:016x}"


class Tap:
    """Takes the model's place while weights arrive: digests them, then passes them to the model."""

    def __init__(self, model: Any, digest: WeightDigest) -> None:
        self._model = model
        self._digest = digest

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        received = list(weights)
        for name, tensor in received:
            self._digest.add(name, tensor)
        return self._model.load_weights(received)


class Digesting:
    """Mixin for vLLM's weight transfer engines that digests the weights they receive.

    The weights may arrive in several parts. There is a receipt only after all were loaded. Its
    version comes with the update info.
    """

    model: Any
    receipt: dict[str, Any] | None = None
    """Version and digest of the weights that were last loaded completely."""
    _version: int | None = None
    _digest: WeightDigest

    def start_weight_update(self) -> None:
        self.receipt, self._version, self._digest = None, None, WeightDigest()
        super().start_weight_update()  # pyright: ignore[reportAttributeAccessIssue]

    def receive_weights(self, update_info: Any) -> None:
        model = self.model
        self.model = Tap(model, self._digest)
        try:
            super().receive_weights(update_info)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            self.model = model
        self._version = update_info.version

    def finish_weight_update(self) -> None:
        assert self._version is not None, "finish_weight_update without update_weights"
        super().finish_weight_update()  # pyright: ignore[reportAttributeAccessIssue]
        self.receipt = {"version": self._version, "checksum": self._digest.hexdigest()}
