"""What nano learns from, by task kind: sources, demonstrations and pairs for the judge."""

from collections.abc import Callable

from envs.sources.arithmetic import Arithmetic
from envs.sources.constraints import WordConstraints
from envs.sources.functions import Functions
from envs.sources.splits import Procedural, demonstrate, pair_up
from envs.sources.topics import OpenTopics
from rl.types import Message, Task

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


def length_pairs(split: str, count: int, seed: int = 0) -> list[tuple[Task, str, str]]:
    """(task, shorter answer, longer answer) of the `open` kind; only their lengths tell them
    apart."""
    source = OpenTopics(split, seed)
    return [source.lengths(i) for i in range(count)]
