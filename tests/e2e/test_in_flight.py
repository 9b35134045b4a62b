"""New weights while answers are under way, on real engines: every token's log-prob is that of the
weights which its version names, whatever happened to its answer between."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from conjoint.envs.types import Completion, ConjointError, Trajectory, derive_seed
from conjoint.rl.models.resolve import SMOLLM2, resolve_model
from conjoint.rl.nano.model import NanoConfig, build_model, build_tokenizer, save_policy
from conjoint.rollouts.engine.actor import ACTORS
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.weights.buffer import buffer_path
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.e2e.test_weight_sync import LocalLearner, tiny
from tests.e2e.watched_actor import WatchedActor

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]
TEMPERATURE = 0.7
REQUESTS = 32
RUN_SEED = 5


class Versions(LocalLearner):
    """Changes its weights at random and keeps every version that it sent."""

    def __init__(self, folder: Path, noise: float) -> None:
        super().__init__(folder)
        self._noise = noise
        self._sent: dict[int, dict[str, torch.Tensor]] = {}

    async def send_weights(self, sender: Any, version: int) -> Any:
        draw = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for p in self.model.parameters():
                if version:
                    scale = self._noise * max(p.std().item(), 0.05)
                    p += scale * torch.randn(p.shape, generator=draw)
        named = self.model.named_parameters()
        self._sent[version] = {name: p.detach().clone() for name, p in named}
        return await super().send_weights(sender, version)

    def recomputed(self, trajectory: Trajectory, version: int) -> torch.Tensor:
        """Log-probs of all tokens after the first, at the temperature they were drawn at."""
        tokens = torch.tensor([trajectory.tokens])
        with torch.no_grad():
            call = torch.func.functional_call(self.model, self._sent[version], (tokens,))
        table = (call.logits[0, :-1] / TEMPERATURE).log_softmax(-1)
        return table.gather(-1, tokens[0, 1:, None])[:, 0]


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
        cfg = RolloutConfig(max_tokens=max_tokens, max_model_len=512, engines=engines, vllm=vllm)
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


Rigs = dict[str, Rig]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rigs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rigs]:
    """All side by side, because an engine takes its time to start."""
    import ray
    from transformers import GenerationConfig

    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    folder = tmp_path_factory.mktemp("models")
    # No end token, neither ours nor the folder's: nothing stops an answer but its length.
    GenerationConfig().save_pretrained(folder)
    endless = {"generation_config": str(folder)}
    # In a cache that is too small vLLM preempts answers of its own accord as well.
    small = {"num_gpu_blocks_override": 80}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ACTORS, "vllm", WatchedActor)
        made = {
            "tied": Rig.launch(
                tiny(folder / "tied", tied=True), 0.5, 256, 400, engines=2, **endless
            ),
            "untied": Rig.launch(
                tiny(folder / "untied", tied=False), 0.5, 256, 160, **endless, **small
            ),
            "nano": Rig.launch(nano(folder / "nano"), 0.3, 768, 160, **endless),
        }
        with contextlib.suppress(ConjointError):  # its weights are not installed
            made["smollm2"] = Rig.launch(resolve_model(SMOLLM2), 0.02, 49152, 24, **endless)
    try:
        await asyncio.gather(*(rig.ready() for rig in made.values()))
        yield made
    finally:
        await asyncio.gather(*(rig.close() for rig in made.values()))
        ray.shutdown()


@pytest.mark.parametrize("name", ["tied", "untied", "nano", "smollm2"])
async def test_an_update_in_the_middle_of_32_requests(rigs: Rigs, name: str):
    if name not in rigs:
        pytest.skip("make smollm2")
    rig = rigs[name]
    rig.engine.drain_metrics()
    calls = rig.ask()
    await rig.midway(calls, 4 if name == "smollm2" else 8)
    await rig.update(drain=False)
    completions = await asyncio.gather(*calls)

    assert [len(c.tokens) for c in completions] == [rig.max_tokens] * REQUESTS
    trajectories = rig.record(completions)
    assert several(trajectories) == REQUESTS
    rig.check(trajectories, most=1e-2 if name == "smollm2" else 1e-4)
    assert rig.gaps(trajectories, shift=1).mean() > 0.01, "the versions do not differ"
    # The update drops the KV of 32 requests; that is no sign of a cache which is too small.
    metrics, crowded = rig.engine.drain_metrics(), name == "untied"
    assert (metrics["engine/preemptions"] > 0) == crowded
    assert (metrics["engine/kv_usage"] > 0.9) == crowded
    assert (rig.engine.capacity < 256) == crowded


async def test_the_share_of_prompts_that_the_prefix_cache_had(rigs: Rigs):
    rig = rigs["tied"]
    rig.engine.drain_metrics()
    prompt = list(range(10, 80))  # two blocks of 32 tokens, and six more
    ask = {"max_tokens": 2, "temperature": TEMPERATURE, "session": "prefix"}
    await asyncio.gather(*(rig.engine(prompt, seed=i, **ask) for i in range(8)))
    assert rig.engine.drain_metrics()["engine/prefix_hits"] == pytest.approx(7 * 64 / (8 * 70))


async def test_what_was_drawn_before_the_update_is_as_without_it(rigs: Rigs):
    rig = rigs["tied"]
    whole = await asyncio.gather(*rig.ask())
    calls = rig.ask()
    await rig.midway(calls)
    await rig.update(drain=False)
    for before, after in zip(whole, await asyncio.gather(*calls), strict=True):
        kept = after.versions.count(rig.version - 1)
        assert kept >= 8 and before.tokens[:kept] == after.tokens[:kept]
        assert before.logprobs[:kept] == after.logprobs[:kept]


async def test_stale_kv_of_frozen_requests_does_not_pass(rigs: Rigs):
    rig = rigs["tied"]
    await rig.tell("keep_stale_kv", True)
    calls = rig.ask()
    await rig.midway(calls)
    await rig.update(drain=False)
    trajectories = rig.record(await asyncio.gather(*calls))
    await rig.tell("keep_stale_kv", False)
    assert several(trajectories) == REQUESTS
    with pytest.raises(AssertionError, match="they differ"):
        rig.check(trajectories)
    assert rig.gaps(trajectories).max() > 0.01
    await rig.update()  # which leaves nothing of it to those that follow


async def test_taken_out_and_gone_on_with_on_another_engine(rigs: Rigs):
    """Frozen, loaded, gone on, taken out, then asked for again: three versions in one answer."""
    rig = rigs["tied"]
    calls = rig.ask(session="here")
    await rig.midway(calls)
    await rig.update(drain=False)
    await rig.midway(calls, 24)
    await rig.engine.abort()
    first = await asyncio.gather(*calls)
    assert {c.stop_reason for c in first} == {"abort"}
    assert all(len(c.tokens) == len(c.logprobs) == len(c.versions) for c in first)
    parts = rig.record(first)
    rig.check(parts)

    await rig.update()
    before = [(list(t.behavior_logprobs), list(t.versions)) for t in parts]
    hog = asyncio.ensure_future(
        rig.engine([5], max_tokens=100, temperature=1.0, seed=0, session="hog")
    )
    await asyncio.sleep(0)
    rest = await asyncio.gather(*rig.ask(parts, session="there"))
    again = await asyncio.gather(*rig.ask(parts, session="there"), hog)
    assert [c.tokens for c in again[:-1]] == [c.tokens for c in rest], "a seed names one rest"
    assert {c.engine for c in first}.isdisjoint({c.engine for c in rest})
    whole = rig.record(rest, parts)
    rig.check(whole)
    for t, (logprobs, versions) in zip(whole, before, strict=True):
        assert t.behavior_logprobs[: len(logprobs)] == logprobs
        assert t.versions[: len(versions)] == versions
    assert all(len(set(t.versions) - {-1}) == 3 for t in whole)


async def test_pause_abort_and_resume_in_any_order(rigs: Rigs):
    rig = rigs["tied"]
    frozen = rig.ask()
    await rig.midway(frozen)
    await rig.engine.pause(drain=False)
    late = asyncio.ensure_future(rig.engine([5, 6], max_tokens=4, temperature=1.0, seed=0))
    await rig.engine.abort()
    parts = rig.record(await asyncio.gather(*frozen))
    assert not late.done()
    await rig.load()
    await rig.engine.resume()
    assert (await late).versions == [rig.version] * len((await late).tokens)

    running = rig.ask(parts)
    await rig.midway(running, 2)
    await rig.engine.abort()
    await rig.engine.pause(drain=False)
    await rig.engine.abort()
    await rig.load()
    await rig.engine.resume()
    parts = rig.record(await asyncio.gather(*running), parts)

    frozen = rig.ask(parts)
    await rig.midway(frozen, 2)
    await rig.engine.pause(drain=False)
    await rig.load()
    await rig.engine.abort()
    await rig.engine.resume()
    parts = rig.record(await asyncio.gather(*frozen), parts)

    frozen = rig.ask(parts)
    await rig.midway(frozen, 2)
    await rig.engine.pause(drain=False)
    await rig.engine.pause()  # lets them end
    rest = await asyncio.gather(*frozen)
    await rig.engine.resume()
    whole = rig.record(rest, parts)
    assert [t.num_sampled for t in whole] == [rig.max_tokens] * REQUESTS
    assert several(whole) == REQUESTS
    rig.check(whole)


async def test_taken_out_and_gone_on_with_after_a_restart(rigs: Rigs):
    """Last in this file: the engines that replace these two are not watched ones."""
    rig = rigs["tied"]
    calls = rig.ask()
    await rig.midway(calls)
    await rig.engine.abort()
    parts = rig.record(await asyncio.gather(*calls))
    before = [(list(t.behavior_logprobs), list(t.versions)) for t in parts]
    await rig.update()

    old = {pid for slot in rig.engine._set.slots for pid in slot.belongings.note()}
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    rest = await asyncio.gather(*rig.ask(parts))
    new = {pid for slot in rig.engine._set.slots for pid in slot.belongings.note()}
    assert rig.engine._set.deaths == 2 and new and not old & new

    whole = rig.record(rest, parts)
    for t, (logprobs, versions) in zip(whole, before, strict=True):
        assert t.behavior_logprobs[: len(logprobs)] == logprobs
        assert t.versions[: len(versions)] == versions
    assert several(whole) == REQUESTS
    rig.check(whole)
