"""The weighted mixture of task sources that a run trains on.

Owns how many tasks of each kind a step has, which ones, and the queue of critic tasks. Nothing here
is random at large: what comes next is a function of the seed and of the state, which is plain JSON.
"""

import json
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from conjoint.envs.sources.dataset import RowSubset
from conjoint.envs.types import ConjointError, Message, Task, derive_seed

CRITIC = "critic"


class Source(Protocol):
    """Tasks of one kind, pure in the index.

    Two attributes are optional: `__len__` (indices start over after it) and `shuffle = True`
    (rows of a file: every epoch in a new order; generated tasks come in the order of their index).
    """

    kind: str

    def task(self, index: int) -> Task: ...


@dataclass(frozen=True, slots=True)
class MixtureConfig:
    """Shares of the groups of a step, and the bounds of the critic queue."""

    weights: dict[str, float] = field(default_factory=dict)
    """Source name -> weight relative to the others; "critic" is the queue fed by `feed`."""
    critic_capacity: int = 256
    """Critic tasks that may wait; the oldest are dropped beyond it."""
    critic_max_age: int = 8
    """Steps a critic task may wait: older answers are no longer the policy's own."""

    def validate(self) -> None:
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ConjointError(f"the weight of {name} is {weight}; it must be 0 or more.")
        if not any(weight > 0 for name, weight in self.weights.items() if name != CRITIC):
            raise ConjointError("no task source has a weight above 0; give one to at least one.")
        if self.critic_capacity < 1 or self.critic_max_age < 1:
            raise ConjointError("critic_capacity and critic_max_age must be at least 1.")


class Mixture:
    """Sources by name, drawn in proportion to their weights. See `next`, `feed` and `state`."""

    def __init__(self, sources: Mapping[str, Source], config: MixtureConfig, seed: int = 0) -> None:
        config.validate()
        for name in sorted((set(sources) ^ set(config.weights)) - {CRITIC}):
            known = "a weight but no source" if name in config.weights else "a source but no weight"
            raise ConjointError(f"the mixture has {known} named {name}.")
        if CRITIC in sources:
            raise ConjointError("the mixture's source 'critic' is its own queue; rename the other.")
        total = math.fsum(config.weights.values())
        self._shares = {n: w / total for n, w in config.weights.items() if w > 0}
        self._sources = {name: sources[name] for name in self._shares if name != CRITIC}
        for name, source in self._sources.items():
            if _length(source) == 0:
                raise ConjointError(f"the source {name} of the mixture has no tasks.")
        self._config = config
        self._seed = seed
        self._cursors = dict.fromkeys(self._sources, 0)
        self._credits = dict.fromkeys(self._shares, 0.0)
        self._queue: deque[tuple[int, Task]] = deque()
        self._draws = 0
        self._dropped = {"stale": 0, "overflow": 0}
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def next(self, count: int) -> list[Task]:
        """The `count` tasks of the next step, kinds spread evenly over the list.

        Every source gets its share to within one task, and what rounding kept from it is paid back
        in later steps. Critic tasks fill their share first; what they leave goes to the others.
        """
        self._draws += 1
        self._drop_stale()
        counts = self._composition(count)
        drawn = {name: [self._draw(name) for _ in range(n)] for name, n in counts.items()}
        places = [
            ((position + 0.5) / len(tasks), order, position, name)
            for order, (name, tasks) in enumerate(drawn.items())
            for position in range(len(tasks))
        ]
        return [drawn[name][position] for _, _, position, name in sorted(places)]

    def feed(self, tasks: Sequence[Task]) -> None:
        """Queue critic tasks, oldest first; beyond the capacity the oldest are dropped and counted.

        Without a critic weight they are dropped at once. Raises ConjointError for a task that
        plain JSON cannot hold.
        """
        if CRITIC not in self._shares:
            self._dropped["overflow"] += len(tasks)
            return
        # Through JSON at once, so that a resumed run's queue equals this one's.
        self._queue.extend((self._draws, restored_task(plain_task(task))) for task in tasks)
        while len(self._queue) > self._config.critic_capacity:
            self._queue.popleft()
            self._dropped["overflow"] += 1

    def metrics(self) -> dict[str, float]:
        """What waits in the critic queue and what was dropped from it so far."""
        return {
            "critic/queued": float(len(self._queue)),
            "critic/dropped_stale": float(self._dropped["stale"]),
            "critic/dropped_overflow": float(self._dropped["overflow"]),
        }

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on exactly here; plain JSON."""
        return {
            "seed": self._seed,
            "sources": {name: _identity(source) for name, source in self._sources.items()},
            "cursors": dict(self._cursors),
            "credits": dict(self._credits),
            "queue": [[fed, plain_task(task)] for fed, task in self._queue],
            "draws": self._draws,
            "dropped": dict(self._dropped),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises ConjointError if sources, rows or seed differ."""
        here = {name: _identity(source) for name, source in self._sources.items()}
        if sorted(here) != sorted(state["sources"]) or sorted(self._credits) != sorted(
            state["credits"]
        ):
            raise ConjointError(
                f"the checkpoint's mixture draws from {', '.join(sorted(state['credits']))}, this "
                f"run's from {', '.join(sorted(self._credits))}; resume with the same tasks."
            )
        for name, identity in state["sources"].items():
            if list(identity) != here[name]:
                raise ConjointError(
                    f"the rows of the source {name} are not those of the checkpoint; resume with "
                    "the same file and split."
                )
        if state["seed"] != self._seed:
            raise ConjointError(
                f"the checkpoint's mixture has seed {state['seed']}, this run's {self._seed}; "
                "resume with the same seed."
            )
        self._cursors = {name: int(state["cursors"][name]) for name in self._cursors}
        self._credits = {name: float(state["credits"][name]) for name in self._credits}
        self._queue = deque((int(fed), restored_task(task)) for fed, task in state["queue"])
        self._draws = int(state["draws"])
        self._dropped = {name: int(state["dropped"][name]) for name in self._dropped}

    def _drop_stale(self) -> None:
        while self._queue and self._draws - self._queue[0][0] > self._config.critic_max_age:
            self._queue.popleft()
            self._dropped["stale"] += 1

    def _composition(self, count: int) -> dict[str, int]:
        counts = apportion(count, self._shares, self._credits)
        if missing := counts.get(CRITIC, 0) - len(self._queue):
            if missing < 0:
                return counts
            counts[CRITIC] -= missing
            others = {name: share for name, share in self._shares.items() if name != CRITIC}
            for name, extra in apportion(missing, others, self._credits).items():
                counts[name] += extra
        return counts

    def _draw(self, name: str) -> Task:
        if name == CRITIC:
            return self._queue.popleft()[1]
        source, cursor = self._sources[name], self._cursors[name]
        self._cursors[name] = cursor + 1
        length = _length(source)
        if length is None:
            return source.task(cursor)
        epoch, place = divmod(cursor, length)
        if getattr(source, "shuffle", False):
            place = self._order(name, epoch, length)[place]
        return source.task(place)

    def _order(self, name: str, epoch: int, length: int) -> list[int]:
        """The row order of one epoch; the last one asked for is kept."""
        kept = self._orders.get(name)
        if kept is None or kept[0] != epoch:
            order = list(range(length))
            random.Random(derive_seed(self._seed, "mixture", name, epoch)).shuffle(order)
            kept = self._orders[name] = (epoch, order)
        return kept[1]


