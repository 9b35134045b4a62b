"""The README's examples run as they stand there, up to the point where engines would start."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:30])
def test_an_example_is_short_and_runs(tmp_path: Path, block: str):
    assert len(block.splitlines()) < 10
    # The model folder of the first example has to exist.
    script = block.replace("conjoint train", "conjoint train --dry-run")
    script = script.replace(" model=path/to/model", "").replace("smollm2_cpu", "quickstart")
    script = script.replace("conjoint rubric preview", ":")  # rubric/test_walk.py has it
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing started" in done.stdout


def test_the_readme_says_first_things_first():
    order = ["make quickstart", "make test", "report.png", "own model", "own data", "own reward"]
    places = [README.index(words) for words in [*order, "own rubric"]]
    assert places == sorted(places)
    assert (ROOT / "docs" / "images" / "report.png").is_file()
