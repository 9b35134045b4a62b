"""The parts of `conjoint bench rollout`: each returns its figures and what they were measured on.

Rounds are interleaved: while one side runs, the other waits.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import numpy as np

from conjoint.envs.types import ConjointError, derive_seed
from conjoint.rl.models.shape import BY_TOKENS, ModelShape
from conjoint.scripts.bench.config import Figures, Runs
from conjoint.scripts.bench.rollout.child import Child
from conjoint.scripts.bench.rollout.ours import Ours, vocabulary
from conjoint.scripts.bench.rollout.prefix import Recorder, cacheable_tokens, judge_group
from conjoint.scripts.bench.rollout.questions import floor_seconds, questions

WARM_TOKENS = 4
_REST_S = 1.5


async def ask(child: Child, what: str, timeout_s: float, **given: Any) -> dict[str, Any]:
    return await asyncio.to_thread(child.ask, what, timeout_s, **given)


async def interleaved(variants: dict[str, Callable[[int], Awaitable[float]]], repeats: int) -> Runs:
    """What each variant returns in each round, one after the other; every other round in the
    opposite order, so that what drifts over a round falls on each alike. Each begins when the last
    one's processes have come to rest: vLLM's poll for a second after they have answered."""
    runs: Runs = {name: [] for name in variants}
    for number in range(repeats):
        order = list(variants) if number % 2 == 0 else list(reversed(variants))
        for name in order:
            await asyncio.sleep(_REST_S)
            runs[name].append(await variants[name](number))
    return runs


def ratio(runs: Runs, over: str, under: str) -> float:
    return median(runs[over]) / median(runs[under])


def random_prompts(count: int, tokens: int, vocab: int, *seed: object) -> list[list[int]]:
    rng = np.random.default_rng(derive_seed(*seed))
    return rng.integers(0, vocab, (count, tokens)).tolist()


async def generation(ours: Ours, others: dict[str, Child]) -> tuple[Figures, dict[str, Any]]:
    """The same requests by our engine and by `LLM.generate`; new prompts in every round."""
    cfg, bench = ours.cfg, ours.cfg.bench
    tokens: dict[int, dict[str, list[list[int]]]] = {}

    def prompts(number: int) -> list[list[int]]:
        return random_prompts(
            bench.prompts, bench.prompt_tokens, vocabulary(ours.model), cfg.seed, "prompts", number
        )

    async def by_us(number: int, length: int = bench.answer_tokens) -> float:
        begun = time.perf_counter()
        found = await ours.answers(prompts(number), length, f"round-{number}")
        seconds = time.perf_counter() - begun
        tokens.setdefault(number, {})["ours"] = [c.tokens for group in found for c in group]
        return seconds

    async def bare(number: int, length: int = bench.answer_tokens) -> float:
        requests = [
            {
                "tokens": prompt,
                "max_tokens": length,
                "temperature": 1.0,
                "seed": derive_seed(f"round-{number}", index, k),
            }
            for index, prompt in enumerate(prompts(number))
            for k in range(bench.group_size)
        ]
        limit = cfg.rollout.request_timeout_s
        answer = await ask(others["bare"], "generate", limit, requests=requests)
        tokens.setdefault(number, {})["bare"] = answer["tokens"]
        return answer["seconds"]

    for side in (by_us, bare):
        await side(-1, WARM_TOKENS)
    runs = await interleaved({"ours": by_us, "bare": bare}, bench.repeats)
    rounds = [tokens[n] for n in range(bench.repeats)]
    for answers in (a for sides in rounds for side in sides.values() for a in side):
        if len(answers) != bench.answer_tokens:
            raise ConjointError("bare vLLM ended an answer early: the two sides differ in work")
    same = [a == b for side in rounds for a, b in zip(side["ours"], side["bare"], strict=True)]
    count = bench.prompts * bench.group_size * bench.answer_tokens
    rates = {name: round(count / median(seconds), 1) for name, seconds in runs.items()}
    said = {
        "generated tokens a second": rates,
        "answers equal to bare vLLM's, token for token": sum(same) / len(same),
    }
    return {"generation_time": (ratio(runs, "ours", "bare"), runs)}, said


async def sync(ours: Ours, others: dict[str, Child]) -> tuple[Figures, dict[str, Any]]:
    """Learner -> engine, confirmed and sampling again, against vLLM's own ways to reload."""
    bare, limit = others["bare"], ours.cfg.rollout.request_timeout_s
    held = await ask(bare, "hold", limit, args=[str(ours.model)])
    with tempfile.TemporaryDirectory(prefix="conjoint-bench-") as folder:
        args: dict[str, list[str]] = {"reload_file": [f"{folder}/model.safetensors"]}

        def call(method: str) -> Callable[[int], Awaitable[float]]:
            async def seconds(_: int) -> float:
                answer = await ask(bare, method, limit, args=args.get(method, []))
                return answer["seconds"]

            return seconds

        variants: dict[str, Callable[[int], Awaitable[float]]] = {
            "ours": lambda _: ours.sync(),
            **{name: call(name) for name in ("reload", "reload_file", "copy")},
        }
        await interleaved(variants, 1)  # buffers and files are cold
        ours.send_seconds.clear()
        runs = await interleaved(variants, ours.cfg.bench.repeats)
    send = median(ours.send_seconds)
    said = {
        "weights": f"{held['value'] / 1e6:.0f} MB",
        "sync, s": {
            "written and checked by the learner": round(send, 3),
            "paused, loaded, confirmed, resumed": round(median(runs["ours"]) - send, 3),
            "plain copy of the tensors": round(median(runs["copy"]), 3),
        },
    }
    figures: Figures = {
        "sync_over_reload": (ratio(runs, "ours", "reload"), runs),
        "sync_over_file": (ratio(runs, "ours", "reload_file"), runs),
    }
    return figures, said


