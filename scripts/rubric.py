"""`conjoint rubric SUBVERB RUBRIC... key=value ...`: the rubric designer's bench."""

import importlib
import sys

SUBVERBS = ("lint", "preview", "agree", "diff", "probe")
"""Each is rl/rubric/NAME.py with a function `run(words) -> exit code`."""


def run(subverb: str, words: list[str]) -> int:
    """Run one tool; 0, 3 if lint or probe found something, or 128 + the signal that ended it."""
    from rl.types import ConjointError

    if subverb not in SUBVERBS:
        raise ConjointError(f"rubric {subverb} is not known; expected {', '.join(SUBVERBS)}")
    return importlib.import_module(f"rl.rubric.{subverb}").run(words)


if __name__ == "__main__":
    from scripts.main import main_of

    main_of("rubric", sys.argv[1:])
