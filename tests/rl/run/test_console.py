"""The time split adds up, and a step is one readable row."""

import io

import pytest
from rich.console import Console

from conjoint.rl.run.console import RunConsole, Stopwatch, batch_words, duration, number

METRICS = {
    "reward/math": 0.42,
    "reward/code": -0.5,
    "truncated/math": 0.5,
    "truncated/code": 0.0,
    "groups/math": 1.0,
    "groups/code": 3.0,
    "loss/ptx": 1.931,
    "gap/mean": 2.3e-6,
    "tokens_per_s": 1234.0,
    "time/generate": 2.1,
    "time/score": 0.4,
    "time/train": 3.0,
    "time/sync": 0.2,
    "time/other": 0.3,
}


class FakeClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(width: int, terminal: bool, steps: int = 1) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    run = RunConsole(40, console)
    for step in range(1, steps + 1):
        run.step(step, METRICS, ["all 8 answers of every math group got reward 0"])
    run.finish()
    return out.getvalue().splitlines()


def test_each_second_is_counted_once() -> None:
    clock = FakeClock()
    names: list[str] = []
    watch = Stopwatch(clock, names.append)
    clock.now = 1.0
    with watch.phase("generate"):
        clock.now = 3.0
        with watch.phase("score"):
            clock.now = 3.5
        clock.now = 4.0
    clock.now = 4.25
    assert watch.split() == {"generate": 2.5, "score": 0.5, "train": 0, "sync": 0, "other": 1.25}
    assert names == ["generate", "score"]
    clock.now = 5.0
    assert watch.split()["other"] == 0.75


def test_a_phase_that_fails_is_still_measured() -> None:
    clock = FakeClock()
    watch = Stopwatch(clock)
    with pytest.raises(RuntimeError), watch.phase("train"):
        clock.now = 2.0
        raise RuntimeError
    clock.now = 3.0
    split = watch.split()
    assert split["train"] == 2.0 and split["other"] == 1.0


def test_a_plain_log_has_one_labelled_line_a_step() -> None:
    lines = lines_of(60, terminal=False)
    assert len(lines) == 2
    assert lines[0].split(" | ") == [
        "step 1/40", "code -0.500", "math 0.420", "cut off 12%", "ptx 1.931", "gap 2e-06",
        "tok/s 1,234", "gen+score+train+sync s 2.1+0.4+3.0+0.2", "left 3m54s",
    ]  # fmt: skip
    assert lines[1].strip() == "all 8 answers of every math group got reward 0"


def test_a_terminal_has_aligned_columns_with_titles_once() -> None:
    rows = [line for line in lines_of(160, terminal=True, steps=12) if "all 8" not in line]
    assert len(rows) == 13
    assert len({len(row) for row in rows}) == 1
    assert rows[0].split()[:3] == ["step", "code", "math"]


def test_a_narrow_terminal_loses_no_figure() -> None:
    lines = lines_of(60, terminal=True)
    assert all(len(line) <= 60 for line in lines)
    text = "\n".join(lines)
    for figure in ("0.420", "-0.500", "1.931", "2e-06", "1,234", "2.1+0.4+3.0+0.2", "3m54s"):
        assert figure in text


def test_the_arithmetic_of_a_batch_in_words() -> None:
    words = batch_words(
        prompts=16, group_size=8, updates=2, ptx_rows=4,
        weights={"math": 2, "code": 1, "open": 1}, budgets={"math": (48, 48), "code": (64, 24)},
    )  # fmt: skip
    assert words == [
        "A step: 16 prompts x 8 answers = 128 answers (50% math, 25% code, 25% open), trained in "
        "2 updates of about 64 answers, each with 4 PTX texts.",
        "Token budget of an answer: math 48, code 64 -> 24.",
    ]
    off = batch_words(
        prompts=1, group_size=2, updates=1, ptx_rows=0, weights={"math": 1}, budgets={}
    )
    assert "without PTX texts" in off[0] and "1 prompt x 2" in off[0]
    assert off[1] == "Token budgets are off."


def test_numbers_and_durations_read_well() -> None:
    assert [duration(s) for s in (0.4, 59.6, 190, 7500)] == ["0s", "1m00s", "3m10s", "2h05m"]
    assert [number(v) for v in (0.0, 0.42, 12.34, 1234.5, 2e-6, float("nan"))] == [
        "0.000", "0.420", "12.3", "1,234", "2e-06", "nan",
    ]  # fmt: skip
