"""The commands of docs/data-tools.md that ask no model print what the page says."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conjoint.scripts.main import app

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
DOC = (ROOT / "docs" / "data-tools.md").read_text(encoding="utf-8")
FOUND = re.findall(r"^```\n(conjoint data .*)\n(rows in: (?:.|\n)*?)^```", DOC, re.MULTILINE)
SHOWN = [
    # A whole public set takes half a minute.
    pytest.param(command, printed, marks=[pytest.mark.proof] if "gsm8k_train" in command else [])
    for command, printed in FOUND
    if "model=" not in command
]
TOOLS = [str(shown.values[0]).split()[2] for shown in SHOWN]
FILES = dict(re.findall(r"^`(\w+\.jsonl)`(?:.|\n)*?^```json\n((?:.|\n)*?)^```", DOC, re.MULTILINE))


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=TOOLS)
def test_a_command_of_the_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, printed: str
):
    if "DATA/" in command:
        if not DATA.is_dir():
            pytest.skip("there are no public test sets here")
        (tmp_path / "DATA").symlink_to(DATA)
    monkeypatch.chdir(tmp_path)
    for name, rows in FILES.items():
        (tmp_path / name).write_text(rows, encoding="utf-8")
    done = CliRunner().invoke(app, command.split()[1:])
    assert (done.exit_code, done.stderr, done.stdout) == (0, "", printed)


def test_the_page_shows_all_of_them():
    assert TOOLS == ["guessable", "decontaminate", "validate"]
