"""A transport's sending side: what it is given and what it answers."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from conjoint.rollouts.weights.manifest import Sent

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class WeightMeta:
    """One parameter as vLLM's `ParamMeta` describes it; the shape is that of the full tensor."""

    name: str
    dtype: "torch.dtype"
    shape: tuple[int, ...]


class Weights(Protocol):
    """(Hugging Face name, full tensor) pairs. Each iteration is a fresh pass, which may be
    collective: every learner rank makes the same passes."""

    def __iter__(self) -> Iterator[tuple[str, "torch.Tensor"]]: ...

    def metadata(self) -> list[WeightMeta]:
        """What an iteration gives, in its order, known without one."""
        ...


class Sender(Protocol):
    """A transport. Travels to the learner's rank 0, where the first of equal ones stays."""

    def send(self, weights: Weights, version: int) -> Sent: ...


def free_port() -> int:
    """A port that was free a moment ago; the caller must take it soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
