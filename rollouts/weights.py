"""How weights travel through shared memory: the manifest, and the buffer both sides map.

The learner writes every tensor into one file in /dev/shm and describes it in a `Manifest`; an
engine maps the same file, checks the bytes against the checksum *before* it touches its model, and
answers with version and checksum. One warm buffer serves the whole run: a cold one is about
twenty times slower to write (first touch of every page).
"""

import hashlib
import mmap
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class TensorSpec:
    name: str
    """Hugging Face parameter name."""
    shape: tuple[int, ...]
    dtype: str
    """torch dtype without its prefix, such as float32."""
    offset: int
    """Bytes from the start of the buffer."""
    nbytes: int


class Sent(Protocol):
    """What a sender answers, for `load_weights` of the engines."""

    @property
    def checksum(self) -> str: ...

    def update_info(self) -> dict[str, Any] | None:
        """What an engine must be told to load the weights; None if it was told by the sender."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engines already hold the weights; they are only asked what they received."""

    checksum: str

    def update_info(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What lies in the buffer. `checksum` is of the bytes [0, nbytes)."""

    path: str
    version: int
    checksum: str
    nbytes: int
    tensors: tuple[TensorSpec, ...]

    def update_info(self) -> dict[str, Any]:
        return {"manifest": asdict(self)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Manifest":
        tensors = tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"])
        return Manifest(**{**data, "tensors": tensors})


class SharedBuffer:
    """A file in shared memory mapped into this process."""

    def __init__(self, path: str, nbytes: int, *, create: bool) -> None:
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        fd = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(fd, nbytes)
            self.view = mmap.mmap(fd, nbytes)
        finally:
            os.close(fd)
        self.path = path
        self.nbytes = nbytes

    def checksum(self, nbytes: int) -> str:
        return hashlib.blake2b(memoryview(self.view)[:nbytes], digest_size=16).hexdigest()


class Receiver:
    """An engine's side of the buffer; maps it once."""

    def __init__(self) -> None:
        self._buffer: SharedBuffer | None = None

    def receive(self, manifest: Manifest) -> list[tuple[str, "torch.Tensor"]]:
        """Named views of the buffer. Raises RuntimeError if the bytes are not those sent."""
        if self._buffer is None or self._buffer.path != manifest.path:
            self._buffer = SharedBuffer(manifest.path, manifest.nbytes, create=False)
        received = self._buffer.checksum(manifest.nbytes)
        if received != manifest.checksum:
            raise RuntimeError(
                f"weights of version {manifest.version} arrived damaged: checksum {received}, "
                f"sent {manifest.checksum}"
            )
        return [(spec.name, _view(self._buffer, spec)) for spec in manifest.tensors]


def _view(buffer: SharedBuffer, spec: TensorSpec) -> "torch.Tensor":
    import torch

    dtype = getattr(torch, spec.dtype)
    count = spec.nbytes // dtype.itemsize
    flat = torch.frombuffer(buffer.view, dtype=dtype, count=count, offset=spec.offset)
    return flat.view(spec.shape)


def buffer_path(run: str) -> str:
    """A name in shared memory that tells which process made it, so leftovers can be swept."""
    return f"/dev/shm/conjoint-{os.getpid()}-{run}"


def sweep_buffers() -> None:
    """Remove buffers whose maker is dead (it was killed before it could)."""
    for leftover in Path("/dev/shm").glob("conjoint-*-*"):
        pid = leftover.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove_buffers(int(pid))


def remove_buffers(maker: int) -> None:
    """Remove the buffers that one process made."""
    for buffer in Path("/dev/shm").glob(f"conjoint-{maker}-*"):
        buffer.unlink(missing_ok=True)
