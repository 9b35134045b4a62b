"""QK-Clip: attention heads whose largest logit exceeds tau are scaled back to it. Heavy: torch.

Kimi K2 (arXiv 2507.20534), section 2.1: with S_h the largest softmax input of head h in the batch
of an update and gamma_h = min(1, tau / S_h), after that update

    a key head of its own (MHA)     rows of W_q and W_k of the head *= sqrt(gamma_h)
    a key head that others share    rows of W_q of the head *= gamma_h, W_k stays

The second is the paper's rule for parts that heads share. Biases are scaled with their rows. A head
at or below tau is multiplied by exactly 1. Where queries and keys are normalised after their
projection, scaling it does nothing, and the norm's own weights bound the logits: such layers are
measured and left alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from conjoint.envs.types import ConjointError

_NORMS = ("q_norm", "k_norm", "qk_norm", "q_layernorm", "k_layernorm")
_MEASURED = ("segments", "sdpa", "flash_attention_2")
_ROWS = 512
"""Queries whose scores are held at once."""


class QKClip:
    """Measures the attention of one model and says what to scale its projections by."""

    def __init__(self, model: nn.Module, attention: str, tau: float) -> None:
        """Raises ConjointError for a model whose heads cannot be told apart in its projections."""
        self._tau = tau
        self._layers = [_Layer(name, module) for name, module in attention_modules(model)]
        if not self._layers:
            raise ConjointError(
                "optim.name=muonclip finds no attention with q_proj and k_proj in this model; use "
                "optim.name=muon or adamw"
            )
        measure(attention)
        self.reset()

    @property
    def normalised(self) -> list[str]:
        """Names of the layers that are left alone because they normalise queries and keys."""
        return [layer.name for layer in self._layers if layer.normalised]

    def reset(self) -> None:
        """Forget what was measured."""
        for layer in self._layers:
            layer.module.peak_logits = None

    def peaks(self, device: torch.device, world: int) -> list[Tensor]:
        """The largest logit of each head, by layer, over all `world` ranks. Collective."""
        found = [layer.peaks().to(device) for layer in self._layers]
        if world > 1:
            every = torch.cat(found)
            torch.distributed.all_reduce(every, torch.distributed.ReduceOp.MAX)
            found = list(every.split([len(peaks) for peaks in found]))
        return found

    def row_scales(self, peaks: Sequence[Tensor]) -> dict[int, Tensor]:
        """id of a parameter -> factor of each row, for layers with a head above tau."""
        scales: dict[int, Tensor] = {}
        for layer, peak in zip(self._layers, peaks, strict=True):
            if layer.normalised or not bool((peak > self._tau).any()):
                continue
            gamma = torch.where(peak > self._tau, self._tau / peak, torch.ones_like(peak))
            shared = layer.queries != layer.keys
            for projection, factor in (
                (layer.module.q_proj, gamma if shared else gamma.sqrt()),
                (layer.module.k_proj, None if shared else gamma.sqrt()),
            ):
                if factor is None:
                    continue
                rows = factor.repeat_interleave(layer.width)  # [heads] -> [heads x width]
                scales[id(projection.weight)] = rows
                if projection.bias is not None:
                    scales[id(projection.bias)] = rows
        return scales

    def clipped(self, peaks: Sequence[Tensor]) -> int:
        """How many heads `row_scales` scales."""
        pairs = zip(self._layers, peaks, strict=True)
        return sum(int((peak > self._tau).sum()) for layer, peak in pairs if not layer.normalised)


class _Layer:
    """One attention module: its heads are the runs of `width` rows of q_proj and k_proj."""

    def __init__(self, name: str, module: Any) -> None:
        config = module.config
        self.name, self.module, self.width = name, module, module.head_dim
        self.queries = module.q_proj.out_features // self.width
        self.keys = module.k_proj.out_features // self.width
        if (self.queries, self.keys) != (config.num_attention_heads, config.num_key_value_heads):
            raise ConjointError(
                f"optim.name=muonclip cannot tell the heads in {name}: its q_proj and k_proj hold "
                f"{self.queries} and {self.keys} heads of {self.width}, its config says "
                f"{config.num_attention_heads} and {config.num_key_value_heads}; use "
                "optim.name=muon or adamw"
            )
        self.normalised = any(getattr(module, norm, None) is not None for norm in _NORMS)

    def peaks(self) -> Tensor:
        """[queries]; -inf if nothing was measured."""
        if self.module.peak_logits is None:
            return torch.full((self.queries,), -torch.inf)
        return self.module.peak_logits


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of each attention that projects queries and keys by q_proj and k_proj."""
    wanted = ("q_proj", "k_proj", "head_dim", "config")
    return [(n, m) for n, m in model.named_modules() if all(hasattr(m, key) for key in wanted)]


