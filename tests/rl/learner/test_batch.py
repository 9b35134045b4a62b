import pickle

import numpy as np
import pytest

from conjoint.envs.types import Completion, ConjointError, Group, Status, StopRun, Task, Trajectory
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.learner.batch import MicroBatch, balanced_bins, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.models.shape import TokenCost


def trajectory(
    prompt: int, answer: int, advantage: float | None = 1.0, first: int = 0
) -> Trajectory:
    t = Trajectory(status=Status.COMPLETED, advantage=advantage, temperature=0.7, top_p=0.9)
    t.extend_context(list(range(first, first + prompt)))
    sampled = list(range(first + prompt, first + prompt + answer))
    t.extend_sampled(Completion(sampled, [-float(s) for s in sampled], "stop", version=3))
    return t


def group(index: int, kind: str = "math", members: int = 2, answer: int = 4) -> Group:
    made = [trajectory(3, answer, 0.5 - m, 100 * index + 10 * m) for m in range(members)]
    return Group(Task.make(kind, f"task {index}"), made, index)


def config(**keys: int) -> LearnerConfig:
    return LearnerConfig(**({"tokens_per_microbatch": 32, "share_prompts": False} | keys))  # type: ignore[arg-type]


def all_micro(batch) -> list[MicroBatch]:
    return [m for u in batch.updates for shard in u.shards for m in shard]


def segments(micro: MicroBatch) -> list[list[int]]:
    parts = np.split(micro.tokens, np.cumsum(micro.lengths)[:-1])
    return [part.tolist() for part in parts]


def test_whole_sequences_without_padding_within_the_limit() -> None:
    groups = [group(i, answer=2 + i) for i in range(6)]
    batch = make_batch(groups, [PtxRow([1, 2, 3], [False, True, True])], config(), 0.1)
    packed = [s for m in all_micro(batch) for s in segments(m)]
    given = [t.tokens for g in groups for t in g.trajectories] + [[1, 2, 3]]
    assert sorted(packed) == sorted(given)
    for micro in all_micro(batch):
        assert len(micro.tokens) == micro.lengths.sum() <= 32
        starts = np.cumsum(micro.lengths) - micro.lengths
        assert (micro.positions[starts] == 0).all()
        assert micro.positions.max() == micro.lengths.max() - 1


