"""A policy that answers, from config: engines started for it, or an endpoint."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import ray

from conjoint.envs.types import ConjointError, Task
from conjoint.rl.cluster.ray_start import start_ray
from conjoint.rl.models.shape import positions
from conjoint.rl.nano.sft import SftConfig
from conjoint.rl.nano.start_policy import policy_folder
from conjoint.rollouts.chat import ChatPolicy, EngineChat
from conjoint.rollouts.endpoint import EndpointPolicy
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.renderer import Renderer
from conjoint.scripts.eval.config import SampleConfig


@asynccontextmanager
async def opened(
    cfg: SampleConfig,
    model: Path | None,
    tasks: Iterable[tuple[Task, int]],
    say: Callable[[str], None],
    on_ray: Callable[[], None] = lambda: None,
) -> AsyncIterator[ChatPolicy]:
    """The policy of the config, ready to answer `tasks`: each with the tokens of its answer.

    `model` is its folder, None for an endpoint and for nano, which is built where it is not yet.
    `say` gets a word on what takes long; `on_ray` is called once Ray runs, which takes the signals
    for itself. What was started ends with the block.
    """
    if cfg.endpoint:
        policy = EndpointPolicy(cfg.endpoint_config())
        try:
            await policy.check()
            yield policy
        finally:
            await policy.close()
        return
    folder = model or await policy_folder(cfg.model, SftConfig())
    renderer = Renderer.load(folder)
    length = fitting_length(cfg, folder, renderer, tasks)
    say(f"starting Ray and {cfg.rollout.backend} with a context of {length} tokens ...")
    await asyncio.to_thread(start_ray, cfg.cluster)
    try:
        on_ray()
        engine = VllmEngine.launch(str(folder), cfg.engine_config(length), cfg.seed, "shm")
        try:
            await engine.ready(renderer.stop_ids, cfg.rollout.start_timeout_s)
            engine.use_loaded_weights()
            yield EngineChat(engine, renderer, length)
        finally:
            await engine.close()
    finally:
        await asyncio.to_thread(ray.shutdown)


def fitting_length(
    cfg: SampleConfig, folder: Path, renderer: Renderer, tasks: Iterable[tuple[Task, int]]
) -> int:
    """Tokens of context: what is configured, else what the longest prompt and answer need, but
    never more than the model has positions. Raises ConjointError if more is configured."""
    most = positions(folder)
    if cfg.max_model_len is not None:
        if most is not None and cfg.max_model_len > most:
            raise ConjointError(
                f"max_model_len={cfg.max_model_len}, but the model has {most} positions; lower it"
            )
        return cfg.max_model_len
    needed = max(len(renderer.prompt(task.messages)) + budget for task, budget in tasks)
    return needed if most is None else min(needed, most)
