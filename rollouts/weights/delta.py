"""The change between two versions of the weights, bit for bit, and its way into another copy.

Bytes are compared two at a time: an fp32 weight whose low half alone changed costs two bytes, and
one of bf16 is a unit of its own. A tensor's changes are one bit a unit, set where it changed and
deflated, then the changed units.
"""

import mmap
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from conjoint.rollouts.weights.manifest import TensorSpec

Units = NDArray[np.uint16]


def units(buffer: "mmap.mmap | bytearray", spec: TensorSpec) -> Units:
    """The tensor's bytes in a buffer, writable if that is."""
    return np.frombuffer(buffer, np.uint16, spec.nbytes // 2, spec.offset)


def changes(held: Units, fresh: Units) -> bytes:
    """What `apply` needs to make `held` equal `fresh`."""
    changed = held != fresh
    bits = zlib.compress(np.packbits(changed).tobytes(), level=1)
    return len(bits).to_bytes(8, "little") + bits + fresh[changed].tobytes()


def apply(delta: bytes, held: bytearray, tensors: Iterable[TensorSpec]) -> None:
    """Write the changes of all tensors, which follow each other in `delta`, into `held`."""
    at = 0
    for spec in tensors:
        target = units(held, spec)
        width = int.from_bytes(delta[at : at + 8], "little")
        at += 8
        bits = np.frombuffer(zlib.decompress(delta[at : at + width]), np.uint8)
        changed = np.unpackbits(bits, count=len(target)).view(bool)
        count = int(changed.sum())
        target[changed] = np.frombuffer(delta, np.uint16, count, at + width)
        at += width + 2 * count