def apportion(count: int, shares: Mapping[str, float], credits: dict[str, float]) -> dict[str, int]:
    """`count` whole units by share, by largest remainder; `credits` carries the rounding on.

    Deterministic: ties go to the earlier name. Updates `credits` in place; over many calls each
    name gets its share to within one unit.
    """
    total = math.fsum(shares.values())
    targets = {name: credits[name] + count * share / total for name, share in shares.items()}
    counts = {name: max(0, math.floor(target)) for name, target in targets.items()}
    while (left := count - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        open_to_change = [n for n in counts if step > 0 or counts[n] > 0]
        chosen = max(open_to_change, key=lambda n: step * (targets[n] - counts[n]))
        counts[chosen] += step
    # Rounded, so that thirds that should tie do tie.
    credits.update({name: round(targets[name] - counts[name], 9) for name in counts})
    return counts


def split_rows(source: Source, heldout: int, seed: int) -> tuple[RowSubset, RowSubset]:
    """(train, held-out) of a file's rows, disjoint by the hash of their content.

    `heldout` distinct tasks are chosen by the hash of (seed, task id): a repeated row is on one
    side only, and the order of the file does not matter. Raises ConjointError if too few remain.
    """
    length = _length(source) or 0
    tasks = [source.task(index) for index in range(length)]
    distinct = {task.id: task for task in tasks}
    if not 0 <= heldout < len(distinct):
        raise ConjointError(
            f"tasks.{source.kind}.heldout={heldout} must be at least 0 and below the "
            f"{len(distinct)} distinct rows of the file."
        )
    ranked = sorted(distinct, key=lambda task_id: (derive_seed(seed, "heldout", task_id), task_id))
    apart = set(ranked[:heldout])
    train = [task for task in tasks if task.id not in apart]
    return (
        RowSubset(source.kind, train),
        RowSubset(source.kind, [distinct[task_id] for task_id in ranked[:heldout]]),
    )


def _length(source: Source) -> int | None:
    measure = getattr(source, "__len__", None)
    return None if measure is None else measure()


def _identity(source: Source) -> list[Any]:
    return [source.kind, _length(source), getattr(source, "fingerprint", None)]


def plain_task(task: Task) -> dict[str, Any]:
    """A task as plain JSON, for a checkpoint; raises ConjointError for what JSON cannot hold."""
    plain = {
        "id": task.id,
        "kind": task.kind,
        "messages": [dict(message) for message in task.messages],
        "reference": task.reference,
        "meta": dict(task.meta),
    }
    try:
        return json.loads(json.dumps(plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConjointError(
            f"the {task.kind} task {task.id} holds a value that JSON cannot ({error}); give its "
            "reference and meta as plain values."
        ) from error


def restored_task(plain: Mapping[str, Any]) -> Task:
    messages = tuple(Message(role=m["role"], content=m["content"]) for m in plain["messages"])
    return Task(plain["id"], plain["kind"], messages, plain["reference"], dict(plain["meta"]))


@dataclass(frozen=True, slots=True)
class TaskSets:
    mixture: Mixture
    heldout: dict[str, list[Task]]
    """By kind; only kinds that a verifier grades."""
    open: list[Task]
    """Held-out tasks of the other kinds."""
    judge_pairs: list[tuple[Task, str, str]]
    """(task, right answer, wrong answer)."""
    first: dict[str, Task]
    """By kind; for whoever needs to see what its tasks look like."""
