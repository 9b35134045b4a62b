"""The verifiers know no row of the shared examples: neither names, nor markers, nor text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"
MARKERS = re.compile(r"sbx|BLOCKED|canary", re.IGNORECASE)
"""What the attacks of the examples leave, look for and print."""
_LINE = 24
"""Characters from which a line of a row is its own and not just any Python."""


def sources() -> dict[str, str]:
    return {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "rewards").rglob("*.py")}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def rows() -> list[dict[str, Any]]:
    files = sorted(SHARED.glob("*_examples.jsonl"))
    if not files:
        pytest.skip(f"there are no examples in {SHARED}")
    found = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    assert len(found) > 70
    return found


def found_in(code: str, rows: list[dict[str, Any]]) -> set[str]:
    names = {row["name"] for row in rows}
    words = names & set(re.findall(r"\w+", code))
    lines = {
        line.strip()
        for row in rows
        for text in texts({k: v for k, v in row.items() if k != "name"})
        for line in text.splitlines()
        if len(line.strip()) >= _LINE
    }
    return words | {line for line in lines if line in code} | set(MARKERS.findall(code))


def test_no_name_marker_or_text_of_the_examples_is_in_a_reward():
    given = rows()
    assert {file: hits for file, code in sources().items() if (hits := found_in(code, given))} == {}


def test_the_search_finds_what_it_looks_for():
    given = rows()
    for row in given:
        assert row["name"] in found_in(f"if case == '{row['name']}': pass", given)
    sought = max(texts(given[0]), key=len)
    assert found_in(f"TEXT = '''{sought}'''", given)
    assert found_in("open('/tmp/sbx_file')", given)
