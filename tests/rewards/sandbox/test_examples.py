"""The shared attack examples, in both tiers, and the state of the host after them."""

import glob
import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parents[4] / "shared/data/sandbox_attack_examples.jsonl"
_ROWS = [json.loads(line) for line in _FILE.read_text().splitlines()] if _FILE.exists() else []
_ASSERTS = [row["name"] for row in _ROWS if row["tests"]["type"] == "asserts"]
_RUN = [row for row in _ROWS if row["name"] not in _ASSERTS]


def test_the_examples_are_there() -> None:
    if not _ROWS:
        pytest.skip(f"no attack examples at {_FILE}")
    assert len(_RUN) >= 30
    pytest.skip(f"{len(_ASSERTS)} rows of type asserts are not run: {', '.join(_ASSERTS)}")


@pytest.mark.parametrize("row", _RUN, ids=[row["name"] for row in _RUN])
def test_example(driver: Any, row: dict[str, Any]) -> None:
    score = driver.grade(row["tests"], row["source"])
    first, _, _ = row["note"].partition(";")
    accepted = first.removeprefix("also=").split(",") if first.startswith("also=") else []
    accepted.append("pass" if row["must"] == "contained" else row["must"])
    assert score.outcome in accepted, score
    assert (score.value == 1.0) == (score.outcome == "pass")


def test_host_is_unchanged_and_the_pool_answers(driver: Any) -> None:
    assert driver.script("print(6 * 7)").stdout == b"42\n"
    for directory in ("/tmp", "/usr/lib", "/var/tmp", os.getcwd()):
        assert not glob.glob(f"{directory}/sbx_*pwn")
    shm = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=False).stdout
    assert "0x00005b5b" not in shm
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20, "KiB: the grader grew"
