"""How weights travel through shared memory: the manifest, and the buffer both sides map.

The learner writes every tensor into one file in /dev/shm and describes it in a `Manifest`; an
engine maps the same file, checks the bytes against the checksum *before* it touches its model, and
answers with version and checksum. One warm buffer serves the whole run: a cold one is about
twenty times slower to write (first touch of every page).
"""

import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from conjoint.rollouts.weights.manifest import Manifest, TensorSpec

if TYPE_CHECKING:
    import torch

_CHUNK = 16 << 20
"""Bytes that one thread hashes at a time; both sides must use the same."""


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

    def write(self, parts: "Iterable[tuple[int, torch.Tensor]]", nbytes: int) -> str:
        """Put bytes (uint8 [N], on any device) at their offsets; returns the checksum of the first
        `nbytes`. A chunk is hashed by the thread that has filled it."""
        target = np.frombuffer(self.view, np.uint8)
        pieces: list[list[tuple[slice, torch.Tensor]]] = [[] for _ in range(0, nbytes, _CHUNK)]
        for offset, part in parts:
            at, end = offset, offset + len(part)
            while at < end:
                stop = min(end, (at // _CHUNK + 1) * _CHUNK)
                pieces[at // _CHUNK].append((slice(at, stop), part[at - offset : stop - offset]))
                at = stop

        def fill(chunk: int) -> None:
            for place, piece in pieces[chunk]:
                target[place] = piece.cpu().numpy()

        return checksum(self.view, nbytes, before=fill)

    def checksum(self, nbytes: int) -> str:
        return checksum(self.view, nbytes)


def checksum(
    held: "mmap.mmap | bytearray", nbytes: int, before: Callable[[int], None] | None = None
) -> str:
    """XXH3 over the XXH3 of each chunk of the first `nbytes` bytes, all cores at work. `before` is
    given a chunk's number before it is hashed. Not cryptographic: it finds what a transfer breaks,
    at the speed of memory."""
    view = memoryview(held)[:nbytes]

    def digest(chunk: int) -> bytes:
        if before is not None:
            before(chunk)
        return xxhash.xxh3_128_digest(view[chunk * _CHUNK : (chunk + 1) * _CHUNK])

    # Copying and hashing drop the GIL.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        digests = threads.map(digest, range(-(-nbytes // _CHUNK)))
        return xxhash.xxh3_128_hexdigest(b"".join(digests))


class Receiver:
    """An engine's side of the buffer; maps it once."""

    def __init__(self) -> None:
        self._buffer: SharedBuffer | None = None
        self._copy = bytearray()
        """Of the weights, for the next delta."""
        self._version: int | None = None
        """Of that copy; None: there is none to build on."""

    def receive(self, manifest: Manifest) -> list[tuple[str, "torch.Tensor"]]:
        """Named views of the weights. Raises RuntimeError if the bytes are not those sent."""
        if self._buffer is None or self._buffer.path != manifest.path:
            self._buffer = SharedBuffer(manifest.path, manifest.nbytes, create=False)
        held = self._updated(manifest, self._buffer) if manifest.delta else self._buffer.view
        received = checksum(held, manifest.nbytes)
        if received != manifest.checksum:
            raise RuntimeError(
                f"weights of version {manifest.version} arrived damaged: checksum {received}, "
                f"sent {manifest.checksum}"
            )
        self._version = manifest.version if manifest.delta else None
        return [(spec.name, _tensor(held, spec)) for spec in manifest.tensors]

    def _updated(self, manifest: Manifest, buffer: SharedBuffer) -> bytearray:
        """Our copy with the changes applied, or made anew where they are against another one."""
        assert manifest.delta is not None
        base, self._version = self._version, None
        if base is None or base != manifest.delta.base:
            self._copy[:] = memoryview(buffer.view)[: manifest.nbytes]
            return self._copy
        from conjoint.rollouts.weights.delta import apply

        apply(Path(manifest.delta.path).read_bytes(), self._copy, manifest.tensors)
        return self._copy


def _tensor(held: "mmap.mmap | bytearray", spec: TensorSpec) -> "torch.Tensor":
    import torch

    dtype = getattr(torch, spec.dtype)
    count = spec.nbytes // dtype.itemsize
    flat = torch.frombuffer(held, dtype=dtype, count=count, offset=spec.offset)
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
