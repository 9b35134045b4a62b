"""What a process that computes must find in its environment before it starts."""


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
