"""What a sender tells the engines: which tensors travel, where they lie, their checksum."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

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
    """What lies in the buffer: the weights, whole. `checksum` is of the bytes [0, nbytes)."""

    path: str
    version: int
    checksum: str
    nbytes: int
    tensors: tuple[TensorSpec, ...]
    delta: "Delta | None" = None
    """Another way to the same bytes, from a copy of earlier ones."""

    def update_info(self) -> dict[str, Any]:
        return {"manifest": asdict(self)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Manifest":
        tensors = tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"])
        delta = data["delta"] and Delta(**data["delta"])
        return Manifest(**{**data, "tensors": tensors, "delta": delta})


@dataclass(frozen=True, slots=True)
class Delta:
    """A file of changes, see `rollouts/weights/delta.py`."""

    path: str
    base: int | None
    """The version that the changes are against; None: there is no file yet."""
    nbytes: int
