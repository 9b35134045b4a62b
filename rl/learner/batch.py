"""Groups and PTX rows -> packed token arrays: the one place where lists become tensors.

Arrays are numpy (picklable, no torch). A micro-batch is pieces laid end to end without padding: a
whole sequence, or the prompt of a group once and then each of its answers. Only the tokens that a
loss uses are listed, by their place in it.
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
    """N tokens of S pieces. A piece attends to itself, causally, and to the piece it continues."""

    tokens: NDArray[np.int64]
    """[N]"""
    positions: NDArray[np.int64]
    """[N], of the token in its sequence: those of an answer go on from its prompt's."""
    lengths: NDArray[np.int64]
    """[S], sum N."""
    prefixes: NDArray[np.int64]
    """[S], the piece that this one continues, which stands before it; -1 for none."""

    @staticmethod
    def single(tokens: Sequence[int]) -> "PackedRow":
        """One whole sequence."""
        ids = np.array(tokens, np.int64)
        return PackedRow(ids, np.arange(len(ids)), np.array([len(ids)]), np.array([-1]))


@dataclass(slots=True)
class MicroBatch(PackedRow):
    """P trained policy tokens and Q trained PTX tokens of a packed row."""

    policy_targets: NDArray[np.int64]
    """[P], the place of each."""
    policy_places: NDArray[np.int64]
    """[P], the place before it in its sequence, whose logits predict it."""
    policy_sequence: NDArray[np.int64]
    """[P], which of the S pieces."""
    behavior_logprobs: NDArray[np.float32]
    """[P]"""
    versions: NDArray[np.int64]
    """[P], of the weights that sampled the token."""
    advantages: NDArray[np.float32]
    """[P]"""
    temperatures: NDArray[np.float32]
    """[P], the sampling temperature."""
    top_ps: NDArray[np.float32]
    """[P], the share of the likeliest tokens that the token was drawn from; 1 is all of them."""
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
    def trained(self) -> list[bool]:
        return self.trajectory.sampled


@dataclass(frozen=True, slots=True)
class _Ptx:
    row: "PtxRow"

    @property
    def tokens(self) -> list[int]:
        return self.row.tokens

    @property
    def trained(self) -> list[bool]:
        return self.row.trained


@dataclass(frozen=True, slots=True)
class _Block:
    """Sequences that begin with the same `shared` tokens, which are laid down once (0: none)."""

    shared: int
    members: Sequence[_Policy | _Ptx]

    @property
    def length(self) -> int:
        return self.shared + sum(len(m.tokens) - self.shared for m in self.members)

    def cost(self, cost: TokenCost) -> float:
        own = [
            cost.of(len(m.tokens) - self.shared, self.shared, sum(m.trained)) for m in self.members
        ]
        return cost.of(self.shared, 0, 0) + sum(own)

    def split(self, parts: int) -> "list[_Block]":
        """The members dealt out as evenly as they come, each part with the shared tokens anew."""
        groups = np.array_split(np.arange(len(self.members)), parts)
        return [_Block(self.shared, [self.members[i] for i in group]) for group in groups]


def make_batch(
    groups: Sequence[Group],
    ptx_rows: Sequence["PtxRow"],
    config: LearnerConfig,
    ptx_weight: float,
    cost: TokenCost = BY_TOKENS,
) -> Batch:
    """Cut one step's data into updates, ranks and micro-batches; deterministic.

    Groups stay whole in one update and are dealt to the updates kind by kind, so that each sees
    every kind. `cost` is what micro-batches are balanced by. Raises StopRun when nothing is
    trainable, ConjointError for a sequence that is too long.
    """
    names = tuple(sorted({group.task.kind for group in groups}))
    dealt = sorted((g for g in groups if _trained(g)), key=lambda g: (g.task.kind, g.index))
    if not dealt:
        raise StopRun("no trajectory of this batch can be trained on: none has an advantage")
    count = min(config.updates_per_batch, len(dealt))
    updates = []
    for u in range(count):
        mine = sorted(dealt[u::count], key=lambda g: g.index)
        policy = [[_Policy(t, names.index(g.task.kind)) for t in _trained(g)] for g in mine]
        updates.append(
            _make_update(policy, [_Ptx(row) for row in ptx_rows[u::count]], config, cost)
        )
    return Batch(updates, names, ptx_weight)


def heldout_batch(rows: Sequence["PtxRow"], config: LearnerConfig) -> Batch:
    """PTX rows alone, to be measured and not trained."""
    return Batch([_make_update([], [_Ptx(row) for row in rows], config, BY_TOKENS)], (), 0.0)


def _trained(group: Group) -> list[Trajectory]:
    return [t for t in group.trajectories if t.trainable and t.num_sampled]


def _make_update(
    policy: list[list[_Policy]], ptx: list[_Ptx], config: LearnerConfig, cost: TokenCost
) -> Update:
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
        shards=[packed[rank :: config.ranks] for rank in range(config.ranks)],
        num_sequences=sum(len(members) for members in policy),
        num_tokens=sum(len(m.policy_targets) for m in packed),
        num_ptx_tokens=sum(len(m.ptx_targets) for m in packed),
    )


