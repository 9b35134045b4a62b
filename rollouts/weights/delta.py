"""The exact difference between two versions of the weights, and its application to a copy.

The unit is two bytes: a bf16 weight is one unit, an fp32 weight two, of which often only the low
half changes. The delta of a tensor is the length of its bit mask (8 bytes, little endian), the
deflated mask with one bit for each unit, set where the unit changed, and then the changed units.
"""

import mmap
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from conjoint.rollouts.weights.manifest import TensorSpec

Units = NDArray[np.uint16]


def units(buffer: "mmap.mmap | bytearray", spec: TensorSpec) -> Units:
    """The units of one tensor: a view into `buffer`, writable if the buffer is."""
    return np.frombuffer(buffer, np.uint16, spec.nbytes // 2, spec.offset)


def changes(held: Units, fresh: Units) -> bytes:
    """The delta of one tensor, from which `apply` makes `held` equal `fresh`."""
    changed = held != fresh
    bits = zlib.compress(np.packbits(changed).tobytes(), level=1)
    # `apply` counts the set bits, so the number of changed units need not be stored.
    return len(bits).to_bytes(8, "little") + bits + fresh[changed].tobytes()


def apply(delta: bytes, held: bytearray, tensors: Iterable[TensorSpec]) -> None:
    """Apply the deltas of all `tensors`, concatenated in their order, to `held` in place."""
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
