"""`conjoint bench scheduler`: its figures and how they are judged."""

import pytest

from conjoint.scripts.bench.config import load_bench
from conjoint.scripts.bench.scheduler import measure as scheduler_bench


def test_the_figures_are_held_against_their_targets(monkeypatch: pytest.MonkeyPatch):
    costs = iter([80.0, 150.0, 90.0, 210.0, 100.0, 190.0])
    monkeypatch.setattr(scheduler_bench, "WORKERS", (2, 4))
    monkeypatch.setattr(scheduler_bench, "controller_us", lambda workers: next(costs))
    monkeypatch.setattr(scheduler_bench, "occupancy", lambda ahead: 0.4 + 0.1 * ahead)
    ratios = scheduler_bench.measure(load_bench(["bench.repeats=3"]))["ratios"]
    assert ratios["controller_us"]["value"] == 190.0 and ratios["controller_us"]["met"]
    assert ratios["occupancy"]["value"] == pytest.approx(0.8) and not ratios["occupancy"]["met"]


def test_a_small_simulation_costs_something_and_fills_places():
    assert scheduler_bench.controller_us(2) > 0
    assert len(scheduler_bench._tasks(3)) == 3
