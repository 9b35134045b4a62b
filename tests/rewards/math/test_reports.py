"""Public reports of wrong math verdicts, as rows of `conjoint grade`: each has its score."""

import asyncio
import json
from pathlib import Path

import pytest

from conjoint.envs.types import Task
from conjoint.rewards.math.reward import MathVerifier

REPORTS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "reports"


def rows() -> list[dict]:
    found = [
        json.loads(line)
        for path in sorted(REPORTS.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [row for row in found if row.get("kind") == "math" and "want" in row.get("meta", {})]


def test_every_reported_row_has_the_score_it_wants() -> None:
    reported = rows()
    if not reported:
        pytest.skip("shared/data/reports is not beside this checkout")
    verifier = MathVerifier()
    assert len(reported) >= 71

    async def grade() -> None:
        for row in reported:
            task = Task.make("math", row["prompt"], row["reference"])
            score = await verifier(task, row["response"])
            assert score.value == row["meta"]["want"], (row, score.reasons)

    try:
        asyncio.run(grade())
    finally:
        verifier.close()
