"""Groups and PTX rows -> packed token arrays: the one place where lists become arrays.

Arrays are numpy, so that they can be pickled and need no torch. A micro-batch is one row of pieces,
laid end to end without padding. A piece is a whole sequence, or the shared prompt of a group, or
one answer that continues such a prompt. Tokens that a loss uses are listed by their place in the
row; the others are context.

Shapes: N tokens and S pieces of a row, P trained policy tokens and Q trained PTX tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from conjoint.envs.types import ConjointError, Group, StopRun, Trajectory
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.models.shape import BY_TOKENS, TokenCost

if TYPE_CHECKING:
    from conjoint.rl.algo.ptx import PtxRow


@dataclass(slots=True)
class PackedRow:
    """N tokens of S pieces. A piece attends causally to itself and to the piece it continues."""

    tokens: NDArray[np.int64]
    """[N], token ids."""
    positions: NDArray[np.int64]
    """[N], 0-based position of the token in its sequence. An answer continues its prompt's."""
    lengths: NDArray[np.int64]
    """[S], tokens of each piece; their sum is N."""
    prefixes: NDArray[np.int64]
    """[S], index of the piece that this piece continues, always an earlier one; -1 for none."""

    @staticmethod
    def single(tokens: Sequence[int]) -> "PackedRow":
        """A row of one whole sequence."""
        ids = np.array(tokens, np.int64)
        return PackedRow(ids, np.arange(len(ids)), np.array([len(ids)]), np.array([-1]))


@dataclass(slots=True)
class MicroBatch(PackedRow):
    """A packed row, with P trained policy tokens and Q trained PTX tokens."""

    policy_targets: NDArray[np.int64]
    """[P], place in the row of each trained policy token."""
    policy_places: NDArray[np.int64]
    """[P], place of the token before it in its sequence. The logits there predict it."""
    policy_sequence: NDArray[np.int64]
    """[P], index of the token's piece, 0..S-1."""
    behavior_logprobs: NDArray[np.float32]
    """[P], log-prob that the engine reported when it sampled the token."""
    versions: NDArray[np.int64]
    """[P], version of the weights that sampled the token."""
    advantages: NDArray[np.float32]
    """[P], advantage of the token's answer."""
    temperatures: NDArray[np.float32]
    """[P], sampling temperature of the token."""
    top_ps: NDArray[np.float32]
    """[P], probability mass of the nucleus that the token was sampled from; 1 is the vocabulary."""
    kinds: NDArray[np.int64]
    """[P], task kind of the token, as an index into `Batch.kinds`."""
    ptx_targets: NDArray[np.int64]
    """[Q], place in the row of each trained PTX token. The place before it predicts it."""


@dataclass(slots=True)
class Update:
    """Data of one optimizer update, and the denominators of its losses."""

    shards: list[list[MicroBatch]]
    """Micro-batches of each rank. All lists are equally long: ranks run micro-batches in step, and
    a rank without work gets empty ones."""
    num_sequences: int
    """Trained trajectories, over all ranks."""
    num_tokens: int
    """Trained policy tokens, over all ranks."""
    num_ptx_tokens: int
    """Trained PTX tokens, over all ranks."""


@dataclass(slots=True)
class Batch:
    """Data of one step, for the learner."""

    updates: list[Update]
    kinds: tuple[str, ...]
    """Task kinds of the step's groups, sorted. `MicroBatch.kinds` indexes them."""
    ptx_weight: float
    """Weight of the PTX loss in this step."""

    def shard(self, rank: int) -> "Batch":
        """The batch with the micro-batches of `rank` only. Denominators stay those of all ranks."""
        updates = [replace(update, shards=[update.shards[rank]]) for update in self.updates]
        return Batch(updates, self.kinds, self.ptx_weight)


