"""The walk through docs/rewards.md: its first reward is caught, its second one is not."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conjoint.scripts.main import app

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
FIRST, SECOND = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
[ROWS] = re.findall(r"```json\n(.*?)```", DOC, re.DOTALL)
COMMANDS = [
    c for block in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL) for c in block.split("\n")
]


@pytest.mark.parametrize(("reward", "found"), [(FIRST, 3), (SECOND, 0)], ids=["first", "second"])
def test_the_commands_of_the_walk_find_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str, found: int
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prices.py").write_text(reward)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    said = ""
    codes = []
    for command in filter(lambda c: c.startswith("conjoint grade"), COMMANDS):
        done = CliRunner().invoke(app, command.split()[1:])
        assert done.stderr == "", command
        codes.append(done.exit_code)
        said += done.stdout
    assert codes == [0, 0, found, found]
    quoted = re.findall(r"^(FAULT .*?|PAID .*?)(?: \.\.\.)?$", DOC, re.MULTILINE)
    assert len(quoted) == 3
    assert all((words in said) == bool(found) for words in quoted)
