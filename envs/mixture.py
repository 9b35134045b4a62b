"""The weighted mixture of task sources that a run trains on.

It decides how many tasks of each kind a step has and which tasks these are, and it owns the queue
of critic tasks. The next tasks depend only on the seed and on the state, which is plain JSON.
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
"""Name of the mixture's own queue of critic tasks, beside the sources."""
CRITIC_CAPACITY = 256
"""Largest number of queued critic tasks. The oldest are dropped beyond it."""
CRITIC_MAX_AGE = 8
"""Largest number of steps that a critic task waits in the queue. The answers in it come from an
older policy with each step."""


class Source(Protocol):
    """Tasks of one kind. The same index always gives the same task.

    Two attributes are optional. A source with `__len__` is repeated in epochs of that many tasks.
    With `shuffle = True` each epoch has a new order, as for the rows of a file. Otherwise tasks
    come in the order of their index.
    """

    kind: str

    def task(self, index: int) -> Task:
        """The task at `index`, from 0 on."""
        ...


@dataclass(frozen=True, slots=True)
class MixtureConfig:
    """Weights of the sources."""

    weights: dict[str, float] = field(default_factory=dict)
    """Name of a source -> its weight relative to the others. "critic" names the queue."""

    def validate(self) -> None:
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ConjointError(f"the weight of {name} is {weight}; it must be 0 or more.")
        if not any(weight > 0 for name, weight in self.weights.items() if name != CRITIC):
            raise ConjointError("no task source has a weight above 0; give one to at least one.")


class Mixture:
    """Draws the tasks of each step from its sources, in proportion to their weights."""

    def __init__(self, sources: Mapping[str, Source], config: MixtureConfig, seed: int = 0) -> None:
        """`seed` determines the order of shuffled sources. Raises ConjointError if sources and
        weights do not have the same names, or if a source is empty."""
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
        self._seed = seed
        self._cursors = dict.fromkeys(self._sources, 0)
        self._credits = dict.fromkeys(self._shares, 0.0)
        self._queue: deque[tuple[int, Task]] = deque()
        self._draws = 0
        self._dropped = {"stale": 0, "overflow": 0}
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def next(self, count: int) -> list[Task]:
        """The next `count` tasks, with the kinds spread evenly over the list.

        Each source gets its share, rounded to whole tasks; later steps make up for the rounding.
        The newest critic tasks come first. If the queue has fewer than their share, the other
        sources fill it up.
        """
        self._draws += 1
        self._drop_stale()
        counts = self._composition(count)
        drawn = {name: [self._draw(name) for _ in range(n)] for name, n in counts.items()}
        # Task i of n tasks of a source stands at the fraction (i + 1/2) / n of the list.
        places = [
            ((position + 0.5) / len(tasks), order, position, name)
            for order, (name, tasks) in enumerate(drawn.items())
            for position in range(len(tasks))
        ]
        return [drawn[name][position] for _, _, position, name in sorted(places)]

    def critic_due(self, count: int) -> int:
        """How many critic tasks the next `count` tasks ask for."""
        return apportion(count, self._shares, dict(self._credits)).get(CRITIC, 0)

    def feed(self, tasks: Sequence[Task]) -> None:
        """Append critic tasks to the queue, to be drawn in this order before all that wait. Beyond
        its capacity the oldest are dropped and counted.

        Without a weight for critic tasks all are dropped. Raises ConjointError for a task that
        plain JSON cannot hold.
        """
        if CRITIC not in self._shares:
            self._dropped["overflow"] += len(tasks)
            return
        # The JSON round trip is made here already, so that a resumed run has exactly these tasks.
        self._queue.extend((self._draws, restored_task(plain_task(task))) for task in tasks[::-1])
        while len(self._queue) > CRITIC_CAPACITY:
            self._queue.popleft()
            self._dropped["overflow"] += 1

    def metrics(self) -> dict[str, float]:
        """Critic tasks queued now, and dropped since the start of the run."""
        return {
            "critic/queued": float(len(self._queue)),
            "critic/dropped_stale": float(self._dropped["stale"]),
            "critic/dropped_overflow": float(self._dropped["overflow"]),
        }

    def state(self) -> dict[str, Any]:
        """The complete state for `load_state`, as plain JSON."""
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
        """Continue where `state` left off. Raises ConjointError if sources, rows or seed differ."""
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
        # The queue is sorted by age, so only its front can be stale.
        while self._queue and self._draws - self._queue[0][0] > CRITIC_MAX_AGE:
            self._queue.popleft()
            self._dropped["stale"] += 1

    def _composition(self, count: int) -> dict[str, int]:
        """Name of a source -> number of its tasks among the next `count`."""
        counts = apportion(count, self._shares, self._credits)
        if missing := counts.get(CRITIC, 0) - len(self._queue):
            if missing < 0:  # more critic tasks are queued than are due
                return counts
            # The queue is too short. Its share of this step is lost, not owed to later steps.
            counts[CRITIC] -= missing
            others = {name: share for name, share in self._shares.items() if name != CRITIC}
            for name, extra in apportion(missing, others, self._credits).items():
                counts[name] += extra
        return counts

    def _draw(self, name: str) -> Task:
        if name == CRITIC:
            return self._queue.pop()[1]
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
        """The order of the rows in one epoch. The last order made for a source is cached."""
        kept = self._orders.get(name)
        if kept is None or kept[0] != epoch:
            order = list(range(length))
            random.Random(derive_seed(self._seed, "mixture", name, epoch)).shuffle(order)
            kept = self._orders[name] = (epoch, order)
        return kept[1]


