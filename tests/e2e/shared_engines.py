"""Real vLLM engines that the tests of a session share, and a learner that sends them weights.

An engine takes 30 to 45 s to start on two cores, and a minute of CPU. There is a pair of them, on a
tiny model with a tied head. A test leaves them open, idle and with sound weights, whatever it did
to them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from conjoint.envs.types import Completion, Trajectory, derive_seed
from conjoint.rl.nano.model import NanoConfig, build_model, build_tokenizer, save_policy
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.weights.buffer import buffer_path
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.fakes import tiny_llama

TEMPERATURE = 0.7
REQUESTS = 32
RUN_SEED = 5
END = 1


def tiny(folder: Path, *, tied: bool) -> Path:
    """A model of a shape that vLLM's CPU attention serves."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    return tiny_llama(
        folder,
        **shape,
        vocab_size=256,
        max_position_embeddings=2048,
        initializer_range=0.02,
        tie_word_embeddings=tied,
        eos_token_id=END,
    )


class LocalLearner:
    """The learner's two calls that a sync needs, around a transformers model in this process."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.zeroed = ""

    def disturb(self) -> None:
        """A random change of every tensor: zeros and round trips could not be told apart."""
        torch.manual_seed(1)
        with torch.no_grad():
            for p in self.model.parameters():
                p += 0.05 * torch.randn_like(p)

    async def send_weights(self, sender, version: int):
        named = (
            (name, torch.zeros_like(p) if name == self.zeroed else p)
            for name, p in self.model.named_parameters()
        )
        return sender.send(named, version)

    async def logprobs(self, tokens: list[int]) -> list[float]:
        with torch.no_grad():
            table = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        return [table[i, token].item() for i, token in enumerate(tokens[1:])]


class Versions(LocalLearner):
    """Changes its weights at random and keeps every version that it sent."""

    def __init__(self, folder: Path, noise: float) -> None:
        super().__init__(folder)
        self._noise = noise
        self._sent: dict[int, dict[str, torch.Tensor]] = {}

    async def send_weights(self, sender: Any, version: int) -> Any:
        self.change(version)
        return await super().send_weights(sender, version)

    def change(self, version: int) -> None:
        """Make and keep the weights of this version; version 0 is the folder's."""
        draw = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for p in self.model.parameters():
                if version:
                    scale = self._noise * max(p.std().item(), 0.05)
                    p += scale * torch.randn(p.shape, generator=draw)
        named = self.model.named_parameters()
        self._sent[version] = {name: p.detach().clone() for name, p in named}

    def logits(self, tokens: Sequence[int], version: int) -> torch.Tensor:
        """[tokens, vocabulary] under the weights of this version."""
        with torch.no_grad():
            ids = torch.tensor([list(tokens)])
            return torch.func.functional_call(self.model, self._sent[version], (ids,)).logits[0]

    def recomputed(self, trajectory: Trajectory, version: int) -> torch.Tensor:
        """Log-probs of all tokens after the first, at the temperature they were drawn at."""
        table = (self.logits(trajectory.tokens, version)[:-1] / TEMPERATURE).log_softmax(-1)
        return table.gather(-1, torch.tensor(trajectory.tokens[1:])[:, None])[:, 0]


