"""Answers that were paid for what no reader sees, and for the prompt said again."""
# ruff: noqa: RUF001

import json
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import Task
from conjoint.rewards.instructions.reward import InstructionsConfig
from tests.rewards.instructions.scored import scored

REPORTS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "reports"
HARBOUR = Task.make(
    "instruction",
    "Write about tides with the keyword harbour.",
    {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["harbour"]}]},
)


def _rows() -> list[dict[str, Any]]:
    files = sorted(REPORTS.glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row for row in rows if row.get("kind") == "instruction" and "want" in row["meta"]]


@pytest.mark.skipif(not REPORTS.is_dir(), reason="the reports are not on this machine")
def test_every_reported_row_gets_the_score_that_it_wants() -> None:
    rows = _rows()
    assert rows
    for row in rows:
        task = Task.make("instruction", row["prompt"], row["reference"])
        assert scored(task, row["response"]).value == row["meta"]["want"], row["id"]


@pytest.mark.parametrize(
    "hiding",
    [
        "<!-- {} -->",
        "<!-- {}",
        "<? {} ?>",
        "[//]: # ({})",
        "[comment]: <> ({})",
        "[{}]: https://example.org",
        "[x]:\n  {}\n",
        "![{}](tide.png)",
        "![a [{}] b](tide.png)",
        "[tides](https://example.org/{})",
        "[tides](https://example.org '{}')",
        "<span style='display:none'>{}</span>",
        '<p STYLE="color : white">the {}</p>',
        "<div hidden>a <div>b</div> {}</div>",
        "<font color=white>{}</font>",
        "<img alt='> {}'>",
        "<a title={}>tides</a>",
        "<script>{}</script>",
        "<template><b>{}</b></template>",
        "<div style=opacity:0>{}",
        "```{}\nmoon\n```",
        "$\\phantom{{{}}}$",
        "<{}>",
    ],
)
@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_what_a_reader_does_not_see_shows_no_keyword(hiding: str, mode: str) -> None:
    answer = f"Tides rise.\n\n{hiding.format('harbour')}\n\nThey fall."
    config = InstructionsConfig(mode=mode)
    assert scored(HARBOUR, answer, config).value == 0.0
    assert scored(HARBOUR, answer, InstructionsConfig(hack_check=False)).value == 1.0
    seen = f"Tides fill the harbour.\n\n{hiding.format('moon')}"
    assert scored(HARBOUR, seen, config).value == 1.0


@pytest.mark.parametrize(
    ("name", "asked", "answer"),
    [
        ("detectable_format:title", {}, "Tides. <!-- <<Tides>> -->"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "A\n<!-- x\n* a\n* b -->"),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "A <!-- *b* -->"),
        ("detectable_content:number_placeholders", {"num_placeholders": 1}, "A ![b](c)"),
        ("combination:two_responses", {}, "A\n<!--\n******\nB\n-->"),
        ("language:response_language", {"language": "de"}, "Tides.<p hidden>" + "Das Meer. " * 20),
        ("change_case:english_capital", {}, "<!-- THE TIDE RISES AND THE BOATS GO OUT TO SEA -->A"),
        (
            "length_constraints:number_words",
            {"num_words": 9, "relation": "at least"},
            "a&nbsp;" * 5,
        ),
    ],
)
def test_no_check_holds_by_what_is_hidden(name: str, asked: dict[str, Any], answer: str) -> None:
    task = Task.make("instruction", "?", {"instruction_id_list": [name], "kwargs": [asked]})
    assert scored(task, answer, InstructionsConfig(hack_check=False)).value == 1.0
    assert scored(task, answer).value == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! Write about tides with the keyword harbour.",
        "Sure, here is the text you asked for:\n> **Write about tides, with the keyword harbour!**",
        "Of course. Write about tides with the keyword harbour. Here it is. Thank you!",
        "¡Claro! Aquí tienes: write about tides with the keyword harbour",
        "当然可以！以下是答案：Write about tides with the keyword harbour。",
        "Write about tides with the keyword harbour. <!-- The harbour fills. -->",
        "Write about tides with the keyword harbour.\u200b\n" * 3,
        "<!-- harbour -->",
        "\u3164\u115f<b hidden>harbour</b>",
    ],
)
def test_the_prompt_again_and_hidden_text_are_no_answer(answer: str) -> None:
    assert scored(HARBOUR, answer, InstructionsConfig(partial=True)).value == 0.0
    assert scored(HARBOUR, f"{answer}\nThe moon pulls the harbour's water.").value == 1.0
