"""`conjoint rubric SUBVERB RUBRIC... key=value ...`: the rubric designer's bench."""

import importlib

SUBVERBS = ("lint", "preview", "agree", "diff", "probe")
"""Each is scripts/rubric/NAME.py with a function `run(words) -> exit code`."""


def run(subverb: str, words: list[str]) -> int:
    """Run one tool; 0, 3 if lint or probe found something, or 128 + the signal that ended it."""
    from conjoint.envs.types import ConjointError

    if subverb not in SUBVERBS:
        raise ConjointError(f"rubric {subverb} is not known; expected {', '.join(SUBVERBS)}")
    return importlib.import_module(f"conjoint.scripts.rubric.{subverb}").run(words)
