"""The Ray actor around one vLLM engine. Runs in a process of its own; the driver's side of it is
`rollouts/engine/driver.py`."""

import asyncio
from dataclasses import dataclass
from typing import Any

from conjoint.rollouts.engine.admission import Load
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.load_meter import LoadMeter
from conjoint.rollouts.engine.process_environment import ONE_MACHINE, process_environment

_BACKENDS = {"shm": "shm", "nccl": "conjoint_nccl", "ipc": "conjoint_ipc"}
"""weight_sync.backend -> the name under which vLLM knows the receiving side."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    tokens: list[int]
    max_tokens: int
    temperature: float
    seed: int
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class SampleResult:
    tokens: list[int]
    logprobs: list[float]
    stop_reason: str
    versions: list[int]
    """Version of the weights that drew each token."""


@dataclass(frozen=True, slots=True)
class Sampled:
    results: list[SampleResult]
    load: Load
    """The worker's load since its last answer. It travels with the answer, so that nobody has to
    ask for it."""


def engine_environment(cfg: RolloutConfig, backend: str) -> dict[str, str]:
    """Environment of the actor's process, which vLLM's own processes inherit."""
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", **ONE_MACHINE}
    if backend == "ipc":
        # Handles of GPU memory travel by pickle, between the processes of this engine only.
        environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if not cfg.gpus_per_engine:
        environment |= process_environment(cfg.threads) | {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(cfg.kv_cache_gb))),
        }
    return environment


def engine_args(model: str, cfg: RolloutConfig, seed: int) -> dict[str, Any]:
    """AsyncEngineArgs of one worker; `rollout.vllm` is merged last."""
    on_gpu = cfg.gpus_per_engine > 0
    args: dict[str, Any] = {
        "model": model,
        "skip_tokenizer_init": True,
        "dtype": cfg.dtype,
        "seed": seed,
        "max_model_len": cfg.max_model_len,
        "block_size": cfg.block_size,
        "max_num_seqs": cfg.max_num_seqs,
        "tensor_parallel_size": cfg.tensor_parallel,
        # Log-probs of the distribution really sampled: after temperature and top-p.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,  # vLLM's own; the worker adds a logger for itself
        "enforce_eager": not on_gpu,
        "enable_sleep_mode": cfg.sleep,
        "worker_extension_cls": "conjoint.rollouts.weights.shm_receiver.WorkerExtension",
    }
    if cfg.tensor_parallel > 1:
        # Inside a placement group vLLM would ask Ray for GPUs that this actor already holds.
        args["distributed_executor_backend"] = "mp"
    if not on_gpu:
        # A seeded request whose prefill is cut in chunks kills a CPU engine of vLLM 0.32
        # ("CPU Generator does not use offset"), so prompts are prefilled whole.
        args |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, cfg.max_model_len),
            "distributed_executor_backend": "conjoint.rollouts.engine.cpu_executor.CpuExecutor",
        }
    return args | cfg.vllm


class VllmWorker:
    """Async methods only; made a Ray actor by `rollouts/engine/actor.py`."""

    def __init__(self, model: str, cfg: RolloutConfig, seed: int, backend: str) -> None:
        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RepetitionDetectionParams
        from vllm.v1.engine.async_llm import AsyncLLM

        import conjoint.rollouts.weights.shm_receiver  # noqa: F401 - registers our backends here too

        self._stop_ids: list[int] = []
        self._repetition = (
            RepetitionDetectionParams(cfg.repeat_pattern, min_count=cfg.repeat_count)
            if cfg.repeat_pattern
            else None
        )
        self._count = 0
        self._running: set[str] = set()
        self._meter = LoadMeter()
        self._asleep = False
        args = AsyncEngineArgs(
            **engine_args(model, cfg, seed),
            weight_transfer_config=WeightTransferConfig(backend=_BACKENDS[backend]),
        )
        loggers: Any = [lambda *_: self._meter]
        self._llm = AsyncLLM.from_engine_args(args, stat_loggers=loggers)

    async def ready(self, stop_ids: list[int]) -> None:
        self._stop_ids = stop_ids
        await self._llm.update_weight_version("0")

    async def init_transfer(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def sample(self, requests: list[SampleRequest]) -> Sampled:
        """Answers all requests of one session; returns when the last has ended."""
        results = await asyncio.gather(*map(self._sample_one, requests))
        return Sampled(list(results), self._meter.report(len(results)))

    async def _sample_one(self, request: SampleRequest) -> SampleResult:
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_token_ids=self._stop_ids,
            logprobs=0,
            repetition_detection=self._repetition,
        )
        ended = await self._final_output(request.tokens, params)
        self._meter.answered(len(request.tokens), ended.num_cached_tokens or 0)
        output = ended.outputs[0]
        steps = output.logprobs or []  # none if it was aborted before its first token
        logprobs = [step[t].logprob for t, step in zip(output.token_ids, steps, strict=True)]
        spans = output.weight_versions or []
        return SampleResult(
            tokens=list(output.token_ids),
            logprobs=logprobs,
            stop_reason=str(output.finish_reason),
            versions=[int(s.version) for s in spans for _ in range(s.start, s.end)],
        )

    async def _final_output(self, tokens: list[int], params: Any) -> Any:
        from vllm import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params.detokenize = False
        params.output_kind = RequestOutputKind.FINAL_ONLY
        self._count += 1
        request = str(self._count)
        prompt = TokensPrompt(prompt_token_ids=tokens)
        self._running.add(request)
        self._meter.entered(1)
        try:
            outputs = self._llm.generate(prompt, params, request_id=request)
            return [output async for output in outputs][-1]
        finally:
            self._running.discard(request)
            self._meter.entered(-1)

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        """log p(tokens[i] | tokens[:i]) at temperature 1, for i >= 1."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0)
        output = await self._final_output(tokens, params)
        return [
            step[token].logprob
            for token, step in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)
        ]

    async def sleep(self) -> None:
        """Give back the GPU's memory: weights and KV cache are dropped, not kept on the host, for
        new weights come before the next request. Loading them wakes their memory, `resume` the
        cache's."""
        await self._llm.sleep(level=2)
        self._asleep = True

    async def pause(self, drain: bool) -> None:
        if self._asleep:
            return
        # clear_cache drops KV of old weights, that of frozen requests too, and makes prefix hits
        # start anew each step, so that a resumed run sees the same hits as an uninterrupted one.
        # `pause_generation` would do this and then sleep for 20 ms.
        mode = "wait" if drain else "keep"
        await self._llm.engine_core.pause_scheduler_async(mode=mode, clear_cache=True)
        self._meter.froze()

    async def abort(self) -> None:
        """Each running request returns what it has."""
        await self._llm.abort(list(self._running))
        self._meter.emptied()

    async def resume(self) -> None:
        if self._asleep:
            await self._llm.wake_up(["kv_cache"])
            self._asleep = False
        await self._llm.resume_generation()

    async def load_weights(self, update_info: dict[str, Any] | None, version: int) -> list[Any]:
        """Load one update, if there is one left to load; returns what each vLLM worker says it
        received."""
        if update_info is None:
            return await self._llm.collective_rpc("weight_receipt")
        if self._asleep:
            await self._llm.wake_up(["weights"])
        receipts = await self._llm.collective_rpc("load_update", args=(update_info,))
        await self._llm.update_weight_version(str(version))
        return receipts

    async def start_weight_update(self) -> None:
        if self._asleep:
            await self._llm.wake_up(["weights"])
        await self._llm.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.update_weights(WeightTransferUpdateRequest(update_info))

    async def finish_weight_update(self, version: int) -> None:
        await self._llm.finish_weight_update(weight_version=str(version))
