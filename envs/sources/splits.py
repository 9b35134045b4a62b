"""Splits and the base of procedural sources.

A task belongs to exactly one split: the bucket of the hash of its content. A source accepts only
its own buckets, so SFT, PTX, RL and held-out tasks are disjoint whatever their seeds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from conjoint.envs.text import digest
from conjoint.envs.types import ConjointError, Message, Task, derive_seed

SPLITS: dict[str, range] = {
    "sft": range(0, 9),
    "ptx": range(9, 10),
    "train": range(10, 15),
    "heldout": range(15, 20),
}
"""Buckets of each split, of 20."""

_PATIENCE = 500
"""Draws without a new task after which the space counts as used up and tasks repeat."""


def split_of(kind: str, content: str) -> str:
    """The split that owns a content; wording and seed do not matter, only (kind, content)."""
    bucket = int(digest(f"{kind}\x1f{content}")[:8], 16) % 20
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


@dataclass(frozen=True, slots=True)
class Item:
    """A task with answers; `content` decides the split.

    `answer` is a demonstration. `correct` and `incorrect` are a pair for the judge, in styles as
    often as a half-trained policy is right and wrong in them.
    """

    task: Task
    content: str
    answer: str
    correct: str
    incorrect: str


class Procedural:
    """Distinct tasks of one split, pure in their index.

    The task at `index` is the index-th distinct accepted draw of a stream seeded by (kind, split,
    seed); the prefix is kept, so a second look-up is free. When a small space is used up, tasks
    repeat in a new order.
    """

    kind: str = ""

    def __init__(self, split: str, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ConjointError(f"unknown split {split!r} of {self.kind}: use one of {[*SPLITS]}")
        self.split = split
        self._items: list[Item] = []
        self._stream = self._draws(Random(derive_seed(self.kind, split, seed)))

    def draw(self, rng: Random) -> Item:
        """One random item of any split."""
        raise NotImplementedError

    def item(self, index: int) -> Item:
        while len(self._items) <= index:
            self._items.append(next(self._stream))
        return self._items[index]

    def task(self, index: int) -> Task:
        return self.item(index).task

    def __len__(self) -> int:
        """Nominal: tasks are made on demand."""
        return 1_000_000

    def _draws(self, rng: Random) -> Iterator[Item]:
        seen: set[str] = set()
        misses = 0
        while True:
            item = self.draw(rng)
            if split_of(self.kind, item.content) != self.split or item.content in seen:
                misses += 1
                if misses > _PATIENCE:
                    seen.clear()
                continue
            misses = 0
            seen.add(item.content)
            yield item


def pick(rng: Random, weights: dict[str, float]) -> str:
    """One of the keys, by weight."""
    return rng.choices([*weights], [*weights.values()])[0]


def demonstrate(make: Callable[[str, int], Procedural]) -> Callable[..., list[list[Message]]]:
    """`(split, count, seed) -> conversations`: each task with one correct answer."""

    def demonstrations(split: str, count: int, seed: int = 0) -> list[list[Message]]:
        source = make(split, seed)
        items = [source.item(i) for i in range(count)]
        return [
            [*item.task.messages, Message(role="assistant", content=item.answer)] for item in items
        ]

    return demonstrations


def pair_up(make: Callable[[str, int], Procedural]) -> Callable[..., list[tuple[Task, str, str]]]:
    """`(split, count, seed) -> (task, correct answer, incorrect answer)`, with errors as the policy
    makes them."""

    def verifiable_pairs(split: str, count: int, seed: int = 0) -> list[tuple[Task, str, str]]:
        source = make(split, seed)
        items = [source.item(i) for i in range(count)]
        return [(item.task, item.correct, item.incorrect) for item in items]

    return verifiable_pairs
