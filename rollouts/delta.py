"""The change between two versions of the weights, bit for bit, and its way into another copy.

Bytes are compared two at a time: an fp32 weight whose low half alone changed costs two bytes, and
one of bf16 is a unit of its own. A tensor's changes are one bit a unit, set where it changed, then
the changed units: at worst 1/16 more than the tensor itself, 1/16 of it where nothing changed.
"""

import mmap
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rollouts.weights import TensorSpec

Units = NDArray[np.uint16]


def units(buffer: "mmap.mmap | bytearray", spec: TensorSpec) -> Units:
    """The tensor's bytes in a buffer, writable if that is."""
    return np.frombuffer(buffer, np.uint16, spec.nbytes // 2, spec.offset)


def changes(held: Units, fresh: Units) -> bytes:
    """What `apply` needs to make `held` equal `fresh`."""
    changed = held != fresh
    return np.packbits(changed).tobytes() + fresh[changed].tobytes()


def apply(delta: bytes, held: bytearray, tensors: Iterable[TensorSpec]) -> None:
    """Write the changes of all tensors, which follow each other in `delta`, into `held`."""
    at = 0
    for spec in tensors:
        target = units(held, spec)
        width = -(-len(target) // 8)
        bits = np.frombuffer(delta, np.uint8, width, at)
        changed = np.unpackbits(bits, count=len(target)).view(bool)
        count = int(changed.sum())
        target[changed] = np.frombuffer(delta, np.uint16, count, at + width)
        at += width + 2 * count