def apportion(count: int, shares: Mapping[str, float], credits: dict[str, float]) -> dict[str, int]:
    """Split `count` whole units by `shares`, with the largest remainder method.

    `credits` holds the rounding error of each name from earlier calls and is updated in place. Over
    many calls each name therefore gets its share to within one unit. Ties go to the earlier name.
    """
    total = math.fsum(shares.values())
    # Exact share of this call plus the units that earlier calls still owe.
    targets = {name: credits[name] + count * share / total for name, share in shares.items()}
    counts = {name: max(0, math.floor(target)) for name, target in targets.items()}
    # Rounding down leaves units over; a name with credit below 0 may also make them too many.
    while (left := count - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        open_to_change = [n for n in counts if step > 0 or counts[n] > 0]
        chosen = max(open_to_change, key=lambda n: step * (targets[n] - counts[n]))
        counts[chosen] += step
    # Rounded, because shares such as 1/3 would otherwise miss ties by floating-point error.
    credits.update({name: round(targets[name] - counts[name], 9) for name in counts})
    return counts


def split_rows(source: Source, heldout: int, seed: int) -> tuple[RowSubset, RowSubset]:
    """Split the rows of a file into (train, held-out), without a common task.

    The `heldout` distinct tasks with the smallest hash of (seed, task id) are held out. Copies of a
    row are therefore on the same side, and the order of the file does not matter. Raises
    ConjointError if `heldout` leaves no row to train on.
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
    """Number of tasks of a source, None if it is endless."""
    measure = getattr(source, "__len__", None)
    return None if measure is None else measure()


def _identity(source: Source) -> list[Any]:
    """Facts by which `load_state` recognises that a source is the one of the checkpoint."""
    return [source.kind, _length(source), getattr(source, "fingerprint", None)]


def plain_task(task: Task) -> dict[str, Any]:
    """A task as plain JSON, for a checkpoint. Raises ConjointError if JSON cannot hold a value."""
    plain = {
        "id": task.id,
        "kind": task.kind,
        "messages": [dict(message) for message in task.messages],
        "reference": task.reference,
        "meta": dict(task.meta),
    }
    try:
        return json.loads(json.dumps(plain, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConjointError(
            f"the {task.kind} task {task.id} holds a value that JSON cannot ({error}); give its "
            "reference and meta as plain values."
        ) from error


def restored_task(plain: Mapping[str, Any]) -> Task:
    """The task of `plain_task`. Values are as JSON keeps them: tuples have become lists."""
    messages = tuple(Message(role=m["role"], content=m["content"]) for m in plain["messages"])
    return Task(plain["id"], plain["kind"], messages, plain["reference"], dict(plain["meta"]))


@dataclass(frozen=True, slots=True)
class TaskSets:
    """All tasks of a run."""

    mixture: Mixture
    """Tasks to train on."""
    heldout: dict[str, list[Task]]
    """Task kind -> held-out tasks. Only kinds that a verifier grades."""
    open: list[Task]
    """Held-out tasks of the kinds that only a judge grades."""
    judge_pairs: list[tuple[Task, str, str]]
    """(task, right answer, wrong answer), to test the judge."""
    first: dict[str, Task]
    """Task kind -> its first task, as a sample of the kind."""
    notes: tuple[str, ...] = ()
    """Sentences on what became of tasks that could not be used as they are."""
