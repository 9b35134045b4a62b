"""The mixture: exact shares, exact resume, a bounded critic queue, disjoint splits."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoint.envs.mixture import Mixture, MixtureConfig, apportion, split_rows
from conjoint.envs.sources.dataset import RowSubset
from conjoint.envs.types import ConjointError, Task


class Endless:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def task(self, index: int) -> Task:
        return Task.make(self.kind, f"{self.kind} {index}")


def rows(kind: str, count: int, start: int = 0) -> RowSubset:
    return RowSubset(kind, [Task.make(kind, f"row {i}") for i in range(start, start + count)])


def critic(*numbers: int | str) -> list[Task]:
    return [
        Task.make("critic", f"which {n}", reference="A", meta={"pair": (n, n)}) for n in numbers
    ]


def build(seed: int = 0) -> Mixture:
    weights = {"math": 2.0, "code": 1.0, "open": 1.0, "critic": 1.0}
    sources = {"math": Endless("math"), "code": rows("code", 7), "open": Endless("open")}
    return Mixture(sources, MixtureConfig(weights), seed)


def kinds(tasks: list[Task]) -> Counter[str]:
    return Counter(task.kind for task in tasks)


def test_shares_are_met_exactly_and_the_empty_critic_share_goes_to_the_others() -> None:
    mixture = build()
    assert kinds(mixture.next(20)) == {"math": 10, "code": 5, "open": 5}
    mixture.feed(critic(*range(30)))
    assert kinds(mixture.next(20)) == {"math": 8, "code": 4, "open": 4, "critic": 4}


def test_a_partly_filled_critic_share_is_filled_up_by_the_others() -> None:
    mixture = build()
    mixture.feed(critic(1, 2))
    counts = kinds(mixture.next(20))
    assert counts["critic"] == 2 and sum(counts.values()) == 20
    assert counts["math"] == 9


def test_an_empty_queue_earns_no_claim_for_later() -> None:
    mixture = build()
    for _ in range(10):
        mixture.next(20)
    mixture.feed(critic(*range(100)))
    assert kinds(mixture.next(20))["critic"] == 4


def test_rounding_is_paid_back_over_steps() -> None:
    sources = {name: Endless(name) for name in "abc"}
    mixture = Mixture(sources, MixtureConfig(dict.fromkeys("abc", 1.0)))
    total: Counter[str] = Counter()
    for step in range(1, 31):
        total += kinds(mixture.next(4))
        assert all(abs(total[name] - step * 4 / 3) <= 1 for name in "abc")


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
)
def test_apportion_always_adds_up_and_never_strays(weights: list[float], counts: list[int]) -> None:
    shares = {str(i): w for i, w in enumerate(weights)}
    credits = dict.fromkeys(shares, 0.0)
    given_out: Counter[str] = Counter()
    for count in counts:
        part = apportion(count, shares, credits)
        assert sum(part.values()) == count and min(part.values()) >= 0
        given_out.update(part)
    for name, weight in shares.items():
        ideal = sum(counts) * weight / sum(weights)
        assert abs(given_out[name] - ideal) < len(weights)


def test_kinds_are_spread_over_the_list() -> None:
    order = [task.kind for task in build().next(20)]
    for half in (order[:10], order[10:]):
        assert abs(half.count("math") - 5) <= 1


def test_a_file_is_drawn_whole_each_epoch_in_a_new_order() -> None:
    mixture = Mixture({"code": rows("code", 7)}, MixtureConfig({"code": 1.0}))
    epochs = [[task.id for task in mixture.next(7)] for _ in range(4)]
    assert all(len(set(epoch)) == 7 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_generated_tasks_come_in_the_order_of_their_index_even_with_a_length() -> None:
    class Sized(Endless):
        def __len__(self) -> int:
            return 3

    mixture = Mixture({"m": Sized("m")}, MixtureConfig({"m": 1.0}))
    assert [task.prompt for task in mixture.next(4)] == ["m 0", "m 1", "m 2", "m 0"]


def test_a_resumed_mixture_goes_on_exactly() -> None:
    for stop in range(6):
        whole, first = build(seed=5), build(seed=5)
        for step in range(stop):
            assert whole.next(9) == first.next(9)
            whole.feed(critic(step, step + 100))
            first.feed(critic(step, step + 100))
        resumed = build(seed=5)
        resumed.next(13)  # whatever was there before is replaced
        resumed.load_state(json.loads(json.dumps(first.state())))
        assert resumed.state() == first.state()
        for step in range(5):
            assert whole.next(11) == resumed.next(11)
            whole.feed(critic(step))
            resumed.feed(critic(step))
        assert whole.metrics() == resumed.metrics()


def test_the_state_is_a_snapshot_that_later_draws_do_not_change() -> None:
    mixture = build()
    mixture.feed(critic(1, 2, 3))
    before = mixture.state()
    copy = json.loads(json.dumps(before))
    drawn = mixture.next(10)
    assert before == copy
    mixture.load_state(before)
    assert mixture.next(10) == drawn


def test_global_randomness_is_neither_used_nor_moved() -> None:
    random.seed(1)
    first = build(seed=3).next(30)
    state = random.getstate()
    random.seed(2)
    assert build(seed=3).next(30) == first
    random.seed(1)
    assert random.getstate() == state


def test_seeds_reshuffle_rows() -> None:
    ids = {tuple(t.id for t in build(seed=s).next(40) if t.kind == "code") for s in range(4)}
    assert len(ids) > 1


def test_the_newest_critic_tasks_are_drawn_first_and_asked_for_exactly() -> None:
    """A step that is fed more than it asks for does not wait for what was left over before it."""
    mixture = build()
    for step in range(40):
        due = mixture.critic_due(10)
        mixture.feed(critic(*(f"{step}/{i}" for i in range(due + 1))))
        drawn = [task.prompt for task in mixture.next(10) if task.kind == "critic"]
        assert drawn == [f"which {step}/{i}" for i in range(due)]


def test_critic_queue_is_bounded_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("conjoint.envs.mixture.CRITIC_CAPACITY", 4)
    mixture = build()
    mixture.feed(critic(*range(6)))
    drawn = [task.prompt for task in mixture.next(20) if task.kind == "critic"]
    assert sorted(drawn) == ["which 0", "which 1", "which 2", "which 3"]
    assert mixture.metrics() == {
        "critic/queued": 0.0,
        "critic/dropped_stale": 0.0,
        "critic/dropped_overflow": 2.0,
    }


def test_stale_critic_tasks_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conjoint.envs.mixture.CRITIC_MAX_AGE", 2)
    mixture = build()
    mixture.feed(critic(*range(8)))
    assert [kinds(mixture.next(5))["critic"] for _ in range(4)] == [1, 1, 0, 0]
    assert mixture.metrics()["critic/dropped_stale"] == 6


def test_without_a_critic_weight_fed_tasks_never_appear() -> None:
    mixture = Mixture({"m": Endless("m")}, MixtureConfig({"m": 1.0}))
    mixture.feed(critic(1))
    assert kinds(mixture.next(8)) == {"m": 8}
    assert mixture.metrics()["critic/dropped_overflow"] == 1


def test_a_critic_task_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ConjointError, match="JSON"):
        build().feed([Task.make("critic", "?", reference=object())])


def test_a_weight_of_zero_leaves_a_source_out() -> None:
    sources = {"a": Endless("a"), "b": Endless("b")}
    assert kinds(Mixture(sources, MixtureConfig({"a": 1.0, "b": 0.0})).next(9)) == {"a": 9}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({}, "above 0"),
        ({"m": 0.0}, "above 0"),
        ({"critic": 1.0}, "above 0"),
        ({"m": -1.0}, "weight of m is -1.0"),
        ({"m": float("nan")}, "weight of m is nan"),
        ({"m": 1.0, "x": 1.0}, "a weight but no source named x"),
        ({"x": 1.0}, "named"),
    ],
)
def test_contradictory_weights_are_refused(weights: dict[str, float], says: str) -> None:
    with pytest.raises(ConjointError, match=says):
        Mixture({"m": Endless("m")}, MixtureConfig(weights))


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ConjointError, match="m of the mixture has no tasks"):
        Mixture({"m": RowSubset("m", [])}, MixtureConfig({"m": 1.0}))


def test_resuming_with_other_rows_sources_or_seed_is_refused() -> None:
    def mixture(count: int, seed: int = 0, start: int = 0) -> Mixture:
        return Mixture({"m": rows("m", count, start)}, MixtureConfig({"m": 1.0}), seed)

    state = mixture(5).state()
    for other, says in (
        (mixture(6), "rows of the source m"),
        (mixture(5, start=1), "rows of the source m"),
        (mixture(5, seed=1), "seed 0, this run's 1"),
        (build(), "draws from m, this run's from"),
    ):
        with pytest.raises(ConjointError, match=says):
            other.load_state(state)


def test_split_rows_is_disjoint_by_content_and_blind_to_order() -> None:
    tasks = [Task.make("math", f"row {i % 30}") for i in range(40)]  # ten rows twice
    train, heldout = split_rows(RowSubset("math", tasks), 8, seed=1)
    trained = {train.task(i).id for i in range(len(train))}
    kept = {heldout.task(i).id for i in range(len(heldout))}
    assert len(kept) == len(heldout) == 8 and not trained & kept
    assert trained | kept == {task.id for task in tasks}
    _, again = split_rows(RowSubset("math", tasks[::-1]), 8, seed=1)
    assert {again.task(i).id for i in range(8)} == kept
    _, other = split_rows(RowSubset("math", tasks), 8, seed=2)
    assert {other.task(i).id for i in range(8)} != kept


@pytest.mark.parametrize("heldout", [-1, 5, 6])
def test_a_split_that_leaves_no_training_rows_is_refused(heldout: int) -> None:
    with pytest.raises(ConjointError, match=f"tasks.math.heldout={heldout}"):
        split_rows(rows("math", 5), heldout, seed=0)
