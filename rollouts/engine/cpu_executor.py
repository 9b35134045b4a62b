"""vLLM's executor for CPU engines: its scheduler process waits for the model without spinning.

vLLM makes that process poll for a second after every reply, which suits a GPU's host. Where the
model's own threads need every core it costs a sixth of the generated tokens a second.
"""

from typing import Any

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

_RECHECK_MS = 2
"""vLLM's notification is dropped where it follows another one closely; it would then look again
after 5 s."""


class CpuExecutor(MultiprocExecutor):
    def _init_executor(self) -> None:
        super()._init_executor()
        for queue in self.response_mqs:
            wait_gently(queue._spin_condition)


def wait_gently(condition: Any) -> None:
    """Let a reader of vLLM's shared memory sleep until it is notified, for 2 ms at most."""
    wait = condition.wait
    condition.busy_loop_s = 0.0
    condition.wait = lambda timeout_ms: wait(timeout_ms=min(timeout_ms, _RECHECK_MS))