def _check(sequence: _Policy | _Ptx, capacity: int) -> None:
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
    """How many tokens before the first sampled one all members have in common."""
    length = min(m.trained.index(True) for m in members)
    table = np.array([m.tokens[:length] for m in members])
    return int((table == table[0]).all(0).cumprod().sum())


def _divided(blocks: list[_Block], config: LearnerConfig, cost: TokenCost) -> list[_Block]:
    """Blocks that fit into a micro-batch, none dearer than a rank's even share where it can be."""
    capacity = config.tokens_per_microbatch
    share = sum(block.cost(cost) for block in blocks) / config.ranks
    done = []
    for block in blocks:
        parts = min(len(block.members), max(1, round(block.cost(cost) / share)))
        while any(part.length > capacity for part in block.split(parts)):
            parts += 1
        done += block.split(parts)
    return done


def balanced_bins(
    costs: Sequence[float], sizes: Sequence[int], capacity: int, multiple: int
) -> list[list[int]]:
    """Indices of items in bins of total size at most `capacity`, as even in cost as dearest-first
    into the cheapest bin with room makes them.

    The number of bins is a multiple of `multiple`; some may be empty. Dearest bin first, so that
    neighbours, which ranks run side by side, cost about the same. Each size must fit in a bin.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-costs[i], -sizes[i]))
    needed = max(1, -(-sum(sizes) // capacity))
    count = -(-needed // multiple) * multiple
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
    pieces = [piece for block in blocks for piece in _pieces(block)]
    lengths = np.array([p.length for p in pieces], np.int64)
    starts = np.cumsum(lengths) - lengths
    prefixes = np.array([i + p.prefix if p.prefix else -1 for i, p in enumerate(pieces)], np.int64)

    def places(piece: int, offset: int) -> NDArray:
        """Of the piece's trained tokens; with offset -1, of those before them."""
        p, start = pieces[piece], starts[piece]
        found = start + p.targets + offset
        # What comes before an answer's first token is the last token of its prompt.
        return np.where(found < start, starts[piece + p.prefix] + p.begin - 1, found)

    policy = [(i, p, p.owner) for i, p in enumerate(pieces) if isinstance(p.owner, _Policy)]
    ptx = [i for i, p in enumerate(pieces) if isinstance(p.owner, _Ptx)]
    counts = [len(p.targets) for _, p, _ in policy]

    def spread(values: list, dtype: type) -> NDArray:
        """One value a policy sequence -> one a trained token."""
        return np.repeat(np.array(values, dtype), counts)

    def facts(name: str, dtype: type) -> NDArray:
        """A field of the trajectory with one value a token, at the trained ones."""
        return _join(
            [np.array(getattr(o.trajectory, name))[p.begin + p.targets] for _, p, o in policy],
            dtype,
        )

    return MicroBatch(
        tokens=_join([p.tokens for p in pieces], np.int64),
        positions=_join([np.arange(p.begin, p.begin + p.length) for p in pieces], np.int64),
        lengths=lengths,
        prefixes=prefixes,
        policy_targets=_join([places(i, 0) for i, _, _ in policy], np.int64),
        policy_places=_join([places(i, -1) for i, _, _ in policy], np.int64),
        policy_sequence=spread([i for i, _, _ in policy], np.int64),
        behavior_logprobs=facts("behavior_logprobs", np.float32),
        versions=facts("versions", np.int64),
        advantages=spread([o.trajectory.advantage for _, _, o in policy], np.float32),
        temperatures=spread([o.trajectory.temperature for _, _, o in policy], np.float32),
        top_ps=spread([o.trajectory.top_p for _, _, o in policy], np.float32),
        kinds=spread([o.kind for _, _, o in policy], np.int64),
        ptx_targets=_join([places(i, 0) for i in ptx], np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    owner: _Policy | _Ptx | None
    """None for a shared prompt."""
    tokens: list[int]
    begin: int
    """How many tokens of its sequence come before."""
    prefix: int
    """Where the piece with those stands, relative to this one; 0 for none."""
    targets: NDArray[np.int64]
    """Trained tokens, counted within the piece."""

    @property
    def length(self) -> int:
        return len(self.tokens)


def _pieces(block: _Block) -> list[_Piece]:
    """The shared tokens, if any, then what each member adds to them."""
    shared, none = block.shared, np.zeros(0, np.int64)
    prompt = [_Piece(None, block.members[0].tokens[:shared], 0, 0, none)] if shared else []
    for number, member in enumerate(block.members, 1):
        # Nothing predicts a row's first token, whatever its mask says.
        trained = np.flatnonzero(member.trained[max(shared, 1) :]) + (0 if shared else 1)
        prompt.append(
            _Piece(member, member.tokens[shared:], shared, -number if shared else 0, trained)
        )
    return prompt


def _join(parts: Sequence, dtype: type) -> NDArray:
    """Concatenation that also works for no parts at all."""
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