def measure(attention: str) -> None:
    """Let transformers' attention function of that name note `peak_logits` on modules that have it.

    Lasts for the process, and changes no output. Only passes that record a gradient are measured:
    those are the training batch.
    """
    if attention not in _MEASURED:
        raise ConjointError(
            f"optim.name=muonclip cannot measure learner.attention={attention}; use segments or "
            "sdpa"
        )
    plain: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[attention]
    if getattr(plain, "measures_logits", False):
        return

    def measuring(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        if hasattr(module, "peak_logits") and torch.is_grad_enabled():
            with torch.no_grad():
                found = peak_logits(query.detach(), key.detach(), attention_mask, **kwargs)
            known: Any = module.peak_logits
            module.peak_logits = found if known is None else torch.maximum(known, found)
        return plain(module, query, key, value, attention_mask, **kwargs)

    setattr(measuring, "measures_logits", True)  # noqa: B010 - a function has no such field
    AttentionInterface.register(attention, measuring)


def peak_logits(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    segments: Sequence[Any] | None = None,
    cu_seq_lens_q: Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """The largest softmax input of each head [H], fp32, of query [B, H, N, d] and key [B, K, N, d].

    What attends is said by `mask` (bool, or added to the scores; [B, 1 or H, N, N]), else it is
    causal, within `segments` or `cu_seq_lens_q` if one is given. A segment is a length, or has
    slices `own` and `prefix` (None, or the tokens that all of `own` see as well). `_ROWS` queries
    are taken at a time, so memory grows with N and not with its square.
    """
    if segments is None and cu_seq_lens_q is not None:
        segments = cu_seq_lens_q.diff().tolist()
    if mask is not None or segments is None:
        segments = [query.shape[2]]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    peak = query.new_full((query.shape[1],), -torch.inf, dtype=torch.float32)
    begin = 0
    for segment in segments:
        own, prefix = _spans(segment, begin)
        begin = own.stop
        for top in range(own.start, own.stop, _ROWS):
            rows = slice(top, min(top + _ROWS, own.stop))
            seen = slice(own.start, own.stop if mask is not None else rows.stop)
            scores = _scores(query, key, rows, seen).masked_fill(
                _hidden(mask, rows, seen, sliding_window, query.device), -torch.inf
            )
            peak = torch.maximum(peak, scores.amax((0, 2, 3)) * scale)
            if prefix is not None:
                peak = torch.maximum(
                    peak, _scores(query, key, rows, prefix).amax((0, 2, 3)) * scale
                )
    return peak


def _spans(segment: Any, begin: int) -> tuple[slice, slice | None]:
    if isinstance(segment, int):
        return slice(begin, begin + segment), None
    return segment.own, segment.prefix


def _scores(query: Tensor, key: Tensor, rows: slice, seen: slice) -> Tensor:
    """q k^T [B, H, rows, seen] in fp32; H / K query heads in a row share a key head."""
    batch, heads, _, width = query.shape
    # [B, H, rows, d] -> [B, K, H/K x rows, d]: one product for all query heads of a key head.
    q = query[:, :, rows].reshape(batch, key.shape[1], -1, width)
    return (q @ key[:, :, seen].mT).view(batch, heads, rows.stop - rows.start, -1).float()


def _hidden(
    mask: Tensor | None, rows: slice, seen: slice, window: int | None, device: torch.device
) -> Tensor:
    """Which scores no softmax sees: [rows, seen], or what the mask has before that."""
    if mask is not None:
        part = mask[:, :, rows, seen]
        return ~part if part.dtype is torch.bool else part < -1e4
    place = torch.arange(rows.start, rows.stop, device=device)[:, None]
    other = torch.arange(seen.start, seen.stop, device=device)
    hidden = other > place
    return hidden if window is None else hidden | (other <= place - window)
