"""`conjoint rubric` with nano on a real engine: what it knows, and what it is said not to know."""

from pathlib import Path

import pytest

from conjoint.rl.config.compose import load_config
from conjoint.rl.nano.cache import nano_policy
from conjoint.rl.run.folder import read_jsonl
from tests.e2e.conftest import NANO, PLAIN, conjoint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_nano_answers_and_judges_by_a_rubric_of_its_own_and_by_a_strange_one(tmp_path: Path):
    keys = [
        f"model={nano_policy(load_config(NANO).nano)}",
        *PLAIN,
        "limit=4",
        "k=3",
        "max_tokens=24",
        "output=out",
    ]
    ended = conjoint("rubric", "preview", "no_praise", "calibrated", *keys, cwd=tmp_path)
    assert ended.code == 0, ended.output
    assert "what it says of calibrated is chance" in ended.output
    responses = read_jsonl(tmp_path / "out" / "responses.jsonl")
    verdicts = read_jsonl(tmp_path / "out" / "verdicts.jsonl")
    assert len(responses) == 12 and len(verdicts) == 12
    assert {v["how"] for v in verdicts} <= {"judged", "code", "unreadable"}
    assert any(v["how"] == "judged" for v in verdicts)
    assert (tmp_path / "out" / "index.html").stat().st_size > 5_000
