"""Task sets of a run: what the two seeds decide."""

from rl.config import load_config
from rl.tasks import TaskSets, build_tasks


def sets(*overrides: str) -> TaskSets:
    return build_tasks(load_config(["eval.tasks=50", "eval.judge_pairs=30", *overrides]))


def ids(found: TaskSets) -> dict[str, list[str]]:
    return {kind: [task.id for task in tasks] for kind, tasks in found.heldout.items()}


def test_the_seed_of_the_run_moves_the_training_tasks_and_no_held_out_one():
    one, other = sets("seed=0"), sets("seed=1")
    assert ids(one) == ids(other) and one.judge_pairs == other.judge_pairs
    assert [t.id for t in one.mixture.next(8)] != [t.id for t in other.mixture.next(8)]


def test_the_seed_of_the_evaluation_draws_other_held_out_tasks_and_pairs_and_only_those():
    one, other = sets("eval.seed=1"), sets("eval.seed=2")
    for kind, drawn in ids(one).items():
        assert len(set(drawn)) == 50
        assert set(drawn) != set(ids(other)[kind])
    assert one.judge_pairs != other.judge_pairs
    assert [t.id for t in one.mixture.next(8)] == [t.id for t in other.mixture.next(8)]
