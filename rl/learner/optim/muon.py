"""Muon on hidden matrices, AdamW on the rest, with or without ZeRO. Heavy: torch.

For a matrix W [n, m] with gradient G (Kimi K2, arXiv 2507.20534, algorithm 1; Moonlight, arXiv
2502.16982, section 2; Nesterov's form):

    M <- mu M + G
    O  = NewtonSchulz5(G + mu M) * 0.2 sqrt(max(n, m))
    W <- W - lr (O + decay W)

The root mean square of O is about 0.2, which is AdamW's, so that one learning rate and one decay
serve all parameters.

ZeRO hands an optimizer flat pieces of matrices. Momentum and decay act on the pieces; a matrix that
several ranks hold is put together for its Newton-Schulz, which one of them computes for all. So
the update is the same on every stage, and nothing but such a matrix travels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.optim.batched_muon import adamw_, orthogonalise

UPDATE_RMS = 0.2
MOONLIGHT = ((3.4445, -4.7750, 2.0315),) * 5
"""Newton-Schulz coefficients: steep at 0; singular values end between about 0.7 and 1.2."""

_BATCH = 1 << 26
"""Elements that are orthogonalised, or travel, at once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a parameter, or this rank's part of it, lies in a tensor that the optimizer holds."""

    parameter: nn.Parameter
    shape: tuple[int, ...]
    """Full shape of the parameter. ZeRO-3 empties the parameter itself, so its shape is kept."""
    offset: int
    """Elements of the held tensor before it."""
    start: int
    """Which element of the flat parameter is the first one here."""
    length: int
    """Elements of it here; 0 if others have them all."""

    @property
    def numel(self) -> int:
        return int(torch.Size(self.shape).numel())

    def of(self, held: Tensor) -> Tensor:
        """The part of a held tensor, or of one like it, as a flat view [length]."""
        return held.view(-1)[self.offset : self.offset + self.length]


@dataclass(frozen=True, slots=True)
class Layout:
    """All parameters of one held tensor in the order in which every rank lists them."""

    held: Tensor
    pieces: tuple[Piece, ...]
    split: frozenset[int] = frozenset()
    """Indices of those that lie on several ranks: equal on all ranks."""


