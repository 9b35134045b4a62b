"""The forward pass over packed pieces: attention inside each sequence, log-probs where asked.

Heavy: torch and transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.batch import PackedRow
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.forward.head import TokenHead

_ISOLATED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class _Segment:
    """One piece as attention sees it: its tokens, those of the piece it continues, and the mask."""

    own: slice
    prefix: slice | None
    mask: Tensor | None
    """[own, prefix + own], additive; None without a prefix, where plain causal attention serves."""


def segments(row: PackedRow, dtype: torch.dtype, device: torch.device) -> list[_Segment]:
    """What `segments_attention` takes; made once a micro-batch, used in every layer."""
    ends = np.cumsum(row.lengths).tolist()
    spans = [slice(end - n, end) for end, n in zip(ends, row.lengths.tolist(), strict=True)]
    found = []
    for own, p in zip(spans, row.prefixes.tolist(), strict=True):
        if p < 0:
            found.append(_Segment(own, None, None))
            continue
        n, before = own.stop - own.start, spans[p].stop - spans[p].start
        # Token i sees the whole prefix and its own piece up to i: what lies beyond that diagonal
        # stays at -inf, and `triu_` puts the rest to 0.
        mask = torch.full((n, before + n), float("-inf"), dtype=dtype, device=device)
        found.append(_Segment(own, spans[p], mask.triu_(before + 1)))
    return found


def segments_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    segments: list[_Segment] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention over each piece of one packed row: [1, heads, N, d] -> [1, N, heads, d].

    No mask over the row is built and no score across sequences is computed; the keys and values of
    a shared prompt are those that its own piece has. Refuses what it would get wrong.
    """
    if segments is None or attention_mask is not None or softcap or s_aux is not None:
        raise ConjointError(
            "learner.attention=segments cannot run this model's attention (it has a mask, a score "
            "cap or sinks); use sdpa or flash_attention_2"
        )
    if sliding_window is not None and (longest := _longest(segments)) > sliding_window:
        raise ConjointError(
            f"a sequence of {longest} tokens is longer than the model's attention window of "
            f"{sliding_window}, which learner.attention=segments does not apply; use sdpa"
        )
    grouped = query.shape[1] != key.shape[1]
    parts = []
    for s in segments:
        k, v = key[:, :, s.own], value[:, :, s.own]  # [1, key heads, own, d]
        if s.prefix is not None:
            k = torch.cat([key[:, :, s.prefix], k], 2)  # [1, key heads, prefix + own, d]
            v = torch.cat([value[:, :, s.prefix], v], 2)
        parts.append(
            scaled_dot_product_attention(
                query[:, :, s.own],
                k,
                v,
                attn_mask=s.mask,
                is_causal=s.mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None  # parts: [1, heads, own, d]


def _longest(segments: list[_Segment]) -> int:
    spans = [[s.own, s.prefix] if s.prefix else [s.own] for s in segments]
    return max(sum(part.stop - part.start for part in parts) for parts in spans)


AttentionInterface.register("segments", segments_attention)


def check_attention(config: Any, learner: LearnerConfig, device: torch.device) -> None:
    """Refuse what would mix packed sequences or cannot be trained. `config`: the model's.

    Runs the backend forward and backward on a few random numbers of the model's own shape.
    """
    layers = set(getattr(config, "layer_types", None) or ())
    if foreign := layers - _ISOLATED_LAYERS:
        raise ConjointError(
            f"the model has layers of type {sorted(foreign)}, which cannot keep packed sequences "
            "apart; use a model with full or sliding attention"
        )
    window = getattr(config, "sliding_window", None)
    if (
        window is not None
        and (not layers or "sliding_attention" in layers)
        and window < learner.tokens_per_microbatch
        and learner.share_prompts
        and learner.attention != "segments"
    ):
        raise ConjointError(
            f"the model's attention window of {window} tokens is shorter than a sequence may be, "
            f"and learner.attention={learner.attention} does not apply it to shared prompts; set "
            "learner.share_prompts=false"
        )
    try:
        _try_backward(config, learner.attention, device)
    except ConjointError:
        raise
    except Exception as error:  # whatever a kernel raises
        reason = str(error).strip().partition("\n")[0]
        raise ConjointError(
            f"learner.attention={learner.attention} has no working backward pass on {device.type} "
            f"({type(error).__name__}: {reason}); use segments or sdpa"
        ) from error


def _try_backward(config: Any, attention: str, device: torch.device) -> None:
    if attention == "eager":  # plain matrix products
        return
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, heads // kv_heads  # type: ignore
    module.config = config  # type: ignore[assignment]
    dtype = torch.bfloat16 if attention == "flash_attention_2" else torch.float32
    row = PackedRow.single(range(16))
    query, key, value = (  # [1, heads, 16, d]
        torch.ones(1, n, 16, size, dtype=dtype, device=device, requires_grad=True)
        for n in (heads, kv_heads, kv_heads)
    )
    run: Callable[..., tuple[Tensor, Any]] = ALL_ATTENTION_FUNCTIONS[attention]
    kwargs = _packing(row, attention, dtype, device)
    out, _ = run(module, query, key, value, kwargs.pop("attention_mask", None), **kwargs)
    out.sum().backward()


def _packing(
    row: PackedRow, attention: str, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Arguments by which this backend keeps the sequences of a row apart.

    Without one, transformers finds where sequences begin from the positions.
    """
    if attention == "segments":
        return {"segments": segments(row, dtype, device)}
    if attention == "flash_attention_2":
        # [S + 1]; piece i holds the tokens from ends[i] to ends[i + 1].
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(row.lengths)])).int().to(device)
        longest = int(row.lengths.max())
        return {
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    if (row.prefixes >= 0).any():
        return {"attention_mask": shared_mask(row, dtype, device)}
    return {}


def shared_mask(row: PackedRow, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive [1, 1, N, N]: each piece sees itself and the piece it continues, causally.

    Never boolean: eager attention would add True as 1 without a word.
    """
    piece = np.repeat(np.arange(len(row.lengths)), row.lengths)  # [S] -> [N]
    prefix = row.prefixes[piece]  # [N]
    # [N, N]: row i, column j is whether token i may see token j at all; the positions then make it
    # causal, also from a piece to its prefix, as an answer's positions go on from its prompt's.
    related = (piece[:, None] == piece) | (prefix[:, None] == piece)
    seen = torch.from_numpy(related & (row.positions <= row.positions[:, None])).to(device)
    mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype, device=device)
    return mask.masked_fill_(seen, 0)[None, None]


@dataclass(slots=True)
class PackedModel:
    """A model with its head, seen as a function from packed rows to log-probs."""

    forward: Callable[..., Any]
    """The model, or the engine around it."""
    head: TokenHead
    attention: str
    dtype: torch.dtype
    device: torch.device

    def logprobs(
        self,
        row: PackedRow,
        targets: NDArray[np.int64],
        places: NDArray[np.int64],
        temperatures: NDArray[np.float32] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-prob of the tokens at `targets` by the logits at `places`, and the entropy there.

        All [P], P at least 1; logits are divided by `temperatures`, 1 if there are none.
        """
        scale = torch.ones(len(targets), device=self.device)  # [P]
        if temperatures is not None:
            scale /= torch.from_numpy(temperatures).to(self.device)
        tokens = torch.from_numpy(row.tokens).to(self.device)  # [N]
        with self.head.scoring(tokens[torch.from_numpy(targets).to(self.device)], scale):
            output = self.forward(
                input_ids=tokens[None],  # [1, N]
                position_ids=torch.from_numpy(row.positions).to(self.device)[None],
                use_cache=False,
                logits_to_keep=torch.from_numpy(places).to(self.device),
                **_packing(row, self.attention, self.dtype, self.device),
            )
            return self.head.read(output.logits)
