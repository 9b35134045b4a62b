"""Admission: the rule, what an engine measures for it, and both under a simulated KV cache."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conjoint.rollouts.engine.admission import Admission, Load
from conjoint.rollouts.engine.load_meter import LoadMeter
from tests.rollouts.engine.fake_workers import Fakes
from tests.rollouts.engine.kv_cache import COMPUTE_BOUND, MEMORY_BOUND, Machine, simulate

pytestmark = pytest.mark.timeout(60)

ROOM = Load(answers=8, active=64, kv_usage=0.5, preemptions=0, prompt_tokens=80, cached_tokens=0)
FULL = replace(ROOM, kv_usage=0.99)
THRASH = replace(FULL, preemptions=3)


def capacities(*loads: Load, most: int = 64) -> list[int]:
    admission = Admission(1, most)
    found = []
    for load in loads:
        admission.observe(0, load)
        found.append(admission.capacity([0]))
    return found


def test_a_preemption_halves_what_ran_and_a_worker_never_has_less_than_one():
    assert capacities(THRASH) == [32]
    few = replace(THRASH, active=10, answers=10)
    assert capacities(few, few, replace(few, active=2), replace(few, active=1)) == [5, 2, 1, 1]


def test_one_burst_of_preemptions_halves_once():
    """Those that run too many must end before the smaller limit can be judged."""
    assert capacities(*[THRASH] * 8, THRASH) == [32] * 8 + [16]


def test_free_kv_lets_more_in_up_to_max_num_seqs_and_a_full_cache_does_not():
    low = replace(ROOM, active=16)
    found = capacities(replace(THRASH, active=16), *[low] * 40)
    assert found[0] == 8 and found[1] == 12
    assert found == sorted(found) and found[-1] == 32, "what is not reached is not raised"
    assert capacities(THRASH, *[FULL] * 20)[-1] == 32
    assert capacities(THRASH, *[ROOM] * 100)[-1] == 64


def test_capacity_is_the_sum_over_the_workers_that_are_up_and_a_new_one_starts_afresh():
    admission = Admission(3, 64)
    admission.observe(1, THRASH)
    assert admission.capacity([0, 1]) == 96 and admission.capacity([1]) == 32
    assert admission.capacity([]) == 64
    admission.replaced(1)
    assert admission.capacity([0, 1, 2]) == 192


def test_metrics_are_over_the_reports_since_the_last_call():
    admission = Admission(2, 64)
    admission.observe(0, replace(THRASH, cached_tokens=60))
    admission.observe(1, ROOM)
    assert admission.drain_metrics() == {
        "engine/preemptions": 3.0,
        "engine/kv_usage": 0.99,
        "engine/prompt_tokens": 160.0,
        "engine/cached_tokens": 60.0,
        "engine/prefix_hits": 60 / 160,
    }
    assert admission.drain_metrics() == {}


# -- what is measured ---------------------------------------------------------------------------


def step(meter: LoadMeter, running: int, usage: float, preempted: int = 0) -> None:
    meter.record(
        SimpleNamespace(num_running_reqs=running, kv_cache_usage=usage),
        SimpleNamespace(num_preempted_reqs=preempted),
        mm_cache_stats=None,
        engine_idx=0,
    )


def test_a_report_holds_the_peaks_since_the_last_one():
    meter = LoadMeter()
    meter.entered(1)
    meter.entered(1)
    step(meter, 2, 0.8, preempted=1)
    step(meter, 2, 0.4)
    meter.entered(-1)
    meter.answered(40, 32)
    assert meter.report(1) == Load(1, 2, 0.8, 1, 40, 32)
    meter.record(None, None)
    assert meter.report(1) == Load(1, 1, 0.4, 0, 0, 0)


def test_requests_frozen_for_new_weights_are_not_counted_as_preempted():
    meter = LoadMeter()
    step(meter, 5, 0.5)
    meter.froze()
    meter.froze()  # paused twice, and no step between
    step(meter, 3, 0.3, preempted=3)
    meter.froze()  # two of the five have not come back yet
    step(meter, 5, 0.5, preempted=5)
    assert meter.report(1).preemptions == 0
    step(meter, 5, 0.9, preempted=1)
    assert meter.report(1).preemptions == 1


def test_frozen_requests_that_are_taken_out_hide_no_later_preemption():
    meter = LoadMeter()
    step(meter, 5, 0.5)
    meter.froze()
    meter.emptied()
    step(meter, 2, 0.9, preempted=2)
    assert meter.report(1).preemptions == 2


# -- in the engine ------------------------------------------------------------------------------


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    made = await Fakes(max_num_seqs=64).ready()
    yield made
    await made.engine.close()


async def test_a_preemption_that_a_worker_reports_lowers_the_capacity_of_the_engine(fakes: Fakes):
    engine = fakes.engine
    assert engine.capacity == 128
    fakes.launched[0].load = replace(THRASH, cached_tokens=20)
    await asyncio.gather(*fakes.ask("group", *range(8)))
    assert engine.capacity == 64 + 32
    metrics = engine.drain_metrics()
    assert metrics["engine/capacity"] == 96.0 and metrics["engine/preemptions"] == 3.0
    assert metrics["engine/prefix_hits"] == 0.25

    fakes.launched[0].die()
    await fakes.healed()
    assert engine.capacity == 128


# -- a virtual machine under load ---------------------------------------------------------------


@pytest.mark.parametrize("kv_blocks", [600, 1500])
@pytest.mark.parametrize(
    ("machine", "speed"),
    [
        # Each token costs the same whatever shares the batch: what is thrown away is lost time.
        (COMPUTE_BOUND, 1.04),
        # A step costs nearly the same whatever is in it: an emptier batch costs what is saved.
        (MEMORY_BOUND, 0.96),
    ],
)
def test_admission_stops_thrashing_at_no_loss_of_speed(
    machine: Machine, speed: float, kv_blocks: int
):
    without = simulate(machine, kv_blocks, 0, admits=False)
    admitted = simulate(machine, kv_blocks, 0, admits=True)
    assert without.thrown_away > 250_000, "the load does not thrash"
    assert admitted.thrown_away < 0.65 * without.thrown_away
    assert without.duration / admitted.duration > speed


def test_a_cache_that_holds_everything_is_not_held_back():
    free, held = (simulate(MEMORY_BOUND, 100_000, 0, admits=admits) for admits in (False, True))
    assert held == free and free.thrown_away == 0
