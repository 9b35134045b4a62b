"""Sampling from a transformers model: plain torch, one batch of answers at a time.

Owns the model, its weights' version and the decoding of a batch. Knows no Ray, no vLLM and nothing
of pauses: `transformers_worker.py` decides between two steps whether there is another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.vllm_worker import SampleRequest, SampleResult
from conjoint.rollouts.weights.buffer import Receiver
from conjoint.rollouts.weights.manifest import Manifest


@dataclass(slots=True)
class Row:
    """One answer as far as it has come."""

    request: SampleRequest
    generator: torch.Generator
    limit: int
    """Tokens that it may have."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    stop_reason: str = "abort"
    """What it is until it ends by itself."""

    def result(self) -> SampleResult:
        return SampleResult(self.tokens, self.logprobs, self.stop_reason, self.versions)


class Decoder:
    """A model that decodes. Not thread-safe: one thread makes all calls."""

    def __init__(self, folder: str, cfg: RolloutConfig) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=cfg.dtype, output_loading_info=True
        )
        model, info = loaded
        if info["missing_keys"]:  # which transformers would draw at random
            raise ValueError(f"{folder} lacks weights: {sorted(info['missing_keys'])[:3]}")
        self.device = torch.device("cuda" if cfg.gpus_per_engine else "cpu")
        self.model = model.to(self.device).eval()
        self.cfg = cfg
        self.stop_ids: frozenset[int] = frozenset()
        self.version = 0
        """Version of the weights in the model."""
        self._receiver = Receiver()

    def batch(self, requests: Sequence[SampleRequest]) -> "Batch":
        return Batch(self, [self._row(request) for request in requests])

    def _row(self, request: SampleRequest) -> Row:
        context = self.cfg.max_model_len
        room = context - len(request.tokens)
        if room < 1 or not request.tokens:
            raise ValueError(f"a prompt of {len(request.tokens)} tokens in a context of {context}")
        generator = torch.Generator().manual_seed(request.seed)
        return Row(request, generator, min(request.max_tokens, room))

    def stop_reason(self, row: Row) -> str:
        """Why the answer ends with its last token; "abort" if it does not."""
        if row.tokens[-1] in self.stop_ids:
            return "stop"
        if repeats(row.tokens, self.cfg.repeat_pattern, self.cfg.repeat_count):
            return "repetition"
        return "length" if len(row.tokens) >= row.limit else "abort"

    @torch.inference_mode()
    def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        """log p(tokens[i] | tokens[:i]) at temperature 1, for i >= 1."""
        ids = torch.tensor([tokens], device=self.device)
        table = self.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        return table[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()

    @torch.no_grad()
    def load(self, manifest: Manifest) -> dict[str, Any]:
        """Replace every weight; returns version and checksum of what was received."""
        received = dict(self._receiver.receive(manifest))
        own = dict(self.model.named_parameters())
        wrong = sorted(own.keys() ^ received.keys()) or [
            name for name, tensor in received.items() if tensor.shape != own[name].shape
        ]
        if wrong:
            raise RuntimeError(f"the learner's weights do not fit the engine's model: {wrong[:3]}")
        for name, tensor in received.items():
            own[name].copy_(tensor)
        self.version = manifest.version
        return {"version": manifest.version, "checksum": manifest.checksum}


class Batch:
    """Answers that advance together, a token a step; those that have ended leave it.

    Prompts of unequal length are padded on the left. The KV cache is that of one version: after
    new weights it is computed again, from prompt and answer so far.
    """

    def __init__(self, decoder: Decoder, rows: list[Row]) -> None:
        self._decoder = decoder
        self.rows = rows
        self.running = list(rows)
        self._cache: Any = None
        self._version = -1
        """Version of the weights that computed the cache."""
        self._mask = torch.empty(0)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every answer that runs."""
        version = self._decoder.version
        fresh = self._cache is None or self._version != version
        logits = self._prefill() if fresh else self._advance()
        self._version = version
        tokens, logprobs = draw(logits, self.running)
        for row, token, logprob in zip(self.running, tokens, logprobs, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.versions.append(version)
            row.stop_reason = self._decoder.stop_reason(row)
        self._leave()

    def _prefill(self) -> Tensor:
        texts = [row.request.tokens + row.tokens for row in self.running]
        width = max(map(len, texts))
        ids = torch.tensor([[0] * (width - len(t)) + t for t in texts])
        mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts])
        self._cache, self._mask = None, mask.to(self._decoder.device)
        return self._forward(ids, (self._mask.cumsum(1) - 1).clamp(min=0))

    def _advance(self) -> Tensor:
        last = torch.tensor([[row.tokens[-1]] for row in self.running])
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(last), 1)], dim=1)
        return self._forward(last, self._mask.sum(1, keepdim=True) - 1)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        out = self._decoder.model(
            input_ids=ids.to(self._decoder.device),
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = out.past_key_values
        return out.logits[:, -1].float()

    def _leave(self) -> None:
        stay = [i for i, row in enumerate(self.running) if row.stop_reason == "abort"]
        if len(stay) == len(self.running):
            return
        self.running = [self.running[i] for i in stay]
        if not stay:
            self._cache = None
            return
        index = torch.tensor(stay, device=self._decoder.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]


def draw(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """A token for each row of logits [rows, vocabulary], and its log-prob in the distribution it
    was drawn from, which is that after temperature and top-p. Temperature 0 takes the likeliest
    token and reports its log-prob at temperature 1.

    The draw inverts the cumulative distribution at one uniform number of the row's own generator.
    """
    heat = torch.tensor([[row.request.temperature or 1.0] for row in rows], device=logits.device)
    shares = torch.tensor([[row.request.top_p] for row in rows], device=logits.device)
    logprobs = nucleus(logits / heat, shares).log_softmax(-1)
    cumulative = logprobs.double().exp().cumsum(-1)
    uniform = [torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows]
    # Scaled by the sum, which rounding keeps from being 1.
    wanted = torch.stack(uniform).to(logits.device) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, wanted, right=True).clamp(max=logits.shape[-1] - 1)
    greedy = torch.tensor([[not row.request.temperature] for row in rows], device=logits.device)
    tokens = torch.where(greedy, logits.argmax(-1, keepdim=True), drawn)
    return tokens[:, 0].tolist(), logprobs.gather(1, tokens)[:, 0].tolist()


def repeats(tokens: list[int], longest: int, count: int) -> bool:
    """Whether a pattern of up to `longest` tokens stands at the end `count` times in a row."""
    sizes = range(1, min(longest, len(tokens) // count) + 1)
    return any(tokens[-n * count :] == tokens[-n:] * count for n in sizes)


def nucleus(logits: Tensor, shares: Tensor) -> Tensor:
    """Logits of the likeliest tokens that have a share of the probability together, -inf for the
    others; bounds as vLLM draws them."""
    if bool((shares >= 1).all()):
        return logits
    ordered, order = logits.sort(-1)
    outside = ordered.softmax(-1).cumsum(-1) <= 1 - shares
    outside[:, -1] = False
    return logits.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -torch.inf)
