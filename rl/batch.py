"""Groups and PTX rows -> packed token arrays: the one place where lists become tensors.

Arrays are numpy (picklable, no torch). A micro-batch is whole sequences laid end to end without
padding; only the tokens that a loss uses are listed, by their place in it.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rl.learner import LearnerConfig
from rl.types import ConjointError, Group, StopRun, Trajectory

if TYPE_CHECKING:
    from rl.ptx import PtxRow


@dataclass(slots=True)
class MicroBatch:
    """N packed tokens of S sequences, P trained policy tokens, Q trained PTX tokens.

    A target is the place of a trained token, so its logits stand at target - 1.
    """

    tokens: NDArray[np.int64]
    """[N]"""
    positions: NDArray[np.int64]
    """[N], from 0 in each sequence."""
    lengths: NDArray[np.int64]
    """[S], sum N."""
    policy_targets: NDArray[np.int64]
    """[P]"""
    policy_sequence: NDArray[np.int64]
    """[P], which of the S sequences."""
    behavior_logprobs: NDArray[np.float32]
    """[P]"""
    versions: NDArray[np.int64]
    """[P], of the weights that sampled the token."""
    advantages: NDArray[np.float32]
    """[P]"""
    temperatures: NDArray[np.float32]
    """[P], the sampling temperature."""
    kinds: NDArray[np.int64]
    """[P], index into `Batch.kinds`."""
    ptx_targets: NDArray[np.int64]
    """[Q]"""


@dataclass(slots=True)
class Update:
    """The data of one optimizer update, and its denominators over all ranks."""

    shards: list[list[MicroBatch]]
    """One list a rank, all of the same length; a rank without work gets empty micro-batches."""
    num_sequences: int
    num_tokens: int
    num_ptx_tokens: int


@dataclass(slots=True)
class Batch:
    """Everything the learner needs for one step."""

    updates: list[Update]
    kinds: tuple[str, ...]
    ptx_weight: float

    def shard(self, rank: int) -> "Batch":
        """The same batch with the micro-batches of one rank only."""
        updates = [replace(update, shards=[update.shards[rank]]) for update in self.updates]
        return Batch(updates, self.kinds, self.ptx_weight)


@dataclass(frozen=True, slots=True)
class _Policy:
    trajectory: Trajectory
    kind: int

    @property
    def tokens(self) -> list[int]:
        return self.trajectory.tokens

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Ptx:
    row: "PtxRow"

    @property
    def tokens(self) -> list[int]:
        return self.row.tokens

    @property
    def length(self) -> int:
        return len(self.tokens)


def make_batch(
    groups: Sequence[Group],
    ptx_rows: Sequence["PtxRow"],
    config: LearnerConfig,
    ptx_weight: float,
) -> Batch:
    """Cut one step's data into updates, ranks and micro-batches; deterministic.

    Groups stay whole and are dealt to the updates kind by kind, so that each update sees every
    kind. Raises StopRun when nothing is trainable, ConjointError for a sequence that is too long.
    """
    names = tuple(sorted({group.task.kind for group in groups}))
    dealt = sorted((g for g in groups if _trained(g)), key=lambda g: (g.task.kind, g.index))
    if not dealt:
        raise StopRun("no trajectory of this batch can be trained on: none has an advantage")
    count = min(config.updates_per_batch, len(dealt))
    updates = []
    for u in range(count):
        mine = sorted(dealt[u::count], key=lambda g: g.index)
        policy = [_Policy(t, names.index(g.task.kind)) for g in mine for t in _trained(g)]
        updates.append(_make_update(policy, [_Ptx(row) for row in ptx_rows[u::count]], config))
    return Batch(updates, names, ptx_weight)


def heldout_batch(rows: Sequence["PtxRow"], config: LearnerConfig) -> Batch:
    """PTX rows alone, to be measured and not trained."""
    return Batch([_make_update([], [_Ptx(row) for row in rows], config)], (), 0.0)


def _trained(group: Group) -> list[Trajectory]:
    return [t for t in group.trajectories if t.trainable and t.num_sampled]


def _make_update(policy: list[_Policy], ptx: list[_Ptx], config: LearnerConfig) -> Update:
    sequences: list[_Policy | _Ptx] = [*policy, *ptx]
    for sequence in sequences:
        _check(sequence, config.tokens_per_microbatch)
    bins = balanced_bins([s.length for s in sequences], config.tokens_per_microbatch, config.ranks)
    packed = [_pack([sequences[i] for i in members]) for members in bins]
    return Update(
        shards=[packed[rank :: config.ranks] for rank in range(config.ranks)],
        num_sequences=len(policy),
        num_tokens=sum(len(m.policy_targets) for m in packed),
        num_ptx_tokens=sum(len(m.ptx_targets) for m in packed),
    )


def _check(sequence: _Policy | _Ptx, capacity: int) -> None:
    if sequence.length > capacity:
        raise ConjointError(
            f"a sequence of {sequence.length} tokens does not fit in "
            f"learner.tokens_per_microbatch={capacity}; raise it to at least the longest "
            "prompt plus its budget (and ptx.max_tokens)"
        )
    if isinstance(sequence, _Policy):
        if sequence.trajectory.sampled[0]:
            raise ValueError("the first token of a trajectory is sampled: nothing predicts it")
        if sequence.trajectory.temperature <= 0:
            raise ValueError("a trajectory sampled at temperature 0 has no log-probs to train on")


def balanced_bins(lengths: Sequence[int], capacity: int, multiple: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`, as even as longest-first makes them.

    The number of bins is a multiple of `multiple`; some may be empty. Each bin keeps the given
    order. Every length must fit in a bin.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    needed = max(1, -(-sum(lengths) // capacity))
    count = -(-needed // multiple) * multiple
    while True:
        heap = [(0, b) for b in range(count)]
        bins: list[list[int]] = [[] for _ in range(count)]
        for i in order:
            load, b = heap[0]
            if load + lengths[i] > capacity:
                break
            bins[b].append(i)
            heapq.heapreplace(heap, (load + lengths[i], b))
        else:
            return [sorted(members) for members in bins]
        count += multiple


def _pack(sequences: Sequence[_Policy | _Ptx]) -> MicroBatch:
    lengths = np.array([s.length for s in sequences], np.int64)
    starts = np.cumsum(lengths) - lengths
    policy = [(p, s.trajectory, s.kind) for p, s in enumerate(sequences) if isinstance(s, _Policy)]
    ptx = [(p, s.row) for p, s in enumerate(sequences) if isinstance(s, _Ptx)]
    where = [np.flatnonzero(t.sampled) for _, t, _ in policy]
    counts = [len(w) for w in where]

    def spread(values: list, dtype: type) -> NDArray:
        """One value a policy sequence -> one a trained token."""
        return np.repeat(np.array(values, dtype), counts)

    return MicroBatch(
        tokens=_join([s.tokens for s in sequences], np.int64),
        positions=_join([np.arange(n) for n in lengths], np.int64),
        lengths=lengths,
        policy_targets=_join(
            [w + starts[p] for w, (p, _, _) in zip(where, policy, strict=True)], np.int64
        ),
        policy_sequence=spread([p for p, _, _ in policy], np.int64),
        behavior_logprobs=_join(
            [np.array(t.behavior_logprobs)[w] for w, (_, t, _) in zip(where, policy, strict=True)],
            np.float32,
        ),
        versions=_join(
            [np.array(t.versions)[w] for w, (_, t, _) in zip(where, policy, strict=True)], np.int64
        ),
        advantages=spread([t.advantage for _, t, _ in policy], np.float32),
        temperatures=spread([t.temperature for _, t, _ in policy], np.float32),
        kinds=spread([kind for _, _, kind in policy], np.int64),
        # Nothing predicts a row's first token, whatever its mask says.
        ptx_targets=_join(
            [np.flatnonzero(row.trained[1:]) + 1 + starts[p] for p, row in ptx], np.int64
        ),
    )


def _join(parts: Sequence, dtype: type) -> NDArray:
    """Concatenation that also works for no parts at all."""
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
