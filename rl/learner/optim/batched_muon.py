"""Muon for a small model on a CPU: matrices of one shape are orthogonalised in one batch, in fp32.

torch.optim.Muon works in bf16 and one matrix at a time, which a CPU without bf16 hardware runs tens
of times slower. Matrices of the hidden layers take Muon steps; every other parameter AdamW.
`rl/learner/optim/muon.py`, the learner's, uses the same two kernels.
"""

from collections import defaultdict
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Coefficients = Sequence[tuple[float, float, float]]
"""(a, b, c) of each Newton-Schulz iteration x <- a x + b (x x^T) x + c (x x^T)^2 x."""

# Five iterations of Polar Express (arXiv 2505.16932).
POLAR_EXPRESS: Coefficients = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalise(matrices: Tensor, coefficients: Coefficients = POLAR_EXPRESS) -> Tensor:
    """The nearest orthogonal matrices, about, of a stack [n, rows, columns].

    Each iteration multiplies x by a polynomial of its Gram matrix. All of them commute, so they are
    gathered on the small side and x is multiplied once.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], dtype=x.dtype, device=x.device)
    product = identity.expand_as(gram)
    for a, b, c in coefficients:
        factor = a * identity + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x if wide else x.mT


class MuonAdamW(torch.optim.Optimizer):
    """Muon with Nesterov momentum on hidden matrices, AdamW on embeddings, heads and norms.

    A Muon step has the length lr * sqrt(max(1, rows / columns)) in spectral norm.
    """

    def __init__(
        self,
        model: nn.Module,
        muon_lr: float,
        adam_lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
    ) -> None:
        hidden, others = [], []
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (hidden if matrix else others).append(parameter)
        groups = [
            {"params": hidden, "lr": muon_lr, "muon": True},
            {"params": others, "lr": adam_lr, "muon": False},
        ]
        super().__init__(groups, {"momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adam)(parameters, group)
        return loss

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        for shape, members in by_shape.items():
            updates = []
            for p in members:
                assert p.grad is not None
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(average, group["momentum"]))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for p, update in zip(members, orthogonalise(torch.stack(updates)), strict=True):
                p.add_(update, alpha=-group["lr"] * scale)

    def _adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in parameters:
            adamw_(p, self.state[p], group)


def adamw_(p: Tensor, state: MutableMapping[str, Any], group: dict[str, Any]) -> None:
    """One AdamW step of `p` in place (Loshchilov and Hutter, arXiv 1711.05101), any shape.

    `group` gives lr, betas, eps and, where there is one, weight_decay.
    """
    assert p.grad is not None
    first, second = group["betas"]
    if decay := group.get("weight_decay", 0.0):
        p.mul_(1 - group["lr"] * decay)
    if not state:
        state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
    state["step"] += 1
    mean = state["mean"].lerp_(p.grad, 1 - first)
    square = state["square"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
    scale = (1 - second ** state["step"]) ** 0.5 / (1 - first ** state["step"])
    denominator = square.sqrt().add_(group["eps"] * (1 - second ** state["step"]) ** 0.5)
    p.addcdiv_(mean, denominator, value=-group["lr"] * scale)
