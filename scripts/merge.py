"""`conjoint merge ADAPTER OUTPUT`: one model folder of a base model and a LoRA adapter."""

import sys
from pathlib import Path


def run(adapter: Path, output: Path, base: str | None = None) -> int:
    """Write the merged folder and print its path. Raises ConjointError for what does not fit."""
    from conjoint.rl.learner.lora import merge_adapter

    print(merge_adapter(adapter, output, base))
    return 0


if __name__ == "__main__":
    from conjoint.scripts.main import main_of

    main_of("merge", sys.argv[1:])
