"""vLLM's executor for CPU engines: its scheduler process waits for the model without spinning.

vLLM makes that process poll for a second after every reply, which suits a GPU's host. Where the
model's own threads need every core it costs a sixth of the generated tokens a second.
"""

from vllm.v1.executor.multiproc_executor import MultiprocExecutor


class CpuExecutor(MultiprocExecutor):
    def _init_executor(self) -> None:
        super()._init_executor()
        for queue in self.response_mqs:
            queue._spin_condition.busy_loop_s = 0.0
