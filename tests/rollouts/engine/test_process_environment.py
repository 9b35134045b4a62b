"""The environment of engines and learner ranks."""

import os
import platform
import subprocess
import sys

import pytest

from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.process_environment import process_environment
from conjoint.rollouts.engine.vllm_worker import engine_environment

PAGES = """
import resource
size, rounds = 64 << 20, 8
for _ in range(rounds):
    filled = b"x" * size
    del filled
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize() / size)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again_without_the_kernel():
    def times_mapped(**environment: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", PAGES],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return float(done.stdout)

    assert times_mapped(**process_environment(2)) < 3
    assert times_mapped() > 6, "nothing to gain: the test measures something else"


def test_engines_on_cpu_get_it_and_their_threads():
    on_cpu = engine_environment(RolloutConfig(threads=3), "shm")
    assert process_environment(3).items() <= on_cpu.items()
    assert on_cpu["OMP_NUM_THREADS"] == "3"
    on_gpu = engine_environment(RolloutConfig(gpus_per_engine=1), "nccl")
    assert not process_environment(3).keys() & on_gpu.keys()
