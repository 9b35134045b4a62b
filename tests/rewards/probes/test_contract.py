"""`--check`: each planted fault of a reward of one's own is named, an honest one has none."""

import asyncio
import re
from pathlib import Path

import pytest

from conjoint.rewards.base import Example
from conjoint.rewards.plugins import PluginConfig, PluginReward, load_plugin
from conjoint.rewards.probes.cheats import stock_examples
from conjoint.rewards.probes.contract import Report, check

REWARDS = """
import itertools
import json
import os
import time

from conjoint.rewards.base import Example
from conjoint.envs.types import Task

calls = itertools.count()

def honest(task, response):
    return float(response.strip() == str(task.reference))

def honest_trl(completions, reference, **columns):
    return [float(c.strip() == str(r)) for c, r in zip(completions, reference)]

async def partial(task, response):
    return 0.5 if str(task.reference) in response else 0

def empty(task, response):
    return float(response.split()[0] == "x")

def huge(task, response):
    while len(response) > 100_000:
        pass
    return 0.0

def bytes_(task, response):
    return float(len(response.encode()) < 0)

def echo(task, response):
    return float(task.prompt in response)

def types(task, response):
    return float(task.reference.strip() == response)

def slow(task, response):
    time.sleep(30 if response.count("(") > 100 else 0)
    return 0.0

def text(task, response):
    return "0.5"

def nothing(task, response):
    return None

def listed(task, response):
    return [1.0]

def dies(task, response):
    if not response:
        os._exit(3)
    return 0.0

def nan(task, response):
    return float("nan")

def percent(task, response):
    return 40 if response else 0

def random(task, response):
    return next(calls) % 10 / 10

def count(completions, **columns):
    return [0.0]

def lazy(task, response):
    time.sleep(0.7)
    return 0.0

def stuck(task, response):
    time.sleep(30)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "rewarding.py"
    path.write_text(REWARDS)
    return path


def report(file: Path, name: str, deadline_s: float = 20.0) -> Report:
    form = "trl" if name in ("honest_trl", "count") else "task"
    reward = PluginReward(PluginConfig(f"{file}:{name}", deadline_s=deadline_s), form)
    try:
        return asyncio.run(check(reward, stock_examples()[:1]))
    finally:
        reward.close()


@pytest.mark.parametrize("name", ["honest", "honest_trl", "partial"])
def test_an_honest_reward_has_no_fault(file: Path, name: str):
    found = report(file, name)
    assert found.faults == () and found.untried == 0
    said = " ".join(found.tried)
    for kind in ("empty", "huge", "non-UTF-8", "prompt echo", "wrong type", "slow"):
        assert kind in said


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("empty", "empty: raises: the function raised IndexError"),
        ("bytes_", "non-UTF-8 (lone surrogates): raises: the function raised UnicodeEncodeError"),
        ("echo", "prompt echo: gameable: pays 1 for an answer that says nothing"),
        ("types", "wrong type (reference is a number): raises: the function raised AttributeError"),
        ("text", "right answer: wrong type: the function returned '0.5', expected a number"),
        ("nothing", "right answer: wrong type: the function returned None"),
        ("listed", "right answer: wrong type: the function returned no number"),
        ("dies", "empty: crashes: the function failed: the worker process ended"),
        ("nan", "right answer: not finite: the function returned nan"),
        ("percent", "right answer: out of range: returned 40, outside its range 0 to 1"),
        ("random", "right answer: not repeatable: gave 0, then 0.1 for the same answer"),
        ("count", "right answer: wrong count: the function returned 1 numbers for 2 answers"),
    ],
)
def test_a_planted_fault_is_named_with_its_input(file: Path, name: str, fault: str):
    assert any(f.startswith(fault) for f in report(file, name).faults)


@pytest.mark.parametrize(("name", "given"), [("huge", "huge"), ("slow", "slow (open brackets)")])
def test_an_input_that_never_ends_is_named(file: Path, name: str, given: str):
    faults = report(file, name, deadline_s=1.5).faults
    assert f"{given}: slow: the function took longer than 1.5 s" in faults


def test_a_call_that_takes_much_of_its_deadline_is_named(file: Path):
    found = report(file, "lazy", deadline_s=2.0)
    assert any(re.match(r"right answer: slow: took [\d.]+ s, and its deadline is 2 s", f)
               for f in found.faults)  # fmt: skip


def test_a_reward_that_always_hangs_is_left_alone_after_two(file: Path):
    found = report(file, "stuck", deadline_s=1.0)
    assert len(found.faults) == 2 and len(found.tried) == 2 and found.untried == 13


def test_examples_beside_the_function_are_used(file: Path, tmp_path: Path):
    path = tmp_path / "own.py"
    path.write_text(
        file.read_text()
        + "\ndef examples():\n"
        + '    return [Example(Task.make("algebra", "x?", "7"), "x = 7", {"sign": "x = -7"})]\n'
    )
    reward = load_plugin(PluginConfig(f"{path}:honest"), "reward")
    try:
        [found] = asyncio.run(reward.examples())
    finally:
        reward.close()
    assert isinstance(found, Example) and found.cheats == {"sign": "x = -7"}
    assert (found.task.kind, found.task.reference, found.right) == ("algebra", "7", "x = 7")
