"""`conjoint bench text`: the fit of a slope, and that every reader takes every hostile text."""

import json
from pathlib import Path

import pytest

from conjoint.scripts.bench.main import run
from conjoint.scripts.bench.rewards import text as bench
from conjoint.scripts.bench.rewards.text import SHORTEST, UNITS, Reader, readers, slope, steepest

LENGTHS = [SHORTEST * 2**i for i in range(8)]


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ([n / 1e5 for n in LENGTHS], 1.0),
        ([n * n / 1e8 for n in LENGTHS], 2.0),
        # A limit must not hide what is below it, nor what is above it.
        ([min(n, 64_000) ** 2 / 1e8 for n in LENGTHS], 2.0),
        ([0.001] * 8, 0.0),
        ([0.0] * 7 + [5.0], 0.0),
    ],
)
def test_the_steepest_part_of_a_curve_is_its_slope(times: list[float], found: float) -> None:
    assert steepest(LENGTHS, times) == pytest.approx(found, abs=0.4)


def test_a_shape_that_stalls_is_not_tried_at_greater_lengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def seconds(read: Reader, text: str) -> float:
        tried.append(len(text))
        return len(text) ** 2 / 1e8

    monkeypatch.setattr(bench, "_seconds", seconds)
    steep, most = slope(len, "ab", 10**6)
    assert steep == pytest.approx(2.0) and max(tried) == 32_000 and most == max(tried) ** 2 / 1e8


def test_every_reader_takes_every_text() -> None:
    for name, read in readers().items():
        if "formula" in name:
            continue  # short formulas go to the jail, whose start takes seconds
        for shape, unit in UNITS.items():
            try:
                read(unit * (1_000 // len(unit)))
            except Exception as error:
                pytest.fail(f"{name} raised {error!r} on {shape}")


def test_a_reader_that_is_not_linear_misses_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "readers", lambda: {"one": lambda t: 1.0, "two": lambda t: 2.0})
    monkeypatch.setattr(bench, "_seconds", lambda read, text: len(text) ** read(text) / 1e9)
    file = tmp_path / "bench.json"
    assert run("text", [f"output={file}", "bench.targets.slope=1.5"]) == 1
    ratios = json.loads(file.read_text())["ratios"]
    assert {name: ratio["met"] for name, ratio in ratios.items()} == {
        "slope: one": True,
        "slope: two": False,
    }
    assert run("text", ["bench.targets.slope=2.1", "bench.characters=100000"]) == 0


@pytest.mark.proof
@pytest.mark.timeout(5400)
def test_every_reader_of_a_policys_text_is_linear_up_to_a_million_characters() -> None:
    assert run("text", []) == 0
