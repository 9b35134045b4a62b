"""`conjoint data SUBVERB input=FILE output=FILE key=value ...`: task rows in, task rows out."""

import importlib

from conjoint.envs.types import ConjointError

SUBVERBS = ("difficulty", "guessable", "decontaminate", "validate", "evolve", "pairs")
"""Each is scripts/data/NAME.py with a function `run(overrides) -> exit code`."""


def run(subverb: str, overrides: list[str]) -> int:
    """Run one tool and return its exit code: 0, or 128 + the signal that ended it early."""
    if subverb not in SUBVERBS:
        raise ConjointError(f"there is no data tool {subverb!r}; choose {', '.join(SUBVERBS)}")
    return importlib.import_module(f"conjoint.scripts.data.{subverb}").run(overrides)
