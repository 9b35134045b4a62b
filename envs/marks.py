"""A mark in the environment, by which what a driver started is found whoever its parent is."""

from uuid import uuid4

KEY = "CONJOINT_OWNER"
DRIVER_MARK = uuid4().hex
"""Mark of this process. Each process that it starts with a mark carries this or an extension."""


def mark_environment(mark: str = DRIVER_MARK) -> dict[str, str]:
    """Variables that mark a process and all that it starts."""
    # A process that sets its title writes over its environment unless the second is there.
    return {KEY: mark, "SPT_NOENV": "1"}
