"""Confidences against verdicts: the score's closed form, the figures', and what may not count."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from conjoint.envs.types import (
    CALIBRATION,
    ConjointError,
    Group,
    Message,
    Outcome,
    Score,
    Status,
    Task,
    Trajectory,
)
from conjoint.rewards.assign import assign_rewards, correct_lengths
from conjoint.rewards.base import RewardContext
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.calibration import calibration_score, correctness
from conjoint.rewards.combine import each
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.lengths import LengthRewardConfig
from conjoint.rewards.registry import RewardConfig, load_own_rewards
from conjoint.rewards.scoring import Scorer
from conjoint.rl.algo.advantages import mean_baseline
from conjoint.rl.critic.tasks import CriticConfig, answer_pairs, critic_tasks
from conjoint.rl.run.folder import RunFolder, read_jsonl
from conjoint.rl.run.metrics import answer_score, step_metrics
from conjoint.rl.stats.calibration import (
    Bin,
    Calibration,
    Pair,
    auroc,
    calibration,
    calibration_change,
    selective_accuracy,
)

TASK = Task.make("math", "What is 4+5?", "9")


def graded(right: float | None, confidence: float | None, **change) -> Trajectory:
    """An answer that was asked for a confidence, with its verdict and its calibration score."""
    score = Score.infra_error("math", "no worker") if right is None else Score.of("math", right)
    t = Trajectory(
        messages=[Message(role="assistant", content="9\nConfidence: ...")],
        status=Status.COMPLETED,
        scores=[score],
        answer="9",
        confidence=confidence,
    )
    t = replace(t, **change)
    t.scores.append(calibration_score(t))
    return t


def found(pairs: list[Pair], missing: int = 0) -> Calibration:
    result = calibration(pairs, missing)
    assert result is not None
    return result


# -- the score and the reward -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "confidence", "value"),
    [(1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.7, 0.91),
     (0.0, 0.7, 0.51), (0.5, 0.7, 0.51)],
)  # fmt: skip
def test_the_score_is_one_minus_the_squared_distance(right: float, confidence: float, value: float):
    score = graded(right, confidence).scores[-1]
    assert score.name == CALIBRATION and score.value == pytest.approx(value)
    assert f"said {confidence:g}" in score.reasons[0]


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_no_readable_confidence_pays_as_little_as_the_worst_and_is_no_mask(right: float):
    score = graded(right, None).scores[-1]
    assert score.value == 0.0 and score.outcome is Outcome.FAIL
    assert score.value == min(graded(right, q).scores[-1].value or 0.0 for q in (0.0, 1.0))


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
def test_the_advantage_is_that_of_rlcr_up_to_a_factor(weight: float):
    """arXiv 2507.16806: r = c - w (q - c)^2."""
    cases = [(1.0, 0.9), (1.0, 0.2), (0.0, 0.9), (0.0, 0.1)]
    members = [graded(*case) for case in cases]
    assign_rewards([Group(TASK, members)], BudgetConfig(), {CALIBRATION: weight})
    rewards = [t.reward or 0.0 for t in members]
    rlcr = mean_baseline([c - weight * (q - c) ** 2 for c, q in cases])
    assert [(1 + weight) * a for a in mean_baseline(rewards)] == pytest.approx(rlcr)
    assert all(0 <= r <= 1 for r in rewards), "never below the penalty of a cut-off answer"


def test_weight_0_is_the_same_run_without_the_term():
    members = [graded(1.0, 0.1), graded(0.0, 0.9), graded(1.0, None)]
    assign_rewards([Group(TASK, members)], BudgetConfig(), {CALIBRATION: 0.0})
    assert [t.reward for t in members] == [1.0, 0.0, 1.0]
    assert members[0].scores[-1].value == pytest.approx(0.19), "still measured"


def test_the_expected_score_is_highest_at_the_true_probability():
    """A proper scoring rule: an answer that is right 7 times in 10."""
    stated = [i / 100 for i in range(101)]
    expected = [
        0.7 * (graded(1.0, q).scores[-1].value or 0) + 0.3 * (graded(0.0, q).scores[-1].value or 0)
        for q in stated
    ]
    assert stated[int(np.argmax(expected))] == 0.7


def test_an_ungraded_answer_stays_masked():
    t = graded(None, 0.9)
    assert t.scores[-1].value is None
    assign_rewards([Group(TASK, [t])], BudgetConfig(), {})
    assert t.reward is None and answer_score(t) is None


# -- what is correct --------------------------------------------------------------------------


def test_every_verifier_must_pay_in_full_and_a_judge_does_not_count():
    def with_scores(*scores: Score, status: Status = Status.COMPLETED) -> float | None:
        return correctness(Trajectory(status=status, scores=list(scores)))

    right, half = Score.of("code", 1.0), Score.of("code", 0.5)
    assert with_scores(right) == 1 and with_scores(half) == 0
    assert with_scores(right, Score.of("style", 0.0)) == 0
    for opinion in (Score.of("rubric", 0.1), Score.infra_error("instructions")):
        assert with_scores(right, replace(opinion, judged=True)) == 1
    assert with_scores(replace(Score.of("instructions", 1.0), judged=True)) is None
    assert with_scores(right, Score.infra_error("style")) is None
    assert with_scores(right, Score.of(CALIBRATION, 0.0)) == 1
    assert with_scores(right, status=Status.TRUNCATED) == 0


def test_accuracy_critic_pairs_and_length_rewards_know_no_confidence():
    sure, unsure, wrong = graded(1.0, 1.0), graded(1.0, 0.1), graded(0.0, 0.0, answer="8")
    wrong.messages[0]["content"] = "8\nConfidence: 0.0"
    assert [answer_score(t) for t in (sure, unsure, wrong)] == [1.0, 1.0, 0.0]
    group = Group(TASK, [unsure, wrong])
    assert answer_pairs(group, random.Random(0)) == [("9", "8")]
    prompts = [m["content"] for t in critic_tasks(
                   [group], CriticConfig(), 0, judge=JudgeConfig(), due=2, step=0)
               for m in t.messages]  # fmt: skip
    assert prompts and not any("onfidence" in prompt for prompt in prompts)
    assert correct_lengths([group], BudgetConfig(), {}) == {"math": [0]}
    paid = BudgetConfig(length=LengthRewardConfig(weight={"math": 1.0}, warmup_steps=0))
    assign_rewards([Group(TASK, [sure, unsure])], paid, {CALIBRATION: 0.0})
    assert sure.reward == unsure.reward, "an unsure right answer is a right one"


# -- the scorer -------------------------------------------------------------------------------


async def scored(*texts: str, status: Status = Status.COMPLETED) -> tuple[Group, list[str]]:
    """A group through the scorer, and what the verifier saw."""
    seen: list[str] = []

    def check(task: Task, response: str) -> Score:
        seen.append(response)
        return Score.of("math", float(response == "9"))

    members = [
        Trajectory(messages=[Message(role="assistant", content=text)], status=status)
        for text in texts
    ]
    scorer = Scorer({"math": {"math": each("math", check)}}, RewardContext(), ["math"])
    return await scorer.score(Group(TASK, members), 0), seen


async def test_a_verifier_sees_the_answer_alone_and_the_record_keeps_the_message():
    group, seen = await scored("9\nConfidence: 0.8", "8\nConfidence: 0.3", "9")
    assert seen == ["9", "8", "9"]
    assert [t.confidence for t in group.trajectories] == [0.8, 0.3, None]
    values = [[s.value for s in t.scores] for t in group.trajectories]
    assert values == [[1.0, pytest.approx(0.96)], [0.0, pytest.approx(0.91)], [1.0, 0.0]]
    assert group.trajectories[0].messages[0]["content"] == "9\nConfidence: 0.8"
    assert group.trajectories[0].response == "9"


async def test_a_number_that_may_be_cut_is_no_confidence():
    group, seen = await scored("9\nConfidence: 0", status=Status.TRUNCATED)
    assert seen == ["9"] and group.trajectories[0].confidence is None


async def test_a_kind_that_is_not_asked_keeps_its_whole_message():
    seen: list[str] = []

    def check(task: Task, response: str) -> Score:
        seen.append(response)
        return Score.of("math", 1.0)

    t = Trajectory(messages=[Message(role="assistant", content="9\nConfidence: 0.8")])
    t.status = Status.COMPLETED
    scorer = Scorer({"math": {"math": each("math", check)}}, RewardContext(), ["code"])
    await scorer.score(Group(TASK, [t]), 0)
    assert seen == ["9\nConfidence: 0.8"] and len(t.scores) == 1


async def test_the_rollouts_hold_the_confidence_and_are_graded_again_without_it(tmp_path):
    group, _ = await scored("9\nConfidence: 0.8", "9")
    run = RunFolder.create(tmp_path / "run", "r")
    rows = read_jsonl(run.write_rollouts(1, [group]))
    assert [row["confidence"] for row in rows] == [0.8, None]
    assert [row["response"] for row in rows] == ["9", "9"]


async def test_step_metrics_hold_the_figures_and_nothing_where_none_is_asked():
    group, _ = await scored("9\nConfidence: 0.8", "8\nConfidence: 0.3", "9")
    assign_rewards([group], BudgetConfig(), {})
    figures = step_metrics([group])
    assert figures["score/math"] == pytest.approx(2 / 3), "accuracy, without the confidence"
    assert figures["brier/math"] == pytest.approx((0.04 + 0.09) / 2)
    assert figures["brier_constant/math"] == pytest.approx(0.25)
    assert figures["confidence_missing/math"] == pytest.approx(1 / 3)
    assert figures["auroc/math"] == 1.0 and figures["confidence/math"] == pytest.approx(0.55)
    silent, _ = await scored("9", "8")
    assert step_metrics([silent])["confidence_missing/math"] == 1.0
    broken, _ = await scored("9")
    broken.trajectories[0].scores[0] = Score.infra_error("math", "no worker")
    assert "confidence_missing/math" not in step_metrics([broken]), "it is masked, not missing"
    for t in group.trajectories:
        t.answer = t.confidence = None
        t.scores.pop()
    names = " ".join(step_metrics([group]))
    assert not any(word in names for word in ("brier", "ece", "auroc", "confidence"))


# -- figures ----------------------------------------------------------------------------------


def test_figures_by_hand():
    figures = found([(0.0, 0.0), (1.0, 1.0), (0.6, 1.0), (0.6, 0.0)], missing=2)
    assert (figures.n, figures.missing, figures.accuracy) == (4, 2, 0.5)
    assert figures.confidence == pytest.approx(0.55)
    assert figures.brier == pytest.approx((0.16 + 0.36) / 4)
    assert figures.constant_brier == 0.25
    assert figures.ece == pytest.approx(2 * 0.1 / 4)
    assert figures.auroc == pytest.approx(3.5 / 4)
    assert figures.selective == {"0.25": 1.0, "0.5": 0.75, "0.75": pytest.approx(2 / 3)}
    assert [b.n for b in figures.bins] == [1, 2, 1]
    assert calibration([], 5) is None


def test_a_constant_has_no_calibration_error_and_knows_nothing():
    figures = found([(0.7, 1.0)] * 7 + [(0.7, 0.0)] * 3)
    assert figures.ece == pytest.approx(0.0) and figures.auroc == 0.5
    assert figures.brier == pytest.approx(figures.constant_brier) == pytest.approx(0.21)
    assert [*figures.selective.values()] == pytest.approx([0.7] * 3)


def test_a_confidence_the_wrong_way_round_has_auroc_0_and_a_large_error():
    figures = found([(0.0, 1.0)] * 5 + [(1.0, 0.0)] * 5)
    assert (figures.auroc, figures.ece, figures.brier) == (0.0, 1.0, 1.0)
    assert figures.selective["0.5"] == 0.0


def test_auroc_cannot_be_had_where_all_are_right():
    assert found([(0.7, 1.0), (0.2, 1.0)]).auroc is None


@pytest.mark.parametrize("m", range(1, 16))
def test_an_upper_edge_belongs_to_its_bin(m: int):
    (only,) = found([(m / 15, 1.0)]).bins
    assert only == Bin((m - 1) / 15, m / 15, 1, m / 15, 1.0)
    assert found([(0.0, 1.0)]).bins[0].lo == 0.0


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = random.Random(0)
    q = np.array([rng.randint(0, 5) / 5 for _ in range(60)])
    c = np.array([float(rng.random() < 0.4) for _ in range(60)])
    right, wrong = q[c == 1], q[c == 0]
    wins = [float(a > b) + 0.5 * (a == b) for a, b in itertools.product(right, wrong)]
    assert auroc(q, c) == pytest.approx(np.mean(wins))


def test_equally_sure_answers_have_no_order():
    q, c = np.array([0.9, 0.5, 0.5, 0.5]), np.array([1.0, 1.0, 0.0, 0.0])
    for order in itertools.permutations(range(4)):
        at = list(order)
        assert selective_accuracy(q[at], c[at], 0.5) == pytest.approx((1 + 1 / 3) / 2)
    assert selective_accuracy(q, c, 1.0) == 0.5


def draw(rng: random.Random, informed: bool) -> Pair:
    right = rng.random() < 0.6
    if informed:
        return (0.9 if right == (rng.random() < 0.9) else 0.1, float(right))
    return (rng.randint(0, 10) / 10, float(right))


def test_a_change_is_the_difference_of_the_figures_with_an_interval_around_it():
    rng = random.Random(1)
    start = {str(i): draw(rng, False) for i in range(600)}
    end = {str(i): draw(rng, True) for i in range(600)} | {"other": (0.5, 1.0)}
    change = calibration_change(start, end)
    before, after = found([*start.values()]), found([end[k] for k in start])
    assert change is not None and after.auroc is not None and before.auroc is not None
    assert change["brier"].mean == pytest.approx(after.brier - before.brier)
    assert change["ece"].mean == pytest.approx(after.ece - before.ece)
    assert change["auroc"].mean == pytest.approx(after.auroc - before.auroc)
    assert change["accuracy"].mean == pytest.approx(after.accuracy - before.accuracy)
    assert change["brier"].hi < 0 < change["auroc"].lo, "it excludes 0"
    assert all(i.lo < i.mean < i.hi and i.n == 600 for i in change.values())


def test_the_same_answers_show_no_change_and_no_common_task_shows_nothing():
    rng = random.Random(2)
    pairs = {str(i): draw(rng, False) for i in range(100)}
    change = calibration_change(pairs, pairs)
    assert change is not None
    assert {(i.lo, i.mean, i.hi) for i in change.values()} == {(0.0, 0.0, 0.0)}
    assert calibration_change(pairs, {}) is None
    sure = {"1": (0.9, 1.0), "2": (0.8, 1.0)}
    assert "auroc" not in (calibration_change(sure, sure) or {})


def test_no_reward_of_ones_own_may_take_the_name():
    with pytest.raises(ConjointError, match=r"reward\.kinds\.math: 'my:calibration' has the name"):
        load_own_rewards(RewardConfig(kinds={"math": ["my:calibration"]}))
