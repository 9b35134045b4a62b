"""What nano learns from, by task kind: sources, demonstrations and pairs for the judge."""

from collections.abc import Callable

from conjoint.envs.nano.arithmetic import Arithmetic
from conjoint.envs.nano.constraints import WordConstraints
from conjoint.envs.nano.functions import Functions
from conjoint.envs.nano.topics import OpenTopics
from conjoint.envs.sources.splits import Procedural, demonstrate, pair_up
from conjoint.envs.types import Message, Task

SOURCES: dict[str, type[Procedural]] = {
    "math": Arithmetic,
    "code": Functions,
    "instruction": WordConstraints,
    "open": OpenTopics,
}
"""`SOURCES[kind](split, seed).task(index)`."""

VERIFIABLE = ("math", "code", "instruction")

demonstrations: dict[str, Callable[..., list[list[Message]]]] = {
    kind: demonstrate(source) for kind, source in SOURCES.items()
}
"""`demonstrations[kind](split, count, seed)`: conversations that end in a correct answer."""

verifiable_pairs: dict[str, Callable[..., list[tuple[Task, str, str]]]] = {
    kind: pair_up(SOURCES[kind]) for kind in VERIFIABLE
}
"""`verifiable_pairs[kind](split, count, seed)`: (task, correct answer, incorrect answer)."""


def open_pairs(split: str, count: int, seed: int = 0) -> list[tuple[Task, str, str]]:
    """(task, better answer, worse answer) of the `open` kind, by the rubrics."""
    source = OpenTopics(split, seed)
    return [source.preference(i) for i in range(count)]
