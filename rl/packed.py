"""The forward pass over packed sequences: attention inside each one, log-probs where asked.

Heavy: torch and transformers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rl.types import ConjointError

_ISOLATED_LAYERS = {"full_attention", "sliding_attention"}


def segments_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    segments: list[int] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention over each segment of one packed row: [1, heads, N, d] -> [1, N, heads, d].

    No mask is built and no score across segments is computed. Refuses what it would get wrong.
    """
    if segments is None or attention_mask is not None or softcap or s_aux is not None:
        raise ConjointError(
            "learner.attention=segments cannot run this model's attention (it has a mask, a score "
            "cap or sinks); use sdpa or flash_attention_2"
        )
    if sliding_window is not None and max(segments) > sliding_window:
        raise ConjointError(
            f"a sequence of {max(segments)} tokens is longer than the model's attention window of "
            f"{sliding_window}, which learner.attention=segments does not apply; use sdpa"
        )
    grouped = query.shape[1] != key.shape[1]
    parts = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(
            query.split(segments, 2), key.split(segments, 2), value.split(segments, 2), strict=True
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register("segments", segments_attention)


def check_isolation(config: Any) -> None:
    """Refuse layers (linear attention, state space) that would mix packed sequences."""
    foreign = set(getattr(config, "layer_types", None) or ()) - _ISOLATED_LAYERS
    if foreign:
        raise ConjointError(
            f"the model has layers of type {sorted(foreign)}, which cannot keep packed sequences "
            "apart; use a model with full or sliding attention"
        )


def packed_logits(
    forward: Callable[..., Any],
    tokens: NDArray[np.int64],
    positions: NDArray[np.int64],
    lengths: NDArray[np.int64],
    places: NDArray[np.int64],
    attention: str,
    device: torch.device,
) -> Tensor:
    """fp32 logits [len(places), vocabulary] at `places` of one packed row of N tokens."""
    kwargs: dict[str, Any] = {}
    if attention == "segments":
        kwargs["segments"] = lengths.tolist()
    elif attention == "flash_attention_2":
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])).int().to(device)
        longest = int(lengths.max())
        kwargs.update(
            cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=longest, max_length_k=longest
        )
    output = forward(
        input_ids=torch.from_numpy(tokens).to(device)[None],
        position_ids=torch.from_numpy(positions).to(device)[None],
        use_cache=False,
        logits_to_keep=torch.from_numpy(places).to(device),
        **kwargs,
    )
    return output.logits[0].float()


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[P, V] -> log-prob of each target with gradient [P], entropy in nats without [P]."""
    log_z = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - log_z
    with torch.no_grad():
        probs = (logits - log_z[:, None]).exp()
        entropy = log_z - (probs * logits).sum(-1)
    return logprobs, entropy
