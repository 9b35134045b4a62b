"""The buffer in shared memory through which weights travel; learner and engines map it.

The learner writes all tensors into one file in /dev/shm and describes it in a `Manifest`. An engine
maps the same file and compares the bytes with the checksum *before* it touches its model. The whole
run uses one buffer: writing to a new one is about twenty times slower, because the kernel must
first provide each page.
"""

import contextlib
import mmap
import os
import secrets
import stat
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
"""Bytes that one thread hashes at a time. Part of the checksum, so equal on both sides."""


class SharedBuffer:
    """A file in shared memory mapped into this process. It is a new one with `create`, and
    otherwise one that this user has made; OSError if it is not."""

    def __init__(self, path: str, nbytes: int, *, create: bool) -> None:
        fd = create_own(path) if create else open_own(path)
        try:
            if create:
                os.ftruncate(fd, nbytes)
            self.view = mmap.mmap(fd, nbytes)
        finally:
            os.close(fd)
        self.path = path
        self.nbytes = nbytes

    def write(self, parts: "Iterable[tuple[int, torch.Tensor]]", nbytes: int) -> str:
        """Write `parts`, pairs of an offset and bytes (uint8 [n], on any device), into the buffer.

        Returns the checksum of the first `nbytes` bytes.
        """
        target = np.frombuffer(self.view, np.uint8)
        pieces: list[list[tuple[slice, torch.Tensor]]] = [[] for _ in range(0, nbytes, _CHUNK)]
        # Cut at chunk borders: the thread that fills a chunk then hashes it while it is in cache.
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
        """Checksum of the first `nbytes` bytes, as they are now."""
        return checksum(self.view, nbytes)


def checksum(
    held: "mmap.mmap | bytearray", nbytes: int, before: Callable[[int], None] | None = None
) -> str:
    """XXH3 of the XXH3 digests of all chunks of the first `nbytes` bytes, computed on all cores.

    `before` is called with the number of each chunk before it is hashed. The checksum runs at the
    speed of memory. It finds damage in transport, but an attacker could forge it.
    """
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
    """The engine's side of the buffer, which it maps once."""

    def __init__(self) -> None:
        self._buffer: SharedBuffer | None = None
        self._copy = bytearray()
        """Copy of the weights that the next delta is applied to."""
        self._version: int | None = None
        """Version of the copy; None if there is no valid copy."""

    def receive(self, manifest: Manifest) -> list[tuple[str, "torch.Tensor"]]:
        """Views of the weights by name. Raises RuntimeError if the checksum does not match."""
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
        """The copy, brought to the manifest's version by its delta if the base version matches, and
        otherwise by copying the whole buffer."""
        assert manifest.delta is not None
        # Without a version until the checksum matches: a half-written copy is no base for a delta.
        base, self._version = self._version, None
        if base is None or base != manifest.delta.base:
            self._copy[:] = memoryview(buffer.view)[: manifest.nbytes]
            return self._copy
        from conjoint.rollouts.weights.delta import apply

        with open(open_own(manifest.delta.path), "rb") as file:
            apply(file.read(), self._copy, manifest.tensors)
        return self._copy


def _tensor(held: "mmap.mmap | bytearray", spec: TensorSpec) -> "torch.Tensor":
    import torch

    dtype = getattr(torch, spec.dtype)
    count = spec.nbytes // dtype.itemsize
    flat = torch.frombuffer(held, dtype=dtype, count=count, offset=spec.offset)
    return flat.view(spec.shape)


def create_own(path: str) -> int:
    """Descriptor of a new file, for this user alone. Everybody may write into /dev/shm, so whatever
    has this name already, a link too, is refused with FileExistsError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def open_own(path: str) -> int:
    """Descriptor of a file that this user has made. PermissionError if another has, OSError for a
    link."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise PermissionError(f"{path} is not a file of this user")
    return fd


def buffer_path(run: str) -> str:
    """Path of a new buffer of a run. It contains the id of this process, for `sweep_buffers`, and
    nobody can know it before."""
    return f"/dev/shm/conjoint-{os.getpid()}-{secrets.token_hex(8)}-{run}"


def sweep_buffers() -> None:
    """Remove the buffers of dead processes, which were killed before they could remove them."""
    for leftover in Path("/dev/shm").glob("conjoint-*-*"):
        pid = leftover.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove_buffers(int(pid))


def remove_buffers(maker: int) -> None:
    """Remove the buffers that the process with id `maker` made."""
    for buffer in Path("/dev/shm").glob(f"conjoint-{maker}-*"):
        # What others have put there under such a name is not ours to remove, and no obstacle.
        with contextlib.suppress(OSError):
            if buffer.lstat().st_uid == os.geteuid():
                buffer.unlink()