@dataclass
class Rig:
    """Engines of one model, and the learner that sends them weights."""

    engine: VllmEngine
    learner: Versions
    sender: SharedMemorySender
    vocab: int
    max_tokens: int
    version: int = -1
    prompts: list[list[int]] = field(default_factory=list)

    @staticmethod
    def launch(
        folder: Path, noise: float, vocab: int, max_tokens: int, *, engines: int = 1, **vllm: Any
    ) -> "Rig":
        cfg = RolloutConfig(
            max_tokens=max_tokens, max_model_len=512, engines=engines, threads=1, vllm=vllm,
            heartbeat_s=1.0, hang_timeout_s=30.0, start_timeout_s=400.0,
        )  # fmt: skip
        engine = VllmEngine.launch(str(folder), cfg, 0, "shm")
        sender = SharedMemorySender(buffer_path(folder.name))
        rig = Rig(engine, Versions(folder, noise), sender, vocab, max_tokens)
        for i in range(REQUESTS):  # four groups of eight, a prompt each
            group = [derive_seed("prompt", i // 8, j) % (vocab - 2) + 2 for j in range(20 + i // 8)]
            rig.prompts.append(group)
        return rig

    async def ready(self) -> "Rig":
        await self.engine.ready([], 600)
        await self.update()
        return self

    async def update(self, *, drain: bool = True) -> None:
        await self.engine.pause(drain=drain)
        await self.load()
        await self.engine.resume()

    async def load(self) -> None:
        self.version += 1
        sent = await self.learner.send_weights(self.sender, self.version)
        await self.engine.load_weights(sent, self.version)

    async def tell(self, method: str, *args: Any) -> list[Any]:
        return list(
            await asyncio.gather(*(h.call.remote(method, *args) for h in self.engine.workers))
        )

    def ask(
        self, begun: Sequence[Trajectory] = (), session: str = ""
    ) -> list["asyncio.Task[Completion]"]:
        """All requests, or the rest of those that were taken out, as a scheduler asks for them."""
        calls = []
        for i, prompt in enumerate(self.prompts):
            tokens = begun[i].tokens if begun else prompt
            so_far = len(tokens) - len(prompt)
            call = self.engine(
                tokens,
                max_tokens=self.max_tokens - so_far,
                temperature=TEMPERATURE,
                seed=derive_seed(RUN_SEED, f"task-{i // 8}", i % 8, 0, so_far),
                session=session or f"{self.version}/{i // 8}",
            )
            calls.append(asyncio.ensure_future(call))
        return calls

    async def midway(self, calls: Sequence["asyncio.Task[Completion]"], tokens: int = 8) -> None:
        """All requests run, and each has drawn a few."""
        while not any(call.done() for call in calls):
            drawn = [n for worker in await self.tell("drawn") for n in worker]
            if len(drawn) == REQUESTS and min(drawn) >= tokens:
                return
        raise AssertionError("some ended before all had drawn so many")

    def record(
        self, completions: Sequence[Completion], begun: Sequence[Trajectory] = ()
    ) -> list[Trajectory]:
        found = []
        for i, completion in enumerate(completions):
            trajectory = begun[i] if begun else Trajectory()
            if not begun:
                trajectory.extend_context(self.prompts[i])
            trajectory.extend_sampled(completion)
            found.append(trajectory)
        return found

    def gaps(self, trajectories: Sequence[Trajectory], shift: int = 0) -> torch.Tensor:
        """|recorded - recomputed| of every sampled token, under the weights of its version, or of
        the version `shift` away from it."""
        found = []
        for t in trajectories:
            recorded, versions = torch.tensor(t.behavior_logprobs[1:]), torch.tensor(t.versions[1:])
            sampled = torch.tensor(t.sampled[1:])
            for version in set(versions[sampled].tolist()):
                mine = sampled & (versions == version)
                ours = self.learner.recomputed(t, (version + shift) % (self.version + 1))
                found.append((ours - recorded)[mine].abs())
        return torch.cat(found)

    def check(self, trajectories: Sequence[Trajectory], most: float = 1e-4) -> None:
        gap = self.gaps(trajectories)
        assert gap.mean() <= 1e-4 and gap.max() <= most, f"they differ: up to {gap.max():.2g}"

    async def close(self) -> None:
        await self.engine.close()
        Path(self.sender.path).unlink(missing_ok=True)


def several(trajectories: Sequence[Trajectory]) -> int:
    """How many hold tokens of more than one version; versions never go back."""
    found = 0
    for t in trajectories:
        versions = [v for v, sampled in zip(t.versions, t.sampled, strict=True) if sampled]
        assert versions == sorted(versions)
        found += len(set(versions)) > 1
    return found


def nano(folder: Path) -> Path:
    tokenizer = build_tokenizer(["3 + 5 = 8", "name a word that ends in y"], NanoConfig())
    save_policy(build_model(tokenizer, NanoConfig(), 0), tokenizer, folder)
    return folder