@dataclass(frozen=True, slots=True)
class _Policy:
    """A trajectory to train on; `kind` is an index into `Batch.kinds`."""

    trajectory: Trajectory
    kind: int

    @property
    def tokens(self) -> list[int]:
        return self.trajectory.tokens

    @property
    def trained(self) -> list[bool]:
        return self.trajectory.sampled


@dataclass(frozen=True, slots=True)
class _Ptx:
    """A PTX row to train on."""

    row: "PtxRow"

    @property
    def tokens(self) -> list[int]:
        return self.row.tokens

    @property
    def trained(self) -> list[bool]:
        return self.row.trained


@dataclass(frozen=True, slots=True)
class _Block:
    """Sequences with the same first `shared` tokens, which the row holds once. 0 shares none."""

    shared: int
    members: Sequence[_Policy | _Ptx]

    @property
    def length(self) -> int:
        return self.shared + sum(len(m.tokens) - self.shared for m in self.members)

    def cost(self, cost: TokenCost) -> float:
        """Estimated work of the block, in the units of `cost`."""
        own = [
            cost.of(len(m.tokens) - self.shared, self.shared, sum(m.trained)) for m in self.members
        ]
        return cost.of(self.shared, 0, 0) + sum(own)

    def split(self, parts: int) -> "list[_Block]":
        """Split the members into `parts` blocks of nearly equal count. Each repeats the shared
        tokens."""
        groups = np.array_split(np.arange(len(self.members)), parts)
        return [_Block(self.shared, [self.members[i] for i in group]) for group in groups]


def make_batch(
    groups: Sequence[Group],
    ptx_rows: Sequence["PtxRow"],
    config: LearnerConfig,
    ptx_weight: float,
    cost: TokenCost = BY_TOKENS,
) -> Batch:
    """Cut the data of one step into updates, ranks and micro-batches; deterministic.

    All trajectories of a group go into one update. Groups are dealt to the updates kind by kind, so
    that each update sees every kind. `cost` estimates the work that micro-batches are balanced by.

    Raises StopRun if no trajectory can be trained on, and ConjointError for a sequence longer than
    a micro-batch.
    """
    names = tuple(sorted({group.task.kind for group in groups}))
    dealt = sorted((g for g in groups if _trained(g)), key=lambda g: (g.task.kind, g.index))
    if not dealt:
        raise StopRun("no trajectory of this batch can be trained on: none has an advantage")
    count = min(config.updates_per_batch, len(dealt))
    updates = []
    for u in range(count):
        # Every `count`-th group of a list that is sorted by kind: each kind is spread evenly.
        mine = sorted(dealt[u::count], key=lambda g: g.index)
        policy = [[_Policy(t, names.index(g.task.kind)) for t in _trained(g)] for g in mine]
        updates.append(
            _make_update(policy, [_Ptx(row) for row in ptx_rows[u::count]], config, cost)
        )
    return Batch(updates, names, ptx_weight)


def heldout_batch(rows: Sequence["PtxRow"], config: LearnerConfig) -> Batch:
    """A batch of PTX rows alone, to measure their loss without training on them."""
    return Batch([_make_update([], [_Ptx(row) for row in rows], config, BY_TOKENS)], (), 0.0)


def _trained(group: Group) -> list[Trajectory]:
    return [t for t in group.trajectories if t.trainable and t.num_sampled]


def _make_update(
    policy: list[list[_Policy]], ptx: list[_Ptx], config: LearnerConfig, cost: TokenCost
) -> Update:
    """Pack the groups (`policy`: one list of members each) and PTX rows of one update."""
    for sequence in (*(m for members in policy for m in members), *ptx):
        _check(sequence, config.tokens_per_microbatch)
    blocks = [
        _Block(shared, part)
        for members in policy
        for shared, part in (
            [(_shared_prompt(members), members)]
            if config.share_prompts and len(members) > 1
            else [(0, [m]) for m in members]
        )
    ]
    blocks = _divided([*blocks, *(_Block(0, [row]) for row in ptx)], config, cost)
    bins = balanced_bins(
        [b.cost(cost) for b in blocks],
        [b.length for b in blocks],
        config.tokens_per_microbatch,
        config.ranks,
    )
    packed = [_pack([blocks[i] for i in members]) for members in bins]
    return Update(
        # Bins are sorted by cost, so micro-batches that ranks run side by side cost about the same.
        shards=[packed[rank :: config.ranks] for rank in range(config.ranks)],
        num_sequences=sum(len(members) for members in policy),
        num_tokens=sum(len(m.policy_targets) for m in packed),
        num_ptx_tokens=sum(len(m.ptx_targets) for m in packed),
    )


