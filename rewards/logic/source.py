"""The `logic` kind: rows of reasoning-gym's datasets, by name, drawn in the verifier jail.

Owns which row comes next, the split it belongs to, and the refusal of datasets that pay for junk. A
row is pure in (dataset, difficulty, split, seed, index); its verifier is `rewards/logic/reward.py`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from conjoint.envs.sources.splits import split_of
from conjoint.envs.types import ConjointError, Task, derive_seed
from conjoint.rewards.killable import WorkerError
from conjoint.rewards.logic import gym
from conjoint.rewards.logic.reward import ANSWER_FORM, gym_pool, reference

SIZE = 512
"""Rows of a dataset under one seed; some make them all at once. Then comes the next seed."""
TRIED_ROWS = 40
_BLOCK = 16
_PATIENCE = 2_000
_DRAW_S = 120.0

Difficulty = Mapping[str, Any]
"""Keys of a dataset's own configuration, and `level`."""


class GymSource:
    """Tasks of one or more datasets in turn. A `Source`: pure in the index, without an end.

    `split` is "train" or "heldout"; no question is in both, whatever the seeds. `suffix` ends
    every prompt. Raises ConjointError for an unknown dataset or key, one that pays for junk
    (unless `allow_gameable`), and where no tier of the jail holds.
    """

    def __init__(
        self,
        datasets: Mapping[str, Difficulty],
        split: str,
        seed: int = 0,
        *,
        kind: str = "logic",
        suffix: str = "",
        partial: bool = False,
        allow_gameable: bool = False,
        isolation: str = "auto",
    ) -> None:
        self.kind = kind
        self._suffix = suffix or ANSWER_FORM
        self._pool = gym_pool(isolation)
        self._names = list(datasets)
        for name, config in datasets.items():
            if problem := self._in_jail(gym.check, name, dict(config)):
                raise ConjointError(f"tasks.{kind}.datasets: {problem}")
            if not allow_gameable:
                self._refuse_gameable(name, dict(config), partial)
        self._drawn: dict[str, list[Task]] = {name: [] for name in self._names}
        self._streams = {
            name: self._rows(name, dict(config), split, seed) for name, config in datasets.items()
        }
        identity = [self._in_jail(gym.version), dict(datasets), split, seed, self._suffix]
        text = json.dumps(identity, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def task(self, index: int) -> Task:
        place, name = divmod(index, len(self._names))[0], self._names[index % len(self._names)]
        while len(self._drawn[name]) <= place:
            self._drawn[name].append(next(self._streams[name]))
        return self._drawn[name][place]

    def _rows(self, name: str, config: dict[str, Any], split: str, seed: int) -> Iterator[Task]:
        """The rows of `split`, without end: each seed's in order, then the next seed's.

        A dataset's row i under seed s is often row 0 under s + i: seeds are hashes, far apart.
        """
        missed, epoch = 0, 0
        while True:
            drawn_by = derive_seed("gym", name, seed, epoch)
            for start in range(0, SIZE, _BLOCK):
                made = (name, config, drawn_by, SIZE)
                for question, answer, entry in self._in_jail(gym.draw, *made, start, _BLOCK):
                    if (split_of(f"gym/{name}", question) == "heldout") != (split == "heldout"):
                        missed += 1
                        continue
                    missed = 0
                    row = reference(name, config, drawn_by, SIZE, answer, entry)
                    meta = {"source": "reasoning_gym", "dataset": name}
                    yield Task.make(self.kind, f"{question}\n{self._suffix}", row, meta)
                if missed > _PATIENCE:
                    raise ConjointError(
                        f"{name} made {missed} rows and none for the split {split}: it has too few "
                        "different questions at this difficulty"
                    )
            epoch += 1

    def _refuse_gameable(self, name: str, config: dict[str, Any], partial: bool) -> None:
        made = (name, config, derive_seed("gameable", name), TRIED_ROWS)
        paid = self._in_jail(gym.junk_pay, *made, partial)
        junk, most = max(paid.items(), key=lambda item: item[1])
        if most > 1.0:
            what = "the prompt itself" if junk == "prompt" else repr(junk)
            raise ConjointError(
                f"{name} pays {most:g} of {TRIED_ROWS} rows for the answer {what}, which is right "
                f"in none of them; leave it out, or set tasks.{self.kind}.allow_gameable=true"
            )

    def _in_jail(self, function: Any, *args: Any) -> Any:
        try:
            return self._pool.call_blocking(function, *args, deadline_s=_DRAW_S)
        except WorkerError as error:
            what = f" ({args[0]})" if args else ""
            raise ConjointError(f"reasoning-gym{what} cannot be used: {error}") from error
