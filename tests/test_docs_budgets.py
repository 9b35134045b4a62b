"""docs/budgets.md: its commands compose, and its rules are the code's."""

import re
import shlex
from pathlib import Path

import pytest

from conjoint.rl.config.compose import load_config

PAGE = (Path(__file__).parents[1] / "docs" / "budgets.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^conjoint train (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_composes(command: str):
    plain = load_config(["experiment=quickstart"])
    assert load_config(shlex.split(command)) != plain


def test_there_is_a_command_for_each_section():
    used = " ".join(COMMANDS)
    for key in ("budget.schedule", "budget.toggle", "budget.length", "rollout.top_p"):
        assert key in used
