"""Time and peak memory of the loss head alone: ours against the whole table of logits."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from conjoint.rl.learner.forward.head import TokenHead, table_logprobs


class HeadBench:
    """One model's output matrix, random hidden states, and a gradient of one for each log-prob."""

    def __init__(self, folder: Path, tokens: int, logits_bytes: int) -> None:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._linear: Any = model.get_output_embeddings()
        vocab, hidden = self._linear.weight.shape
        draw = torch.Generator().manual_seed(0)
        self._hidden = torch.randn(tokens, hidden, generator=draw)
        self._targets = torch.randint(0, vocab, (tokens,), generator=draw)
        # Below the table's own size: what is measured is the path that does not keep it.
        self._head = TokenHead(model, min(logits_bytes, tokens * vocab * 4 - 1))

    def ours(self) -> None:
        hidden = self._hidden.clone().requires_grad_()
        with self._head.scoring(self._targets, torch.ones(len(hidden))):
            logprobs, _ = self._head.read(self._linear(hidden[None]))
        logprobs.sum().backward()
        self._linear.weight.grad = None

    def table(self) -> None:
        """Logits, log-softmax and entropy as plain code computes them."""
        hidden = self._hidden.clone().requires_grad_()
        logprobs, _ = table_logprobs(self._linear(hidden[None])[0].float(), self._targets)
        logprobs.sum().backward()
        self._linear.weight.grad = None

    def runs(self, repeats: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Peak bytes over base and seconds of both, one after the other in each repeat."""
        variants = {"ours": self.ours, "table": self.table}
        peaks: dict[str, list[float]] = {name: [] for name in variants}
        times: dict[str, list[float]] = {name: [] for name in variants}
        for run in variants.values():
            run()
        for _ in range(repeats):
            for name, run in variants.items():
                begin = time.perf_counter()
                peaks[name].append(peak_bytes(run))
                times[name].append(time.perf_counter() - begin)
        return peaks, times


def peak_bytes(run: Callable[[], None]) -> int:
    """How far `run` raises this process's resident memory, by the kernel's own high-water mark."""
    gc.collect()
    # Memory that the allocator keeps would hide the next rise.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the mark
    base = _status("VmRSS")
    run()
    return max(_status("VmHWM") - base, 0)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024
