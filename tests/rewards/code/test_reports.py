"""The inputs of `shared/data/reports` that concern code get the verdict that they ask for."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import Task
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.sandbox.base import SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local import languages
from conjoint.rewards.sandbox.local.jail import LocalJail

_FOLDER = Path(__file__).parents[4] / "shared/data/reports"
_FILES = ("F20", "F22", "F24", "R01", "R05")


def _rows() -> list[dict[str, Any]]:
    lines = [
        line
        for name in _FILES
        for path in _FOLDER.glob(f"{name}-*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [row for row in map(json.loads, lines) if "want" in row["meta"]]


def test_the_reports_rows_get_the_verdict_that_they_want() -> None:
    rows = _rows()
    if not rows:
        pytest.skip(f"no data in {_FOLDER}")

    async def grade() -> list[float | None]:
        jail = LocalJail(SandboxConfig(wall_s=30.0, workers=2))
        await jail.start()
        reward = CodeReward(jail)
        try:
            found = []
            for row in rows:
                task = Task.make("code", row["prompt"], row["reference"])
                found.append((await reward.check(task, row["response"])).value)
            return found
        finally:
            await jail.close()

    rows = [row for row in rows if not languages.missing(row["reference"]["language"])]
    try:
        values = asyncio.run(grade())
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    wrong = [(r["id"], v) for r, v in zip(rows, values, strict=True) if v != r["meta"]["want"]]
    assert not wrong