async def prefix(ours: Ours, others: dict[str, Child]) -> tuple[Figures, dict[str, Any]]:
    """Cached prompt tokens of the answers of groups, and of judge prompts in both orders."""
    cfg, bench, engine = ours.cfg, ours.cfg.bench, ours.engine
    recorder = Recorder(engine)
    counted: dict[str, tuple[list[list[int]], float]] = {}

    async def count(name: str, work: Awaitable[Any]) -> None:
        engine.drain_metrics()
        recorder.prompts.clear()
        await work
        counted[name] = list(recorder.prompts), engine.drain_metrics()["engine/cached_tokens"]

    async def groups() -> None:
        prompts = random_prompts(
            bench.prompts, bench.prompt_tokens, vocabulary(ours.model), cfg.seed, "prefix"
        )
        await asyncio.gather(
            *(
                recorder(p, max_tokens=1, temperature=1.0, seed=k, session=f"prefix/{i}")
                for i, p in enumerate(prompts)
                for k in range(bench.group_size)
            )
        )

    await count("group", groups())
    await count("judge", judge_group(recorder, ours.renderer, cfg))
    figures: Figures = {}
    said: dict[str, Any] = {}
    for name, (prompts, cached) in counted.items():
        total = sum(map(len, prompts))
        could = cacheable_tokens(prompts, cfg.rollout.block_size)
        runs = {"cached": [cached], "cacheable": [float(could)], "prompt": [float(total)]}
        figures[f"{name}_hits"] = (cached / could if could else 0.0, runs)
        said[f"{name} prompts"] = (
            f"{len(prompts)} of {total / len(prompts):.0f} tokens; {cached / total:.1%} cached, "
            f"{could / total:.1%} cacheable in blocks of {cfg.rollout.block_size}"
        )
    return figures, said


async def joint(ours: Ours, others: dict[str, Child]) -> tuple[Figures, dict[str, Any]]:
    """Generate, score, one update, sync, against a step of GRPOTrainer."""
    cfg, bench, trl = ours.cfg, ours.cfg.bench, others["trl"]
    tasks, limit = questions(bench.prompts), cfg.learner.step_seconds
    splits: list[dict[str, float]] = []
    theirs: list[dict[str, Any]] = []
    trained: set[int] = set()

    async def by_us(_: int) -> float:
        begun = time.perf_counter()
        split, tokens = await ours.step(tasks, bench.answer_tokens)
        seconds = time.perf_counter() - begun
        splits.append(split)
        trained.add(tokens)
        return seconds

    async def by_trl(_: int) -> float:
        answer = await ask(trl, "step", limit, warm=False)
        theirs.append(answer)
        trained.add(answer["trained_tokens"])
        return answer["seconds"]

    await ours.step(tasks, WARM_TOKENS)
    await ask(trl, "step", limit, warm=True)
    gflops = (await ask(trl, "gemm", limit, threads=cfg.learner.threads))["gflops"]
    runs = await interleaved({"ours": by_us, "trl": by_trl}, bench.repeats)
    count = bench.prompts * bench.group_size * bench.answer_tokens
    lengths = [len(ours.renderer.prompt(task.messages)) for task in tasks]
    prompts = {sum(lengths) * bench.group_size, *(t["prompt_tokens"] for t in theirs)}
    if trained != {count} or len(prompts) > 1:
        raise ConjointError(
            f"the two sides differ in work: {trained} tokens trained of {count}, {prompts} of "
            "prompts; choose a model whose chat template both read alike"
        )
    phases = {key: median(s[key] for s in splits) for key in splits[0]}
    generate = median(t["generate"] for t in theirs)
    said: dict[str, Any] = {
        "trained tokens": f"{count}, and {sum(lengths)} of {bench.prompts} prompts",
        "trained tokens a second": {k: round(count / median(v), 1) for k, v in runs.items()},
        "our step, s": {key: round(value, 2) for key, value in phases.items()},
        "TRL's step, s": {
            "generate and score": round(generate, 2),
            "train": round(median(runs["trl"]) - generate, 2),
        },
    }
    if (cost := ModelShape.cost_of(ours.model)) is not BY_TOKENS:
        floor = floor_seconds(cost, lengths, bench.group_size, bench.answer_tokens, gflops)
        at_floor = median(runs["trl"]) / sum(floor.values())
        said[f"floor at {gflops:.0f} GFLOP/s of a matrix product, s"] = {
            **{key: round(value, 2) for key, value in floor.items()},
            "joint_speedup there": round(at_floor, 2),
        }
    return {"joint_speedup": (ratio(runs, "trl", "ours"), runs)}, said


Part = Callable[[Ours, dict[str, Child]], Awaitable[tuple[Figures, dict[str, Any]]]]
PARTS: dict[str, Part] = {
    "generation": generation,
    "sync": sync,
    "prefix": prefix,
    "joint": joint,
}
