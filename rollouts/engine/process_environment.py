"""What a process that computes must find in its environment before it starts."""

import contextlib
import os
from collections.abc import Iterator, Mapping

ONE_MACHINE = {"GLOO_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}
"""For processes that talk to others of their machine only: gloo would listen on the address of the
host's name. NCCL is not named here, because weights may travel further than an engine does."""


@contextlib.contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Processes started within the block get these variables; None takes one away."""
    before = {key: os.environ.get(key) for key in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for key, value in variables.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def process_environment(threads: int) -> dict[str, str]:
    """For `threads` threads of torch. The last two are glibc's; another allocator ignores them."""
    return {
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait must not spin: engines, learner and jail share these cores. Spinning
        # cost ten times the step.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Freed memory stays with the process. Given back to the kernel, each large tensor is
        # mapped and zeroed page by page again: a sixth of a learner's step.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 60),
    }
