"""The README's walk: one YAML file, lint, preview, and a run that would train with it."""

import re
from pathlib import Path

from typer.testing import CliRunner

from conjoint.rl.config.compose import load_config
from conjoint.rl.plan import prepare
from conjoint.scripts.main import app
from tests.scripts.rubric.conftest import Bench, answers_in_turn, prefers

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
[WALK] = [b for b in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "rubric lint" in b]
RUBRIC = re.search(r"<<'END'\n(.*?)END\n(.*)", WALK, re.DOTALL)
assert RUBRIC is not None
FILE, COMMANDS = RUBRIC[1], RUBRIC[2].splitlines()


def spanish(text: str) -> float:
    return 1.0 if re.search(r"\b(el|es|de|la)\b", text) else 0.0


def test_the_rubric_of_the_readme_is_linted_previewed_and_taken_by_a_run(bench: Bench):
    lint, preview, train = COMMANDS
    Path("spanish.yaml").write_text(FILE)
    checked = CliRunner().invoke(app, lint.split()[1:])
    assert checked.exit_code == 0 and "faults: 0, advice: 0" in checked.stdout, checked.output

    texts = "El mar de Vigo es verde.", "The sea is green."
    bench.model(answers_in_turn(*texts, judge=prefers(spanish, "letter")))
    words = preview.split()[2:]
    assert words[-1] == "model=smollm2-135m", "the test gives the words a scripted model"
    keys = ["limit=3", "k=2", "output=out", f"endpoint={bench.url}", "model=m"]
    seen = bench.run(*words[:-1], *keys, "judge.template=letter", judge=False)
    assert seen.exit_code == 0, seen.output
    first = re.findall(r"│ 1     │ \d      │ (\S+)     │ (.*?) │", seen.stdout)
    assert [(rate, text.strip()) for rate, text in first] == [("1.00", texts[0])] * 3
    assert "Every sentence is in Spanish." in seen.stdout and "50.0 %" in seen.stdout

    key = train.split()[-1].strip("'")
    plan = prepare(load_config(["experiment=quickstart", key]))
    assert [r.name for r in plan.rubrics] == ["spanish", "no_praise"]
    assert plan.rubrics[0].criteria[0].weight == 2.0 and "num_steps=2" in train
