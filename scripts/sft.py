"""`conjoint sft key=value ...`: build the nano policy by supervised fine-tuning, and cache it."""

import json
import os
import sys
from pathlib import Path


def run(overrides: list[str]) -> int:
    """Print the folder of the policy; keys are those of a run's config, such as sft.seed=1."""
    # Before torch loads: threads that spin while they wait make training many times slower as soon
    # as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Nano trains on the CPU wherever it is built; else DeepSpeed warns that it found no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from conjoint.envs.types import ConjointError
    from conjoint.rl.config.compose import load_config
    from conjoint.rl.nano.cache import nano_policy

    cfg = load_config(overrides)
    if cfg.model != "nano":
        raise ConjointError(f"model={cfg.model}: conjoint sft makes nano and no other model")
    folder = nano_policy(cfg.nano, cfg.asked)
    if cfg.sft.preferences.path:
        print(preference_words(folder))
    print(folder)
    return 0


def preference_words(folder: Path) -> str:
    """What became of the preference pairs of the nano in `folder`."""
    counts = json.loads((folder / "sft.json").read_text(encoding="utf-8"))
    prefix = "preferences_left_out/"
    left_out = {k.removeprefix(prefix): int(n) for k, n in counts.items() if k.startswith(prefix)}
    words = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
    return f"preferences: {int(counts['preference_pairs']):,} pairs; left out: {words or 'none'}"


if __name__ == "__main__":
    from conjoint.scripts.main import main_of

    main_of("sft", sys.argv[1:])
