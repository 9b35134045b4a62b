"""`conjoint sft key=value ...`: build the nano policy by supervised fine-tuning, and cache it."""

import os
import sys


def run(overrides: list[str]) -> int:
    """Print the folder of the policy; keys are those of a run's config, such as sft.seed=1."""
    # Before torch loads: threads that spin while they wait make training many times slower as soon
    # as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Nano trains on the CPU wherever it is built; else DeepSpeed warns that it found no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from rl.config import load_config
    from rl.sft import nano_policy

    cfg = load_config(overrides)
    print(nano_policy(cfg.nano, cfg.asked))
    return 0


if __name__ == "__main__":
    from scripts.main import main_of

    main_of("sft", sys.argv[1:])
