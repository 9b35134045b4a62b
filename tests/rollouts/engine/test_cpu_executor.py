"""CPU engines wait for the model without spinning; no engine runs."""

import pytest

from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.vllm_worker import engine_args


@pytest.mark.parametrize("gpus", [0, 1])
def test_only_cpu_engines_have_the_executor_that_does_not_spin(gpus: int):
    args = engine_args("folder", RolloutConfig(gpus_per_engine=gpus), 0)
    assert ("distributed_executor_backend" in args) is (gpus == 0)


def test_the_executor_waits_without_spinning_and_never_for_long(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    from conjoint.rollouts.engine.cpu_executor import CpuExecutor

    waits: list[int] = []
    spins = SimpleNamespace(busy_loop_s=1.0, wait=lambda timeout_ms: waits.append(timeout_ms))

    def start(self: MultiprocExecutor) -> None:
        self.response_mqs = [SimpleNamespace(_spin_condition=spins)]  # type: ignore[list-item]

    monkeypatch.setattr(MultiprocExecutor, "_init_executor", start)
    CpuExecutor.__new__(CpuExecutor)._init_executor()
    for timeout_ms in (5000, 1):
        spins.wait(timeout_ms=timeout_ms)
    assert spins.busy_loop_s == 0.0 and waits == [2, 1]
