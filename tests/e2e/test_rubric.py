"""`conjoint rubric` with nano on a real engine: what it knows, and what it is said not to know."""

import re
from pathlib import Path

import pytest

from conjoint.envs.nano.sources import length_pairs
from conjoint.rl.run.folder import read_jsonl, write_jsonl
from tests.e2e.conftest import conjoint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_nano_answers_and_judges_by_a_rubric_of_its_own_and_by_a_strange_one(tmp_path: Path):
    keys = ["model=nano", "limit=4", "k=3", "max_tokens=24", "output=out"]
    ended = conjoint("rubric", "preview", "no_praise", "calibrated", *keys, cwd=tmp_path)
    assert ended.code == 0, ended.output
    assert "what it says of calibrated is chance" in ended.output
    responses = read_jsonl(tmp_path / "out" / "responses.jsonl")
    verdicts = read_jsonl(tmp_path / "out" / "verdicts.jsonl")
    assert len(responses) == 12 and len(verdicts) == 12
    assert {v["how"] for v in verdicts} <= {"judged", "code", "unreadable"}
    assert any(v["how"] == "judged" for v in verdicts)
    assert (tmp_path / "out" / "index.html").stat().st_size > 5_000


def test_two_opposite_rubrics_of_its_sft_turn_nanos_verdict(tmp_path: Path):
    """A nano whose SFT had verdicts by both; pairs of held-out prompts, drawn with a seed that no
    setting was chosen on."""
    built = conjoint("sft", "sft.length_rows=4000", "sft.rehearsed=0.25", cwd=tmp_path)
    assert built.code == 0, built.output
    nano = built.output.strip().splitlines()[-1]
    pairs = length_pairs("heldout", 120, seed=11)
    rows = [{"prompt": t.prompt, "response_a": a, "response_b": b} for t, a, b in pairs]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    keys = [f"model={nano}", "input=pairs.jsonl", "output=out"]
    ended = conjoint("rubric", "diff", "shorter", "longer", *keys, cwd=tmp_path)
    assert ended.code == 0, ended.output
    assert "is chance" not in ended.output, "nano knows both"
    turned = re.search(r"turned\W+(\d+)", ended.output)
    assert turned and int(turned[1]) >= 0.7 * len(pairs), ended.output
    by_longer = read_jsonl(tmp_path / "out" / "verdicts.jsonl")
    right = sum(v["winner"] == "B" for v in by_longer)
    assert len(by_longer) == len(pairs) and right >= 0.7 * len(pairs)
