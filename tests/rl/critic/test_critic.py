"""Critic tasks: made from proven pairs only, blind, balanced and repeatable."""

from collections import Counter
from dataclasses import replace

import pytest

from conjoint.envs.types import ConjointError, Group, Message, Score, Status, Task, Trajectory
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.prompt import judge_messages
from conjoint.rl.critic.tasks import CriticConfig, critic_ages, critic_tasks

JUDGE = JudgeConfig(template="compact")


def answer(
    text: str, value: float | None, status: Status = Status.COMPLETED, name: str = "math"
) -> Trajectory:
    score = Score.infra_error(name) if value is None else Score.of(name, value)
    return Trajectory(
        messages=[Message(role="assistant", content=text)], status=status, scores=[score]
    )


def group(i: int, *trajectories: Trajectory, kind: str = "math") -> Group:
    return Group(Task.make(kind, f"Question {i}?", reference=f"REF-{i}"), list(trajectories), i)


def pair(i: int) -> Group:
    return group(i, answer(f"right {i}", 1.0), answer(f"wrong {i}", 0.0))


def make(
    groups: list[Group], seed: int = 0, due: int = 99, step: int = 7, **cfg: int | bool
) -> list[Task]:
    config = CriticConfig(**cfg)  # type: ignore[arg-type]
    return critic_tasks(groups, config, seed, judge=JUDGE, due=due, step=step)


def test_tasks_are_the_judges_own_prompt_for_correctness() -> None:
    task, other = make([pair(3)])
    assert {task.reference["better"], other.reference["better"]} == {"A", "B"}
    source = pair(3).task
    a, b = ("right 3", "wrong 3") if task.reference["better"] == "A" else ("wrong 3", "right 3")
    assert list(task.messages) == judge_messages(source, a, b, [], "compact")
    assert task.kind == "critic"
    assert task.meta == {
        "template": "compact",
        "source_kind": "math",
        "source_task": source.id,
        "step": 7,
    }


def test_each_pair_is_asked_in_both_orders_and_the_first_is_drawn_from_the_seed() -> None:
    by_seed = []
    for seed in range(20):
        tasks = make([pair(i) for i in range(4)], seed)
        right = [t.reference["better"] for t in tasks]
        assert len(tasks) == 8
        for a, b in zip(tasks[::2], tasks[1::2], strict=True):
            assert a.meta["source_task"] == b.meta["source_task"]
            assert {a.reference["better"], b.reference["better"]} == {"A", "B"}
        by_seed.append("".join(right))
    assert len(set(by_seed)) > 5


def test_the_right_position_follows_the_text_not_the_order_of_sampling() -> None:
    for seed in range(10):
        for task in make([pair(i) for i in range(8)], seed):
            text = task.messages[0]["content"]
            right_first = text.index("right") < text.index("wrong")
            assert task.reference["better"] == ("A" if right_first else "B")


def test_the_reference_is_nowhere_in_the_messages() -> None:
    for template in ("compact", "full"):
        tasks = critic_tasks(
            [pair(i) for i in range(4)],
            CriticConfig(),
            0,
            judge=JudgeConfig(template=template),
            due=8,
            step=0,
        )
        assert len(tasks) == 8
        assert not any("REF-" in m["content"] for t in tasks for m in t.messages)


@pytest.mark.parametrize(
    "bad",
    [
        answer("wrong", None),
        answer("wrong", 0.0, Status.TRUNCATED),
        answer("wrong", 0.0, Status.FAILED),
        answer("wrong", 0.5),
        answer("", 0.0),
        answer("right", 0.0),
        answer(" right\u200b", 0.0),
    ],
    ids=["infra", "truncated", "failed", "partly", "blank", "same text", "same to a reader"],
)
def test_no_task_without_a_proven_wrong_answer_of_its_own(bad: Trajectory) -> None:
    assert make([group(0, answer("right", 1.0), bad)]) == []


@pytest.mark.parametrize("extra", [1.0, 0.0])
def test_a_text_graded_both_ways_is_on_neither_side(extra: float) -> None:
    graded_twice = [answer("same", 1.0), answer("same", 0.0)]
    assert make([group(0, *graded_twice, answer("other", extra))]) == []


def test_no_task_from_a_truncated_right_answer_or_one_with_a_failed_check() -> None:
    half_graded = answer("right", 1.0)
    half_graded.scores.append(Score.infra_error("format"))
    for right in (answer("right", 1.0, Status.TRUNCATED), half_graded):
        assert make([group(0, right, answer("wrong", 0.0))]) == []


def test_the_judges_own_scores_and_critic_groups_prove_nothing() -> None:
    judged = group(0, answer("won", 1.0), answer("lost", 0.0))
    for t in judged.trajectories:
        t.scores = [replace(score, judged=True) for score in t.scores]
    verdicts = group(1, answer("A", 1.0), answer("B", 0.0), kind="critic")
    assert make([judged, verdicts]) == []


def test_one_failed_check_makes_an_answer_wrong() -> None:
    wrong = answer("wrong", 1.0)
    wrong.scores.append(Score.of("format", 0.0))
    task, _ = make([group(0, answer("right", 1.0), wrong)])
    assert task.meta["source_kind"] == "math"


def test_limits_and_the_switch() -> None:
    many = [
        group(
            i,
            *(answer(f"r{i}{k}", 1.0) for k in range(3)),
            *(answer(f"w{i}{k}", 0.0) for k in range(3)),
        )
        for i in range(6)
    ]
    assert len(make(many)) == 12
    assert len(make(many, pairs_per_step=4)) == 8
    assert len(make(many, pairs_per_group=2)) == 24
    assert [len(make(many, due=due)) for due in (0, 1, 2, 3, 8)] == [0, 2, 2, 4, 8]
    assert make(many, refine=False) == []
    assert make(many, seed=4) == make(many, seed=4) != make(many, seed=5)


def test_kinds_take_turns_and_each_pair_comes_in_both_orders() -> None:
    many = [group(i, answer(f"r{i}", 1.0), answer(f"w{i}", 0.0), kind="math") for i in range(9)]
    many += [group(9, answer("r9", 1.0), answer("w9", 0.0), kind="code")]
    for seed in range(5):
        made = make(many, seed=seed, due=4)
        assert Counter(task.meta["source_kind"] for task in made) == {"math": 2, "code": 2}
        assert Counter(task.reference["better"] for task in made) == {"A": 2, "B": 2}


def test_the_age_of_critic_tasks_is_counted_in_steps() -> None:
    made = [
        Group(task, [], 0)
        for step in (3, 4)
        for task in make([group(0, answer("right", 1.0), answer("wrong", 0.0))], step=step)
    ]
    others = [group(1, answer("1", 1.0))]
    assert critic_ages([*made, *others], 5) == {"critic/age_mean": 1.5, "critic/age_max": 2.0}
    assert critic_ages(others, 5) == {}


@pytest.mark.parametrize("key", ["pairs_per_step", "pairs_per_group"])
def test_config_mistakes_are_named(key: str) -> None:
    with pytest.raises(ConjointError, match=rf"critic\.{key}"):
        CriticConfig(**{key: 0}).validate()
