"""Log-probs and entropy of given tokens from hidden states, without the whole logits table.

Plain code keeps several tables of [tokens, vocabulary] alive. Here the tokens go through the output
matrix in chunks, and what the backward pass needs is kept only if it fits a byte budget; otherwise
each chunk is computed again there. Heavy: torch.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from conjoint.envs.types import ConjointError

_RESHAPED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of models that change the logits after the output matrix."""


class TokenHead:
    """Stands in for the forward of a model's output matrix while `scoring` is open.

    Being called as that module keeps its hooks, so that ZeRO-3 gathers the weight before forward
    and before backward as it does for any other.
    """

    def __init__(self, model: Any, logits_bytes: int) -> None:
        """`model`: from transformers, before DeepSpeed wraps it. Reads `config` and the head."""
        self._linear: Any = model.get_output_embeddings()
        self._bytes = logits_bytes
        self._plain = (
            isinstance(self._linear, torch.nn.Linear)
            and self._linear.bias is None
            and all(getattr(model.config, key, None) in (None, 1.0) for key in _RESHAPED)
        )
        self._asked: tuple[Tensor, Tensor] | None = None
        self._answer: Tensor | None = None
        if not self._plain:
            logging.getLogger(__name__).warning(
                "learner.logits_bytes does not apply: this model's head has a bias, or caps or "
                "scales its logits, so the whole table is computed"
            )
            return
        self._matmul = self._linear.forward
        self._linear.forward = self._score

    @contextmanager
    def scoring(self, targets: Tensor, scale: Tensor) -> Iterator[None]:
        """Inside, the model's `logits` are [1, P, 2]: what `read` takes. targets, scale: [P]."""
        self._asked = (targets, scale)
        try:
            yield
        finally:
            self._asked = self._answer = None

    def read(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The model's output -> log-probs [P] with gradient, entropy in nats [P] without.

        A head with a bias, or a model that caps or scales its logits, gives the full table. Call
        it inside `scoring`. Raises ConjointError if the model changed what the head returned.
        """
        assert self._asked is not None
        if not self._plain:
            targets, scale = self._asked
            return table_logprobs(logits[0].float() * scale[:, None], targets)
        # NaN, which the step's own check must see, equals nothing.
        given = logits.detach().nan_to_num()
        if self._answer is None or not torch.equal(given, self._answer.nan_to_num()):
            raise ConjointError(
                "this model changes its logits after the output matrix in a way that conjoint does "
                "not know, so log-probs would be wrong; use a model without it"
            )
        return logits[0, :, 0], logits[0, :, 1].detach()

    def _score(self, input: Tensor) -> Tensor:
        """[1, P, H] -> [1, P, 2], or the usual logits where no targets were given."""
        if self._asked is None:
            return self._matmul(input)
        hidden, weight = input[0], self._linear.weight  # [P, H], [V, H]
        row_bytes = 4 * weight.shape[0]
        # Forward and backward hold two tables of a chunk at once beside what is kept.
        rows = max(1, self._bytes // 4 // row_bytes)
        keep = len(hidden) * row_bytes <= self._bytes
        both = _TokenLogprobs.apply(hidden, weight, *self._asked, rows, keep)  # [P], [P]
        answer = torch.stack(both, -1)[None]  # [1, P, 2]
        self._answer = answer.detach().clone()
        return answer


def table_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[P, V] -> log-prob of each target with gradient [P], entropy in nats without [P]."""
    log_z = logits.logsumexp(-1)  # [P]
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - log_z
    with torch.no_grad():
        probs = (logits - log_z[:, None]).exp()
        entropy = log_z - (probs * logits).sum(-1)
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    """h [P, H], weight [V, H], targets [P], scale [P] -> log-probs [P], entropy in nats [P].

    logits = scale * (h @ weight.T); only log-probs have a gradient, which is
    d logp / d logits = onehot(target) - softmax(logits). A chunk has C of the P tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, rows: int, keep: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(h), device=h.device)
        entropy, log_z = torch.empty_like(logprobs), torch.empty_like(logprobs)
        ctx.kept = []
        for part in _chunks(len(h), rows):
            logits = _logits(h[part], weight, scale[part])  # [C, V]
            torch.logsumexp(logits, -1, out=log_z[part])
            picked = logits.gather(-1, targets[part, None])[:, 0]  # [C]
            logprobs[part] = picked - log_z[part]
            logits -= log_z[part, None]
            probs = logits.exp()
            entropy[part] = -torch.linalg.vecdot(probs, logits)
            if keep:
                ctx.kept.append(probs)
        ctx.rows = rows
        ctx.save_for_backward(h, weight, targets, scale, log_z)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, targets, scale, log_z = ctx.saved_tensors
        grad_h, grad_weight = torch.empty_like(h), torch.zeros_like(weight, dtype=torch.float32)
        for part in _chunks(len(h), ctx.rows):
            if ctx.kept:
                probs = ctx.kept.pop(0)
            else:
                probs = _logits(h[part], weight, scale[part]).sub_(log_z[part, None]).exp_()
            factor = (grads[0][part] * scale[part])[:, None]  # [C, 1]
            # d loss / d (h @ weight.T), made in place of the probabilities: [C, V].
            table = probs.mul_(-factor)
            table.scatter_add_(-1, targets[part, None], factor)
            table = table.to(h.dtype)
            torch.mm(table, weight, out=grad_h[part])
            if h.dtype == torch.float32:
                grad_weight.addmm_(table.T, h[part])
            else:
                grad_weight += table.T @ h[part]
        return grad_h, grad_weight.to(weight.dtype), None, None, None, None


def _chunks(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _logits(h: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return (h @ weight.T).float().mul_(scale[:, None])
