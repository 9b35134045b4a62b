"""Prefix-cache hits travel from vLLM's output to the engine's metrics; no engine runs."""

import pytest

from rollouts.engine import RolloutConfig
from rollouts.vllm_engine import VllmEngine
from rollouts.vllm_worker import SampleRequest, SampleResult, engine_args


class Method:
    async def _answer(self, requests: list[SampleRequest]) -> list[SampleResult]:
        """All but the first request of a call find their prompt, but for its last token."""
        return [
            SampleResult([7], [-1.0], "length", [0], cached_tokens=len(r.tokens) - 1 if i else 0)
            for i, r in enumerate(requests)
        ]

    def remote(self, requests: list[SampleRequest]):
        return self._answer(requests)


class Worker:
    sample = Method()


async def test_cached_prompt_tokens_are_counted_until_they_are_drained():
    import asyncio

    engine = VllmEngine([Worker()], RolloutConfig())
    engine.use_loaded_weights()
    calls = (
        engine([1] * 5, max_tokens=1, temperature=1.0, seed=k, session="group") for k in range(3)
    )
    await asyncio.gather(*calls)
    assert engine.drain_metrics() == {"engine/prompt_tokens": 15.0, "engine/cached_tokens": 8.0}
    assert engine.drain_metrics() == {"engine/prompt_tokens": 0.0, "engine/cached_tokens": 0.0}


@pytest.mark.parametrize("gpus", [0, 1])
def test_only_cpu_engines_have_the_executor_that_does_not_spin(gpus: int):
    args = engine_args("folder", RolloutConfig(gpus_per_engine=gpus), 0)
    assert ("distributed_executor_backend" in args) is (gpus == 0)


def test_the_executor_waits_without_spinning_and_never_for_long(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    from rollouts.cpu_executor import CpuExecutor

    waits: list[int] = []
    spins = SimpleNamespace(busy_loop_s=1.0, wait=lambda timeout_ms: waits.append(timeout_ms))

    def start(self: MultiprocExecutor) -> None:
        self.response_mqs = [SimpleNamespace(_spin_condition=spins)]  # type: ignore[list-item]

    monkeypatch.setattr(MultiprocExecutor, "_init_executor", start)
    CpuExecutor.__new__(CpuExecutor)._init_executor()
    for timeout_ms in (5000, 1):
        spins.wait(timeout_ms=timeout_ms)
    assert spins.busy_loop_s == 0.0 and waits == [2, 1]
