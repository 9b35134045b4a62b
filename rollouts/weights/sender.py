"""The interface of a transport's sending side. Each sender has a receiver beside it."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from conjoint.rollouts.weights.manifest import Sent

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class WeightMeta:
    """One parameter, in the form of vLLM's `ParamMeta`. `shape` is that of the full tensor."""

    name: str
    dtype: "torch.dtype"
    shape: tuple[int, ...]


class Weights(Protocol):
    """The learner's weights, as pairs (Hugging Face name, full tensor).

    An iteration may be collective. Every learner rank then makes the same passes, to the end.
    """

    def __iter__(self) -> Iterator[tuple[str, "torch.Tensor"]]: ...

    def metadata(self) -> list[WeightMeta]:
        """Name, dtype and shape of each tensor, in the order of an iteration. Not collective."""
        ...


class Sender(Protocol):
    """A transport of weights.

    Each sync passes the sender to the process of learner rank 0, which keeps the first of equal
    senders: an open buffer or connection lasts from sync to sync.
    """

    def send(self, weights: Weights, version: int) -> Sent: ...


def free_port() -> int:
    """A TCP port that was free just now. Take it at once: another process may do so too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
