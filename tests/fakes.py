"""Stand-ins for unit tests: a scripted sampler, a learner that only counts, a tiny random model."""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conjoint.envs.types import Completion, Message, StopRun
from conjoint.rollouts.chat import ChatAnswer

END = 1
OFFSET = 10
FORGED = "0123456789ab"
"""The code of a marker that an answer makes up."""


class CharRenderer:
    """One token a character, so that tests can read tokens."""

    stop_ids = (END,)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.encode(
            "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"
        )

    def next_turn(self, messages: Sequence[Message]) -> list[int]:
        return self.prompt(messages)

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(chr(t - OFFSET) for t in tokens if t != END).strip()

    def encode(self, text: str) -> list[int]:
        return [ord(c) + OFFSET for c in text]

    def dialogue(self, messages: Sequence[Message]) -> list[int]:
        tokens: list[int] = []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                tokens = [*self.prompt(messages[:i]), *self.encode(message["content"]), END]
        return tokens or self.prompt(messages)


Answer = Callable[[str, int], str]
"""(prompt text, seed) -> answer text."""


class FakeEngine:
    """Answers from a function; counts what the loop asks of it."""

    capacity = 4096

    def __init__(
        self, answer: Answer, *, loaded: bool = True, seconds_a_token: float = 0.0
    ) -> None:
        """`loaded` samples before the first sync, as an engine does for evaluation."""
        self._answer = answer
        self._loaded = loaded
        self._seconds = seconds_a_token
        self._changed = asyncio.Condition()
        self._frozen = False
        self._running = 0
        self._aborts = 0
        self.paused = False
        self.version = 0
        self.loads: list[int] = []
        self.calls = 0
        self.closed = False

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int,
        session: str = "",
    ) -> Completion:
        await self._wait(lambda: not self.paused)
        if not self._loaded:
            raise StopRun("the fake engine was given no weights; it must not sample")
        self.calls += 1
        text = self._answer(CharRenderer().text(tokens), seed)
        sampled = [*CharRenderer().encode(text), END]
        stop = "stop" if len(sampled) <= max_tokens else "length"
        versions: list[int] = []
        aborts = self._aborts
        self._running += 1
        for _ in sampled[:max_tokens]:
            if self._seconds:
                await asyncio.sleep(self._seconds)
            await self._wait(lambda: not self._frozen or self._aborts != aborts)
            if self._aborts != aborts:
                stop = "abort"
                break
            versions.append(self.version)
        self._running -= 1
        await self._notify()
        n = len(versions)
        last = versions[-1] if versions else self.version
        mixed = versions if len(set(versions)) > 1 else []
        return Completion(sampled[:n], [-0.5] * n, stop, last, "fake-0", mixed)

    async def _wait(self, ready: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(ready)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def pause(self, *, drain: bool = True) -> None:
        self.paused = True
        if drain:
            await self._wait(lambda: not self._running)
        self._frozen = True

    async def abort(self) -> None:
        self._aborts += 1
        await self._notify()

    def drain_metrics(self) -> dict[str, float]:
        return {}

    async def resume(self) -> None:
        self.paused = self._frozen = False
        await self._notify()

    async def load_weights(self, sent: Any, version: int) -> str:
        assert self.paused, "weights loaded while sampling"
        self.version, self._loaded = version, True
        self.loads.append(version)
        return getattr(sent, "checksum", "checksum")

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        return [-1.0] * (len(tokens) - 1)

    async def close(self) -> None:
        self.closed = True


class ScriptedChat:
    """A `ChatPolicy` that answers `reply(text of the last message)` and keeps its calls."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self._reply = reply
        self.calls: list[dict[str, Any]] = []

    async def chat(self, messages: Sequence[Message], **how: Any) -> ChatAnswer:
        prompt = messages[-1]["content"]
        self.calls.append({"prompt": prompt, "messages": list(messages), **how})
        await asyncio.sleep(0)
        return ChatAnswer(self._reply(prompt), "stop", 1, 1)


def quoted(prompt: str, label: str) -> str:
    """What stands between the markers `label` of a judge's prompt; forged ones are no markers."""
    marked = rf"^\[{label} (?!{FORGED})(\w+) begins\]\n(.*?)\n\[{label} \1 ends\]$"
    (found,) = re.findall(marked, prompt, re.DOTALL | re.MULTILINE)
    return found[1]


class FakeLearner:
    """Keeps the batches it was given."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.versions: list[int] = []
        self.saved: list[Path] = []
        self.closed = False

    async def step(self, batch: Any, version: int) -> dict[str, float]:
        self.batches.append(batch)
        self.versions.append(version)
        return {"loss/policy": 0.1, "loss/ptx": 1.0, "loss/total": 0.2, "gap/mean": 0.0}

    async def logprobs(self, tokens: list[int]) -> list[float]:
        return [-1.0] * (len(tokens) - 1)

    async def ptx_loss(self, batch: Any) -> float:
        return 2.0 + len(self.batches)

    async def send_weights(self, sender: Any, version: int) -> str:
        return f"weights {version}"

    async def save(self, folder: Path) -> None:
        (folder / "hf").mkdir(parents=True)
        (folder / "hf" / "config.json").write_text("{}")
        self.saved.append(folder)

    async def save_model(self, folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        updates = torch.tensor([float(len(self.batches))])
        save_file({"updates": updates}, str(folder / "model.safetensors"))

    async def load(self, folder: Path) -> None:
        return None

    async def close(self) -> None:
        self.closed = True


def tiny_llama(folder: Path, **shape: Any) -> Path:
    """A random Llama of a few thousand parameters, saved in `folder`; always the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config: dict[str, Any] = {
        "vocab_size": 48,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**config | shape)).save_pretrained(folder)
    return folder