def test_targets_are_exactly_the_sampled_tokens_with_their_facts() -> None:
    batch = make_batch([group(1), group(2, "code")], [], config(), 0.0)
    seen = 0
    for micro in all_micro(batch):
        targets = micro.tokens[micro.policy_targets]
        assert (micro.behavior_logprobs == -targets).all()
        assert (micro.versions == 3).all() and (micro.temperatures == np.float32(0.7)).all()
        assert (micro.top_ps == np.float32(0.9)).all()
        owner = np.searchsorted(np.cumsum(micro.lengths), micro.policy_targets, side="right")
        assert (owner == micro.policy_sequence).all()
        first = micro.tokens[(np.cumsum(micro.lengths) - micro.lengths)[micro.policy_sequence]]
        assert (micro.advantages == 0.5 - (first % 100) // 10).all()
        assert [batch.kinds[k] for k in micro.kinds] == [
            "code" if t >= 200 else "math" for t in targets
        ]
        seen += len(targets)
    assert seen == batch.updates[0].num_tokens == 16
    assert batch.updates[0].num_sequences == 4


def test_masked_failed_and_empty_trajectories_are_not_packed() -> None:
    g = group(1, members=4)
    g.trajectories[0].advantage = None
    g.trajectories[1].status = Status.FAILED
    g.trajectories[2] = trajectory(3, 0)
    (update,) = make_batch([g], [], config(), 0.0).updates
    (micro,) = update.shards[0]
    assert segments(micro) == [g.trajectories[3].tokens]
    assert update.num_sequences == 1


def test_nothing_trainable_stops_the_run() -> None:
    g = group(1)
    for t in g.trajectories:
        t.advantage = None
    with pytest.raises(StopRun, match="none has an advantage"):
        make_batch([g], [], config(), 0.0)


def test_updates_keep_groups_whole_see_every_kind_and_ignore_arrival_order() -> None:
    groups = [group(i, "math" if i % 2 else "code") for i in range(8)]
    rows = [PtxRow([i, i + 1], [False, True]) for i in range(4)]
    batch = make_batch(groups, rows, config(updates_per_batch=2), 0.1)
    again = make_batch(groups[::-1], rows, config(updates_per_batch=2), 0.1)
    assert pickle.dumps(batch) == pickle.dumps(again)
    owners = []
    for update in batch.updates:
        packed = [s for m in update.shards[0] for s in segments(m) if len(s) > 2]
        owners.append({s[0] // 100 for s in packed})
        assert update.num_sequences == 8 and update.num_ptx_tokens == 2
        kinds = {batch.kinds[k] for m in update.shards[0] for k in m.kinds}
        assert kinds == {"math", "code"}
    assert owners[0] | owners[1] == set(range(8)) and not owners[0] & owners[1]


def test_fewer_groups_than_updates_makes_fewer_updates() -> None:
    assert len(make_batch([group(1)], [], config(updates_per_batch=4), 0.0).updates) == 1


def test_ranks_get_equal_numbers_and_global_denominators() -> None:
    groups = [group(i) for i in range(5)]
    one = make_batch(groups, [], config(ranks=1), 0.0).updates[0]
    two = make_batch(groups, [], config(ranks=2), 0.0)
    (update,) = two.updates
    assert len(update.shards[0]) == len(update.shards[1])
    assert (update.num_sequences, update.num_tokens) == (one.num_sequences, one.num_tokens)
    loads = [sum(len(m.tokens) for m in shard) for shard in update.shards]
    assert abs(loads[0] - loads[1]) <= 7
    shard = two.shard(1)
    assert shard.updates[0].shards == [update.shards[1]]
    assert shard.updates[0].num_tokens == update.num_tokens


def test_a_rank_without_work_gets_an_empty_micro_batch() -> None:
    g = group(1, members=1)
    update = make_batch([g], [], config(ranks=2), 0.0).updates[0]
    sizes = sorted(len(shard[0].tokens) for shard in update.shards)
    assert sizes == [0, 7]


def test_ptx_never_trains_the_first_token() -> None:
    batch = make_batch([group(1)], [PtxRow([9, 8, 7], [True, True, False])], config(), 0.5)
    (micro,) = all_micro(batch)
    assert micro.tokens[micro.ptx_targets].tolist() == [8]
    assert batch.ptx_weight == 0.5 and batch.updates[0].num_ptx_tokens == 1


def test_too_long_sequence_names_the_key() -> None:
    with pytest.raises(ConjointError, match=r"33 tokens.*tokens_per_microbatch=32"):
        make_batch([group(1, answer=30)], [], config(), 0.0)


def test_greedy_or_promptless_trajectories_are_refused() -> None:
    g = group(1)
    g.trajectories[0].temperature = 0.0
    with pytest.raises(ValueError, match="temperature 0"):
        make_batch([g], [], config(), 0.0)
    bare = group(2)
    bare.trajectories[0] = trajectory(0, 3)
    with pytest.raises(ValueError, match="nothing predicts"):
        make_batch([bare], [], config(), 0.0)


def test_bins_are_even_in_cost_and_bounded_in_tokens() -> None:
    sizes = [8, 4, 4, 4, 4, 4, 4]
    costs = [n + n * n for n in sizes]
    bins = balanced_bins(costs, sizes, 20, 2)
    loads = [sum(costs[i] for i in b) for b in bins]
    assert max(sum(sizes[i] for i in b) for b in bins) <= 20
    # By tokens alone the long item would share with two short ones: 112 against 80.
    assert loads == [100, 92] and len(bins) == 2


def test_a_long_answer_counts_for_its_attention_too() -> None:
    groups = [group(i, members=1, answer=n) for i, n in enumerate([25, *[5] * 7])]
    cost = TokenCost(token=1.0, pair=1.0)

    def spread(by: TokenCost) -> float:
        micros = all_micro(make_batch(groups, [], config(tokens_per_microbatch=56), 0.0, by))
        loads = [sum(cost.of(int(n), 0, 0) for n in m.lengths) for m in micros]
        return max(loads) / min(loads)

    assert spread(cost) < spread(TokenCost())


def test_bins_are_balanced_and_a_multiple() -> None:
    lengths = [9, 1, 8, 2, 7, 3, 6, 4, 5, 5]
    bins = balanced_bins(lengths, lengths, 30, 2)
    assert len(bins) == 2
    assert sorted(i for b in bins for i in b) == list(range(10))
    assert sorted(sum(lengths[i] for i in b) for b in bins) == [25, 25]
    assert len(balanced_bins([6, 6, 6], [6, 6, 6], 10, 2)) == 4
