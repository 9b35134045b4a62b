"""`conjoint bench rollout`: generation, weight sync, prefix cache and the joint step, each beside
what it is measured against. Starts both sides, and ends them."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import ray

from conjoint.envs.types import ConjointError, derive_seed
from conjoint.rl.cluster.ray_start import start_ray
from conjoint.rl.models.resolve import SMOLLM2, resolve_model
from conjoint.rl.nano.start_policy import policy_folder
from conjoint.rollouts.engine.vllm_worker import engine_args, engine_environment
from conjoint.rollouts.renderer import Renderer
from conjoint.rollouts.weights.buffer import sweep_buffers
from conjoint.scripts.bench.config import BenchRun, Figures, against_targets
from conjoint.scripts.bench.rollout.child import Child
from conjoint.scripts.bench.rollout.ours import Ours, forced
from conjoint.scripts.bench.rollout.parts import PARTS, ask
from conjoint.scripts.bench.rollout.prefix import longest_judge_prompt


def measure(cfg: BenchRun) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes minutes."""
    check_cpu(cfg)
    if cfg.learner.tokens_per_microbatch < cfg.bench.prompt_tokens + cfg.bench.answer_tokens:
        raise ConjointError(
            f"learner.tokens_per_microbatch={cfg.learner.tokens_per_microbatch} cannot hold one "
            "sequence of bench.prompt_tokens + bench.answer_tokens"
        )
    with tempfile.TemporaryDirectory(prefix="conjoint-bench-") as workdir:
        figures, setting = asyncio.run(_measure(cfg, Path(workdir)))
    return {
        "ratios": against_targets(figures, cfg.bench.targets),
        "setting": setting,
    }


def check_cpu(cfg: BenchRun) -> None:
    """All sides run on the CPU, with one engine, one rank and as many threads."""
    needed = {
        "rollout.backend": (cfg.rollout.backend, "vllm"),
        "weight_sync.backend": (cfg.weight_sync.backend, "shm"),
        "rollout.engines": (cfg.rollout.engines, 1),
        "rollout.gpus_per_engine": (cfg.rollout.gpus_per_engine, 0),
        "learner.ranks": (cfg.learner.ranks, 1),
        "learner.gpus_per_rank": (cfg.learner.gpus_per_rank, 0),
        "learner.dtype": (cfg.learner.dtype, "fp32"),
        "learner.threads": (cfg.learner.threads, cfg.rollout.threads),
        "learner.updates_per_batch": (cfg.learner.updates_per_batch, 1),
        "optim.name": (cfg.optim.name, "adamw"),
    }
    for key, (given, same) in needed.items():
        if given != same:
            raise ConjointError(
                f"{key}={given}: conjoint bench compares like with like on the CPU; "
                f"set {key}={same}"
            )


async def bench_model(cfg: BenchRun) -> tuple[Path, str]:
    """The folder, and what it is; nano where SmolLM2's weights are not installed."""
    if cfg.bench.model == "nano":
        return await policy_folder("nano", cfg.nano, cfg.asked), "nano"
    try:
        return resolve_model(cfg.bench.model), cfg.bench.model
    except ConjointError as error:
        if cfg.bench.model != SMOLLM2:
            raise
        return await policy_folder("nano", cfg.nano, cfg.asked), f"nano, because {error}"


async def _measure(cfg: BenchRun, workdir: Path) -> tuple[Figures, dict[str, Any]]:
    bench, parts = cfg.bench, cfg.bench.parts
    model, name = await bench_model(cfg)
    longest = bench.prompt_tokens + bench.answer_tokens
    if "prefix" in parts:
        longest = max(longest, 1 + await longest_judge_prompt(Renderer.load(model), cfg))
    rollout = forced(cfg.rollout, longest, workdir)
    figures: Figures = {}
    setting: dict[str, Any] = {
        "model": name,
        "threads": cfg.learner.threads,
        "answers": f"{bench.prompts} x {bench.group_size} of {bench.answer_tokens} tokens",
    }
    others: dict[str, Child] = {}
    loading: list[asyncio.Task[dict[str, Any]]] = []
    ours = None
    sweep_buffers()
    # Before the others: Ray gives up where they hold the cores for too long.
    await asyncio.to_thread(start_ray, cfg.cluster)
    try:
        if {"generation", "sync"} & set(parts):
            args = engine_args(str(model), rollout, derive_seed(cfg.seed, "engine", 0))
            environment = engine_environment(rollout, "shm")
            others["bare"] = Child("conjoint.scripts.bench.rollout.bare_vllm", args, environment)
        if "joint" in parts:
            others["trl"] = Child(
                "conjoint.scripts.bench.rollout.trl_trainer",
                _trl_setting(cfg, model),
                _threads(cfg),
            )
        # All at once: each takes half a minute to load.
        limit = rollout.start_timeout_s
        loading = [asyncio.create_task(ask(child, "ready", limit)) for child in others.values()]
        learner = bool({"sync", "joint"} & set(parts))
        ours = await Ours.start(cfg, model, rollout, learner=learner)
        await asyncio.gather(*loading)
        for part in (p for p in PARTS if p in parts):
            if part in ("prefix", "joint") and "bare" in others:
                # Its memory: all three sides together leave little of 24 GB.
                await asyncio.to_thread(others.pop("bare").close)
            found, said = await PARTS[part](ours, others)
            figures |= found
            setting |= said
        return figures, setting
    finally:
        for child in others.values():
            child.close()
        await asyncio.gather(*loading, return_exceptions=True)
        if ours is not None:
            await ours.close()
        await asyncio.to_thread(ray.shutdown)


def _trl_setting(cfg: BenchRun, model: Path) -> dict[str, Any]:
    bench, optim = cfg.bench, cfg.optim
    return {
        "model": str(model),
        "threads": cfg.learner.threads,
        "prompts": bench.prompts,
        "group_size": bench.group_size,
        "answer_tokens": bench.answer_tokens,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "beta1": optim.beta1,
        "beta2": optim.beta2,
        "gradient_clipping": cfg.learner.gradient_clipping,
    }


def _threads(cfg: BenchRun) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(cfg.learner.threads), "TOKENIZERS_PARALLELISM": "false"}
