"""A digest of named tensors, computed where they live: equal for equal weights in any order.

Bytes hashed on the host would cost a copy of the model; a sum runs at the memory speed of a GPU.
Not cryptographic: it finds what a transfer breaks, not what an attacker forges.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

_CHUNK = 1 << 24
"""Elements widened to 64 bits at a time, which bounds the extra memory to 256 MiB."""
_MASK = (1 << 64) - 1
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class WeightDigest:
    """The sum, modulo 2**64, of a*s + b over all tensors: s is the sum of x[i] * (2i + 1) over the
    tensor's bit patterns x, and a (odd) and b are drawn from its name, type and shape.

    2i + 1 and a are odd, hence invertible modulo 2**64: any one changed element changes the digest.
    """

    def __init__(self) -> None:
        self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Waits for the device: one number a tensor comes back to the host."""
        flat = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
        total = torch.zeros((), dtype=torch.int64, device=flat.device)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK].to(torch.int64)
            odd = torch.arange(start, start + part.numel(), device=flat.device).mul_(2).add_(1)
            total += part.mul_(odd).sum()
        label = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        key = hashlib.blake2b(label, digest_size=16).digest()
        a, b = int.from_bytes(key[:8], "big") | 1, int.from_bytes(key[8:], "big")
        self._total = (self._total + a * int(total.item()) + b) & _MASK

    def hexdigest(self) -> str:
        return f"{self._total:016x}"


class Tap:
    """Stands in for the model while weights arrive: digests them, then hands them on."""

    def __init__(self, model: Any, digest: WeightDigest) -> None:
        self._model = model
        self._digest = digest

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        received = list(weights)
        for name, tensor in received:
            self._digest.add(name, tensor)
        return self._model.load_weights(received)


class Digesting:
    """Mixed into a weight transfer engine of vLLM's: digests what arrives, in one part or several,
    and answers only when it was loaded to the end. The update info carries the version."""

    model: Any
    receipt: dict[str, Any] | None = None
    """Version and digest of the weights last loaded to the end."""
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