def _check(sequence: _Policy | _Ptx, capacity: int) -> None:
    """Raises ConjointError for a sequence above `capacity` tokens, ValueError for an impossible
    trajectory."""
    if len(sequence.tokens) > capacity:
        raise ConjointError(
            f"a sequence of {len(sequence.tokens)} tokens does not fit in "
            f"learner.tokens_per_microbatch={capacity}; raise it to at least the longest "
            "prompt plus its budget (and ptx.max_tokens)"
        )
    if isinstance(sequence, _Policy):
        if sequence.trajectory.sampled[0]:
            raise ValueError("the first token of a trajectory is sampled: nothing predicts it")
        if sequence.trajectory.temperature <= 0:
            raise ValueError("a trajectory sampled at temperature 0 has no log-probs to train on")


def _shared_prompt(members: Sequence[_Policy]) -> int:
    """Number of leading context tokens that all members have in common."""
    length = min(m.trained.index(True) for m in members)
    # [members, length]; the running product turns to 0 at the first token that differs.
    table = np.array([m.tokens[:length] for m in members])
    return int((table == table[0]).all(0).cumprod().sum())


def _divided(blocks: list[_Block], config: LearnerConfig, cost: TokenCost) -> list[_Block]:
    """Split blocks until each fits into a micro-batch and costs about a rank's share or less.

    A single sequence is never split, so a long one may still cost more.
    """
    capacity = config.tokens_per_microbatch
    share = sum(block.cost(cost) for block in blocks) / config.ranks
    done = []
    for block in blocks:
        # More parts balance ranks better, but each one computes the shared prompt again.
        parts = min(len(block.members), max(1, round(block.cost(cost) / share)))
        # This ends: `_check` has made sure that a part of one member fits.
        while any(part.length > capacity for part in block.split(parts)):
            parts += 1
        done += block.split(parts)
    return done


