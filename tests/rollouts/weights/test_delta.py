"""Delta sync: bit for bit what a full send gives, from the changed bits alone, and a full send
wherever there is nothing to build on."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoint.rollouts.weights.buffer import Receiver, SharedBuffer
from conjoint.rollouts.weights.delta import apply, changes
from conjoint.rollouts.weights.manifest import Manifest, TensorSpec
from conjoint.rollouts.weights.shm_sender import SharedMemorySender

SIZES = {"head": (40, 16), "odd": (13,), "scalar": (1,), "norm": (16,)}


def weights(version: int, share: float = 0.1) -> dict[str, torch.Tensor]:
    """fp32 weights of which a share moves a little with each version."""
    torch.manual_seed(0)
    named = {name: torch.randn(shape) for name, shape in SIZES.items()}
    for step in range(version):
        torch.manual_seed(step + 1)
        for tensor in named.values():
            tensor += (torch.rand_like(tensor) < share) * torch.randn_like(tensor)
    return named


class Link:
    """A learner's sender and an engine's receiver of which each message goes through a pickle."""

    def __init__(self, folder: Path, dtype: str = "bfloat16") -> None:
        self.sender = SharedMemorySender(str(folder / "buffer"), dtype)
        self.engine = Receiver()

    def send(self, version: int, named: dict[str, torch.Tensor] | None = None) -> Manifest:
        return self.sender.send((named or weights(version)).items(), version)

    def receive(self, sent: Manifest, engine: Receiver | None = None) -> dict[str, torch.Tensor]:
        info: Any = pickle.loads(pickle.dumps(sent.update_info()))
        received = (engine or self.engine).receive(Manifest.from_dict(info["manifest"]))
        return {name: tensor.clone() for name, tensor in received}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n].view(torch.uint8), b[n].view(torch.uint8))
        for n in a
    )


def hide_weights(sent: Manifest) -> None:
    """The buffer holds nothing that an engine could read."""
    write(sent, bytes(sent.nbytes))


def write(sent: Manifest, whole: bytes) -> None:
    with open(sent.path, "r+b") as file:
        file.write(whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_engine_holds_the_bits_of_a_full_send_and_reads_the_changes_alone(
    tmp_path: Path, dtype: str
):
    link = Link(tmp_path, dtype)
    for version in range(5):
        sent = link.send(version)
        whole = {n: t.to(getattr(torch, dtype)) for n, t in weights(version).items()}
        full = SharedMemorySender(str(tmp_path / f"full-{version}")).send(whole.items(), version)
        assert sent.checksum == full.checksum
        assert sent.delta is not None and sent.delta.base == (version - 1 if version else None)
        if not version:
            received = link.receive(sent)
        else:
            kept = Path(sent.path).read_bytes()
            hide_weights(sent)
            received = link.receive(sent)
            write(sent, kept)
        assert same_bits(received, whole)


@pytest.mark.parametrize(("share", "most"), [(0.0, 0.001), (0.01, 0.03), (0.1, 0.15), (1.0, 1.001)])
def test_what_travels_is_little_more_than_what_changed(tmp_path: Path, share: float, most: float):
    link, named = Link(tmp_path), {"w": torch.randn(100_000)}
    link.send(0, named)
    moved = torch.rand(100_000) < share
    sent = link.send(1, {"w": named["w"] + moved})
    assert sent.delta is not None
    assert Path(sent.delta.path).stat().st_size == sent.delta.nbytes
    changed = 2 * int(moved.sum())
    assert changed < sent.delta.nbytes + 1 and sent.delta.nbytes <= most * sent.nbytes


def test_steps_too_small_for_bf16_do_not_travel(tmp_path: Path):
    link, named = Link(tmp_path), {"w": torch.randn(100_000)}
    link.send(0, named)
    sent = link.send(1, {"w": named["w"] * (1 + 1e-5)})
    assert sent.delta is not None and sent.delta.nbytes < 0.02 * sent.nbytes


def test_an_engine_without_the_base_loads_the_whole(tmp_path: Path):
    """A replaced worker, and one that missed a version."""
    link = Link(tmp_path)
    link.receive(link.send(0))
    link.send(1)
    sent = link.send(2)
    whole = {n: t.to(torch.bfloat16) for n, t in weights(2).items()}
    late, new = link.receive(sent), Receiver()
    assert same_bits(late, whole) and same_bits(link.receive(sent, new), whole)
    sent = link.send(3)
    hide_weights(sent)
    whole = {n: t.to(torch.bfloat16) for n, t in weights(3).items()}
    assert same_bits(link.receive(sent), whole) and same_bits(link.receive(sent, new), whole)


def test_a_damaged_delta_is_refused_and_the_engine_starts_from_the_whole(tmp_path: Path):
    link = Link(tmp_path)
    link.receive(link.send(0))
    sent = link.send(1)
    assert sent.delta is not None
    path = Path(sent.delta.path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RuntimeError, match="version 1 arrived damaged"):
        link.receive(sent)
    assert same_bits(link.receive(sent), {n: t.to(torch.bfloat16) for n, t in weights(1).items()})


def test_after_a_send_that_broke_off_everything_is_sent(tmp_path: Path, monkeypatch):
    link = Link(tmp_path)
    link.receive(link.send(0))
    whole = SharedBuffer.write

    def half(buffer: SharedBuffer, parts: Iterable[Any], nbytes: int) -> str:
        whole(buffer, list(parts)[:2], nbytes)
        raise OSError("half is written")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="half is written"):
        patch.setattr(SharedBuffer, "write", half)
        link.send(1)
    sent = link.send(2)
    assert sent.delta is not None
    assert same_bits(link.receive(sent), {n: t.to(torch.bfloat16) for n, t in weights(2).items()})


def test_a_restarted_sender_sends_everything(tmp_path: Path):
    link = Link(tmp_path)
    link.receive(link.send(4))
    (tmp_path / "again").mkdir()
    again = Link(tmp_path / "again")
    sent = again.send(5)
    assert sent.delta is not None and sent.delta.base is None
    whole = {n: t.to(torch.bfloat16) for n, t in weights(5).items()}
    assert same_bits(link.receive(sent), whole)


UNITS = st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(UNITS, st.randoms(use_true_random=False)), min_size=1, max_size=4))
def test_changes_lead_from_any_bits_to_any_others(tensors: list[tuple[list[int], Any]]):
    specs, held, fresh, delta = [], bytearray(), bytearray(), b""
    for i, (values, random) in enumerate(tensors):
        old = np.array(values, np.uint16)
        new = np.array([v if random.random() < 0.7 else random.getrandbits(16) for v in values])
        new = new.astype(np.uint16)
        specs.append(TensorSpec(str(i), (len(old),), "bfloat16", len(held), 2 * len(old)))
        held += old.tobytes()
        fresh += new.tobytes()
        delta += changes(old, new)
    apply(delta, held, specs)
    assert held == fresh
