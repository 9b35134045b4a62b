"""Our side of `conjoint bench rollout`: the engine and the learner of a run, driven by hand.

Both are Ray actors with their own processes, as in a run. Answers are forced to their length by an
engine that knows no end token.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conjoint.envs.types import (
    Completion,
    ConjointError,
    Group,
    Status,
    Task,
    Trajectory,
    derive_seed,
)
from conjoint.rl.algo.advantages import AdvantageConfig, assign_advantages
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.batch import make_batch
from conjoint.rl.learner.group import LearnerGroup, RankArguments
from conjoint.rl.models.shape import ModelShape
from conjoint.rl.weight_sync import PausedSync
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.renderer import Renderer
from conjoint.rollouts.weights.buffer import buffer_path
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from conjoint.scripts.bench.config import BenchRun
from conjoint.scripts.bench.rollout.questions import token_reward

LOSS = LossConfig("dapo", clip_high=0.28)
"""TRL's default objective, DAPO, with the upper clip that the DAPO paper recommends."""


def forced(rollout: RolloutConfig, longest: int, workdir: Path) -> RolloutConfig:
    """With room for the longest sequence, and with no token that ends an answer: vLLM reads those
    of the model's folder unless it is given another generation_config.json."""
    (workdir / "generation_config.json").write_text("{}", encoding="utf-8")
    return replace(
        rollout,
        max_model_len=max(rollout.max_model_len, longest),
        vllm={**rollout.vllm, "generation_config": str(workdir)},
    )


@dataclass(slots=True)
class TimedLearner:
    """The learner, with the seconds of its last transfer."""

    learner: LearnerGroup
    seconds: float = 0.0

    async def send_weights(self, sender: Any, version: int) -> Any:
        begun = time.perf_counter()
        sent = await self.learner.send_weights(sender, version)
        self.seconds = time.perf_counter() - begun
        return sent


@dataclass(slots=True)
class Ours:
    cfg: BenchRun
    model: Path
    engine: VllmEngine
    learner: LearnerGroup | None
    renderer: Renderer
    buffer: str
    version: int = 0
    send_seconds: list[float] = field(default_factory=list)
    _sync: PausedSync | None = None

    @staticmethod
    async def start(cfg: BenchRun, model: Path, rollout: RolloutConfig, *, learner: bool) -> "Ours":
        """Ray must be up. Without a learner the engine samples from the weights of the folder."""
        engine = VllmEngine.launch(str(model), rollout, cfg.seed, "shm")
        renderer = Renderer.load(model)
        ours = Ours(cfg, model, engine, None, renderer, buffer_path("bench"))
        try:
            ready = engine.ready([], rollout.start_timeout_s)
            if learner:
                arguments = RankArguments(model, cfg.learner, cfg.optim, LOSS, total_updates=1000)
                _, ours.learner = await asyncio.gather(ready, LearnerGroup.start(arguments))
                sync = replace(cfg.weight_sync, probe_every=0)
                sender = SharedMemorySender(ours.buffer)
                ours._sync = PausedSync(sync, sender, renderer.vocab_size, cfg.seed)
                await ours.sync()  # the first writes into cold memory
                ours.send_seconds.clear()
            else:
                await ready
                engine.use_loaded_weights()
        except BaseException:
            await ours.close()
            raise
        return ours

    async def close(self) -> None:
        await self.engine.close()
        if self.learner is not None:
            await self.learner.close()
        Path(self.buffer).unlink(missing_ok=True)

    async def answers(
        self, prompts: Sequence[Sequence[int]], tokens: int, session: str
    ) -> list[list[Completion]]:
        """`group_size` answers to each prompt, all asked at once, each group in one session."""
        size = self.cfg.bench.group_size
        found = await asyncio.gather(
            *(
                self.engine(
                    prompt,
                    max_tokens=tokens,
                    temperature=1.0,
                    seed=derive_seed(session, index, k),
                    session=f"{session}/{index}",
                )
                for index, prompt in enumerate(prompts)
                for k in range(size)
            )
        )
        if short := [c for c in found if len(c.tokens) != tokens]:
            raise ConjointError(
                f"{len(short)} answers are not of bench.answer_tokens={tokens} tokens: the engine "
                "ended them; remove rollout.vllm keys that do"
            )
        return [found[i : i + size] for i in range(0, len(found), size)]

    async def sync(self) -> float:
        """Seconds until the engines sample again, on new weights that they have confirmed."""
        assert self._sync is not None and self.learner is not None
        learner: Any = TimedLearner(self.learner)
        begun = time.perf_counter()
        await self._sync(learner, self.engine, self.version)
        seconds = time.perf_counter() - begun
        self.version += 1
        self.send_seconds.append(learner.seconds)
        return seconds

    async def step(
        self,
        tasks: Sequence[Task],
        tokens: int,
        judge: Callable[[Sequence[Group]], Awaitable[None]] | None = None,
    ) -> tuple[dict[str, float], int]:
        """Seconds of each phase of one joint step, and the tokens it trained on. `judge` is asked
        when all answers are there, and changes no reward."""
        assert self.learner is not None
        marks = {"begin": time.perf_counter()}
        prompts = [self.renderer.prompt(task.messages) for task in tasks]
        answers = await self.answers(prompts, tokens, f"step-{self.version}")
        marks["generate"] = time.perf_counter()
        groups = [
            Group(task, [self._trajectory(prompt, c) for c in members], index)
            for index, (task, prompt, members) in enumerate(
                zip(tasks, prompts, answers, strict=True)
            )
        ]
        if judge is not None:
            await judge(groups)
        assign_advantages(groups, AdvantageConfig("group_std"), self.cfg.seed)
        cost = ModelShape.cost_of(self.model)
        batch = make_batch(groups, [], self.cfg.learner, 0.0, cost)
        marks["score"] = time.perf_counter()
        await self.learner.step(batch, self.version - 1)
        marks["train"] = time.perf_counter()
        await self.sync()
        marks["sync"] = time.perf_counter()
        times = list(marks.values())
        split = {name: times[i + 1] - times[i] for i, name in enumerate(list(marks)[1:])}
        return split, sum(update.num_tokens for update in batch.updates)

    def _trajectory(self, prompt: Sequence[int], completion: Completion) -> Trajectory:
        t = Trajectory(status=Status.TRUNCATED)
        t.extend_context(prompt)
        t.extend_sampled(completion)
        t.messages.append({"role": "assistant", "content": self.renderer.text(completion.tokens)})
        t.reward = token_reward(completion.tokens)
        return t


def vocabulary(model: Path) -> int:
    return json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