def balanced_bins(
    costs: Sequence[float], sizes: Sequence[int], capacity: int, multiple: int
) -> list[list[int]]:
    """Distribute items over bins of nearly equal cost and at most `capacity` total size.

    Greedy: the most expensive item left goes into the cheapest bin with room. Returns the indices
    of each bin's items, most expensive bin first. The number of bins is a multiple of `multiple`;
    some may be empty. Each size must be at most `capacity`.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-costs[i], -sizes[i]))
    needed = max(1, -(-sum(sizes) // capacity))
    count = -(-needed // multiple) * multiple
    # The fewest bins come first; if the greedy choice leaves an item without room, add bins.
    while True:
        bins: list[list[int]] = [[] for _ in range(count)]
        loads, room = [0.0] * count, [capacity] * count
        for i in order:
            fits = [b for b in range(count) if room[b] >= sizes[i]]
            if not fits:
                break
            b = min(fits, key=lambda b: (loads[b], b))
            bins[b].append(i)
            loads[b] += costs[i]
            room[b] -= sizes[i]
        else:
            ranked = sorted(range(count), key=lambda b: (-loads[b], b))
            return [sorted(bins[b]) for b in ranked]
        count += multiple


def _pack(blocks: Sequence[_Block]) -> MicroBatch:
    """Lay the pieces of all blocks end to end into one row."""
    pieces = [piece for block in blocks for piece in _pieces(block)]
    lengths = np.array([p.length for p in pieces], np.int64)  # [S]
    starts = np.cumsum(lengths) - lengths  # [S], place of each piece's first token
    # [S]; `prefix` is relative to the piece, as blocks do not know where in the row they lie.
    prefixes = np.array([i + p.prefix if p.prefix else -1 for i, p in enumerate(pieces)], np.int64)

    def places(piece: int, offset: int) -> NDArray:
        """Places of the piece's trained tokens, or of their predecessors with offset -1."""
        p, start = pieces[piece], starts[piece]
        found = start + p.targets + offset  # [trained tokens of the piece]
        # The predecessor of an answer's first token is the last token of its prompt, which need not
        # lie beside it: other answers to the prompt may stand between.
        return np.where(found < start, starts[piece + p.prefix] + p.begin - 1, found)

    policy = [(i, p, p.owner) for i, p in enumerate(pieces) if isinstance(p.owner, _Policy)]
    ptx = [i for i, p in enumerate(pieces) if isinstance(p.owner, _Ptx)]
    counts = [len(p.targets) for _, p, _ in policy]

    def spread(values: list, dtype: type) -> NDArray:
        """One value for each policy piece -> the same value for each of its trained tokens: [P]."""
        return np.repeat(np.array(values, dtype), counts)

    def facts(name: str, dtype: type) -> NDArray:
        """Values of a per-token field of the trajectories at the trained tokens: [P]."""
        return _join(
            [np.array(getattr(o.trajectory, name))[p.begin + p.targets] for _, p, o in policy],
            dtype,
        )

    return MicroBatch(
        tokens=_join([p.tokens for p in pieces], np.int64),  # [N]
        positions=_join([np.arange(p.begin, p.begin + p.length) for p in pieces], np.int64),  # [N]
        lengths=lengths,
        prefixes=prefixes,
        policy_targets=_join([places(i, 0) for i, _, _ in policy], np.int64),  # [P]
        policy_places=_join([places(i, -1) for i, _, _ in policy], np.int64),  # [P]
        policy_sequence=spread([i for i, _, _ in policy], np.int64),
        behavior_logprobs=facts("behavior_logprobs", np.float32),
        versions=facts("versions", np.int64),
        advantages=spread([o.trajectory.advantage for _, _, o in policy], np.float32),
        temperatures=spread([o.trajectory.temperature for _, _, o in policy], np.float32),
        top_ps=spread([o.trajectory.top_p for _, _, o in policy], np.float32),
        kinds=spread([o.kind for _, _, o in policy], np.int64),
        ptx_targets=_join([places(i, 0) for i in ptx], np.int64),  # [Q]
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive tokens of one sequence, or of a shared prompt."""

    owner: _Policy | _Ptx | None
    """The sequence; None for a shared prompt."""
    tokens: list[int]
    begin: int
    """Index of the piece's first token in its sequence."""
    prefix: int
    """Index of the piece that this one continues, relative to this one (negative); 0 for none."""
    targets: NDArray[np.int64]
    """Indices of the trained tokens within the piece."""

    @property
    def length(self) -> int:
        return len(self.tokens)


def _pieces(block: _Block) -> list[_Piece]:
    """The pieces of a block: its shared tokens, if any, then the rest of each member."""
    shared, none = block.shared, np.zeros(0, np.int64)
    prompt = [_Piece(None, block.members[0].tokens[:shared], 0, 0, none)] if shared else []
    for number, member in enumerate(block.members, 1):
        # No logits predict the first token of a sequence, so it is left out, whatever its mask.
        trained = np.flatnonzero(member.trained[max(shared, 1) :]) + (0 if shared else 1)
        prompt.append(
            _Piece(member, member.tokens[shared:], shared, -number if shared else 0, trained)
        )
    return prompt


def _join(parts: Sequence, dtype: type) -> NDArray:
    """Concatenate the parts; an empty array if there are none, where numpy would raise."""
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