class Muon(torch.optim.Optimizer):
    """Groups with `muon` true take Muon steps, others AdamW steps. All give lr and weight_decay."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})
        every = [p for group in self.param_groups for p in group["params"]]
        self._hidden = {id(p) for g in self.param_groups if g["muon"] for p in g["params"]}
        self.matrices = len(self._hidden)
        self.layouts = {
            id(p): Layout(p, (Piece(p, tuple(p.shape), 0, 0, p.numel()),)) for p in every
        }
        """By the id of a held tensor. Until ZeRO takes them apart, parameters are held whole."""
        self.row_scales: Mapping[int, Tensor] = {}
        """id of a parameter -> factor of each of its rows [rows], applied after its step."""
        self.calls = 0
        """Matrices that this rank has orthogonalised."""
        self.squares, self.elements = 0.0, 0
        """Sum of O squared over the elements that this rank has updated, and their number."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for held in group["params"]:
                if held.grad is None:
                    continue
                if group["muon"]:
                    self._muon(held, group)
                else:
                    adamw_(held, self.state[held], group)
                self._scale_rows(held)
        return loss

    def muon_layouts(self) -> list[Layout]:
        """Those whose parameters take Muon steps."""
        known = self.layouts.values()
        return [layout for layout in known if id(layout.pieces[0].parameter) in self._hidden]

    def updates(self, direction: Tensor, layout: Layout) -> Iterator[tuple[Piece, Tensor]]:
        """(piece, its part of O [length]) of every matrix that this rank holds a part of.

        `direction` is shaped like the held tensor. Collective if the layout has split matrices.
        """
        local = [p for i, p in enumerate(layout.pieces) if i not in layout.split and p.length]
        for batch in _batches(sorted(local, key=lambda p: p.shape)):
            found = self._orthogonal([p.of(direction).view(p.shape) for p in batch])
            yield from ((p, o.flatten()) for p, o in zip(batch, found, strict=True))
        for batch in _batches([layout.pieces[i] for i in sorted(layout.split)]):
            parts = zip(batch, self._shared(direction, batch), strict=True)
            yield from ((p, o) for p, o in parts if p.length)

    def _muon(self, held: Tensor, group: dict[str, Any]) -> None:
        assert held.grad is not None
        state, mu = self.state[held], group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(held)
        state["momentum"].mul_(mu).add_(held.grad)
        direction = torch.add(held.grad, state["momentum"], alpha=mu)
        held.mul_(1 - group["lr"] * group["weight_decay"])
        for piece, update in self.updates(direction, self.layouts[id(held)]):
            piece.of(held).sub_(update, alpha=group["lr"])
            self.squares += float(update.square().sum(dtype=torch.float64))
            self.elements += piece.length

    def _orthogonal(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """O of each matrix; those of one shape are done in one batch."""
        found: dict[int, Tensor] = {}
        for shape in dict.fromkeys(m.shape for m in matrices):
            same = [i for i, m in enumerate(matrices) if m.shape == shape]
            stack = orthogonalise(torch.stack([matrices[i] for i in same]), MOONLIGHT)
            found.update(zip(same, stack * (UPDATE_RMS * max(shape) ** 0.5), strict=True))
        self.calls += len(matrices)
        return [found[i] for i in range(len(matrices))]

    def _shared(self, direction: Tensor, batch: list[Piece]) -> list[Tensor]:
        """This rank's part of O [length] of matrices that several ranks hold. Collective.

        Each rank fills in what it has, computes its turn of the matrices and shares the result; a
        sum with zeros is exact.
        """
        me = torch.distributed.get_rank()
        world = torch.distributed.get_world_size()
        ends = [0]
        for piece in batch:
            ends.append(ends[-1] + piece.numel)
        buffer = direction.new_zeros(ends[-1])
        views = [buffer[a:b] for a, b in pairwise(ends)]
        for piece, view in zip(batch, views, strict=True):
            view[piece.start : piece.start + piece.length] = piece.of(direction)
        torch.distributed.all_reduce(buffer)
        mine = range(me, len(batch), world)
        found = self._orthogonal([views[i].view(batch[i].shape).clone() for i in mine])
        buffer.zero_()
        for i, update in zip(mine, found, strict=True):
            views[i].copy_(update.flatten())
        torch.distributed.all_reduce(buffer)
        return [v[p.start : p.start + p.length] for p, v in zip(batch, views, strict=True)]

    def _scale_rows(self, held: Tensor) -> None:
        if not self.row_scales:
            return
        for piece in self.layouts[id(held)].pieces:
            rows = self.row_scales.get(id(piece.parameter))
            if rows is not None and piece.length:
                every = rows.to(held).repeat_interleave(piece.numel // len(rows))
                piece.of(held).mul_(every[piece.start : piece.start + piece.length])


def _batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Runs of pieces of at most `_BATCH` elements of their parameters, or of a single one."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        if batch and size + piece.numel > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece.numel
    if batch:
        yield batch


def muon_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Hidden matrices for Muon; embeddings and head, then vectors, for AdamW. Vectors do not decay.

    Call it before DeepSpeed partitions the parameters. Raises ConjointError for a model with stacks
    of matrices (experts in one tensor) or without a hidden matrix.
    """
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    outer = {id(p) for p in [*tables, *(head.parameters() if head is not None else [])]}
    hidden, matrices, vectors = [], [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim > 2:
            raise ConjointError(
                f"optim.name=muon and muonclip take 2-D matrices, and {name} of this model is "
                f"{p.ndim}-D; use optim.name=adamw"
            )
        (vectors if p.ndim < 2 else matrices if id(p) in outer else hidden).append(p)
    if not hidden:
        raise ConjointError("this model has no hidden matrix for Muon; use optim.name=adamw")
    groups = [
        {"params": hidden, "muon": True, "weight_decay": weight_decay},
        {"params": matrices, "muon": False, "weight_decay": weight_decay},
        {"params": vectors, "muon": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
