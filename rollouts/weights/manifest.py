"""Messages from a sender to the engines: the tensors of a version, their places, their checksum."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

ALIGNMENT = 64
"""Each tensor begins at a multiple of this many bytes."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type and place of one tensor in the buffer."""

    name: str
    """Hugging Face parameter name."""
    shape: tuple[int, ...]
    dtype: str
    """torch dtype without the prefix `torch.`, such as float32."""
    offset: int
    """Bytes from the start of the buffer."""
    nbytes: int


class Sent(Protocol):
    """Result of a sender, which `RolloutEngine.load_weights` takes."""

    @property
    def checksum(self) -> str:
        """Checksum of the weights, which each engine must confirm."""
        ...

    def update_info(self) -> dict[str, Any] | None:
        """Arguments with which an engine loads the weights; None if the sender has loaded them."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A `Sent` for weights that the engines have loaded already and only confirm."""

    checksum: str

    def update_info(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a buffer that holds all weights of one version."""

    path: str
    """File of the buffer."""
    version: int
    checksum: str
    """Checksum of the first `nbytes` bytes (`buffer.checksum`)."""
    nbytes: int
    tensors: tuple[TensorSpec, ...]
    delta: "Delta | None" = None
    """Changes that make the same bytes from a copy of an earlier version; None without deltas."""

    def update_info(self) -> dict[str, Any]:
        return {"manifest": asdict(self)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Manifest":
        tensors = tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"])
        delta = data["delta"] and Delta(**data["delta"])
        return Manifest(**{**data, "tensors": tensors, "delta": delta})


@dataclass(frozen=True, slots=True)
class Delta:
    """A file of changes between two versions, see `rollouts/weights/delta.py`."""

    path: str
    base: int | None
    """Version that the changes start from; None if there is no file yet."""
    nbytes: int
    """Size of the file."""
