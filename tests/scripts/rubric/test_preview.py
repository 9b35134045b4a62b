"""`conjoint rubric preview`: the ranking is the run's reward, with reasons, hit rates and cost."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Group, Message, Status, Trajectory
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.judge import Judge, rubric_reward
from conjoint.rewards.judge.prompt import verdict_text
from conjoint.rewards.rubrics.find import DEFAULT_RUBRICS, load_rubrics
from conjoint.rl.run.folder import read_jsonl
from conjoint.scripts.rubric.shared.config import PreviewConfig, load_as
from conjoint.scripts.rubric.shared.judged import by_group, judge_pairs, unknown_to_nano, win_rates
from conjoint.scripts.rubric.shared.rows import read_answers
from tests.fakes import ScriptedChat
from tests.scripts.rubric.conftest import Bench, answers_in_turn, prefers

MT_BENCH = Path(__file__).parents[4] / "shared" / "data" / "mt_bench_question.jsonl"
ENDPOINT = ["judge.endpoint_model=m"]
SPANISH = """\
name: spanish
version: 1
kind: core
intent: The answer is in Spanish and gives one concrete example.
short: Spanish, one example
criteria:
  - {text: Every sentence is Spanish., weight: 2}
  - {text: It gives one concrete example.}
examples:
  good: ["Los gatos duermen mucho; el mio, quince horas al dia."]
  bad: ["Cats sleep a lot."]
"""


def spanish(text: str) -> float:
    return float(any(word in text for word in ("gatos", "duermen", "el ")))


def row(response: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "How long do cats sleep?", "response": response, **more}


ROWS = [
    row("Cats sleep.", id="en"),
    row("Los gatos duermen.", id="es"),
    row("Great question! el gato.", id="praise"),
]


def test_it_ranks_gives_reasons_hit_rates_and_cost(bench: Bench):
    Path("spanish.yaml").write_text(SPANISH)
    bench.model(prefers(spanish, why="it is <Spanish>"))
    keys = [f"input={bench.write(ROWS)}", "output=out"]
    done = bench.run("preview", "spanish.yaml", "no_praise", *keys)
    assert done.exit_code == 0, done.output
    said = done.stdout
    for words in ("│ 1     │ es", "│ 2     │ en", "│ 3     │ praise", "Every sentence is Spanish."):
        assert words in said
    # Twice about the pair that code leaves; 2 criteria of 3 answers, 1 of those without praise.
    assert len(bench.sent) == 2 + 6 + 2
    assert "10 calls, 100 prompt tokens, 20 sampled tokens" in said
    assert "56 calls, about 672 tokens" in said
    page = Path("out/index.html").read_text()
    assert "it is &lt;Spanish&gt;" in page and "breaks no_praise" in page
    assert "<script" not in page and "http://" not in page.replace(bench.url, "")
    verdicts = bench.verdicts("out")
    assert [(v["a"], v["b"], v["winner"], v["how"]) for v in verdicts] == [
        ("en", "es", "B", "judged"),
        ("en", "praise", "A", "code"),
        ("es", "praise", "A", "code"),
    ]
    again = bench.run("preview", "spanish.yaml", "input=out/responses.jsonl", "criteria=false")
    assert again.exit_code == 0 and "Per criterion" not in again.stdout


async def test_the_win_rates_are_the_rewards_of_a_run(bench: Bench):
    texts = ["a", "bbbb", "cc", "Great question! no", "", "dd"]
    rows = [row(text) for text in texts]
    (group,) = read_answers(bench.write(rows), None)
    rubrics = load_rubrics(["clarity", "no_praise"])
    judge = Judge(JudgeConfig(pairs_per_answer=3))
    chat = ScriptedChat(prefers(len))
    pairs = await judge_pairs(judge, [group], rubrics, chat, seed=5)
    answers = [
        Trajectory(messages=[Message(role="assistant", content=t)], status=Status.COMPLETED)
        for t in texts
    ]
    context = RewardContext(seed=5, judge=chat)
    scores = await rubric_reward(judge, rubrics)(Group(group.task, answers), context)
    ((_, mine),) = by_group(pairs)
    assert win_rates(group, mine) == [s.value for s in scores]


def test_fresh_answers_come_from_the_policy_which_also_judges(bench: Bench):
    bench.model(answers_in_turn("Cats.", "Los gatos.", judge=prefers(spanish)))
    Path("spanish.yaml").write_text(SPANISH)
    prompts = [{"question_id": 81, "turns": ["Tell me about cats.", "Again."]}]
    keys = ["model=m", f"endpoint={bench.url}", f"input={bench.write(prompts)}", "fresh=true"]
    words = ["preview", "spanish.yaml", *keys, "k=2", "max_tokens=7", "temperature=0.5"]
    done = bench.run(*words, "output=out", judge=False)
    assert done.exit_code == 0, done.output
    fresh = [s for s in bench.sent if s["max_tokens"] == 7]
    assert len(fresh) == 2 and {s["temperature"] for s in fresh} == {0.5}
    assert f"{len(bench.sent) - 2} calls" in done.stdout, "the answers are no cost of the judge"
    assert [s["messages"][-1]["content"] for s in fresh] == ["Tell me about cats."] * 2
    (verdict,) = bench.verdicts("out")
    assert verdict[f"response_{verdict['winner'].lower()}"] == "Los gatos."
    stored = read_jsonl(Path("out/responses.jsonl"))
    assert {r["response"] for r in stored} == {"Cats.", "Los gatos."}


def test_without_an_input_the_open_tasks_of_nano_are_answered(bench: Bench):
    bench.model(answers_in_turn("a", "bb", judge=prefers(len)))
    keys = ["model=m", f"endpoint={bench.url}", "limit=3", "k=2", "criteria=false", "output=out"]
    done = bench.run("preview", "clarity", *keys, judge=False)
    assert done.exit_code == 0, done.output
    assert len({v["prompt"] for v in bench.verdicts("out")}) == 3


def test_an_unreadable_reply_masks_its_pair_and_is_counted(bench: Bench):
    judged = prefers(len)
    bench.model(lambda p: "hm" if "[ANSWER" not in p and "ccc" in p else judged(p))
    rows = [row("a"), row("bb"), row("ccc")]
    done = bench.run("preview", "clarity", f"input={bench.write(rows)}", "output=out")
    assert done.exit_code == 0, done.output
    assert [v["winner"] for v in bench.verdicts("out")] == ["B", None, None]
    said = " ".join(done.stdout.split())
    assert "masked: a reply could not be read │ 2" in said and "│ masked" in said
    assert "2 of 3 pairs are masked" in said


def test_a_judge_of_position_and_one_without_yes_or_no_are_told(bench: Bench):
    bench.model(lambda p: "perhaps" if "[ANSWER" in p else verdict_text("B", "full"))
    rows = [{**row(text), "prompt": f"Why {n}?"} for n in range(9) for text in ("a", "bb")]
    done = bench.run("preview", "clarity", f"input={bench.write(rows)}")
    assert done.exit_code == 0, done.output
    assert "the verdict follows the place of an answer" in done.stdout
    assert "72 of 72 replies on single criteria could not be read" in done.stdout


def test_a_judge_that_never_answers_stops_with_one_sentence(bench: Bench):
    def dead(prompt: str) -> str:
        raise ConnectionError("out of order")

    bench.model(dead)
    rows = [row("x" * n) for n in range(1, 9)]
    done = bench.run("preview", "clarity", f"input={bench.write(rows)}", "concurrency=1")
    assert done.exit_code == 3 and len(done.stderr.strip().splitlines()) == 1
    assert re.search(r"the first 2\d calls of the judge all failed", done.stderr)
    assert "out of order" in done.stderr and len(bench.sent) < 30
    bench.model(lambda prompt: "hm")
    few = bench.run("preview", "clarity", f"input={bench.write(rows[:2])}")
    assert few.exit_code == 3 and "none of 1 pairs could be judged" in few.stderr


@pytest.mark.skipif(not MT_BENCH.exists(), reason="the shared MT-bench prompts are not here")
def test_the_prompts_of_mt_bench_are_read(bench: Bench):
    keys = ["model=m", f"endpoint={bench.url}", "fresh=true", f"input={MT_BENCH}", "limit=2"]
    bench.model(answers_in_turn("a", "bb", judge=prefers(len)))
    done = bench.run("preview", "clarity", *keys, "k=2", "criteria=false", judge=False)
    assert done.exit_code == 0 and "2 prompts" in done.stdout, done.output


def test_a_tasks_own_rubric_and_the_drawn_alternative_are_what_is_asked(bench: Bench):
    own = {"name": "mine", "intent": "It rhymes.", "criteria": [{"text": "Two lines rhyme."}]}
    rows = [row(text, rubrics=[own]) for text in ("a", "bb")]
    bench.model(prefers(len))
    done = bench.run("preview", "clarity", f"input={bench.write(rows)}", "output=out")
    assert done.exit_code == 0, done.output
    assert bench.verdicts("out")[0]["rubrics"] == ["clarity v1", "mine v1"]
    assert "Two lines rhyme." in done.stdout


# -- nano ----------------------------------------------------------------------------------------


def test_nano_gets_its_own_template_unless_one_is_named():
    cfg = load_as(PreviewConfig, ["clarity", "model=nano"])
    assert (cfg.judge.template, cfg.judge.max_tokens) == ("compact", 4)
    assert load_as(PreviewConfig, ["clarity", "model=smollm2-135m"]).judge.template == "letter"
    named = load_as(PreviewConfig, ["clarity", "model=nano", "judge.template=letter"])
    assert named.judge.template == "letter"


def test_a_checkpoint_of_a_nano_run_is_nano_too(tmp_path: Path):
    shape = {"hidden_size": 128, "vocab_size": 768}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    cfg = load_as(PreviewConfig, ["calibrated", f"model={tmp_path}"])
    assert cfg.judge.template == "compact" and unknown_to_nano(cfg, load_rubrics(["calibrated"]))
    (tmp_path / "config.json").write_text(json.dumps({**shape, "hidden_size": 576}))
    assert load_as(PreviewConfig, ["calibrated", f"model={tmp_path}"]).judge.template == "full"


def test_nanos_critic_is_said_to_know_only_its_rubrics():
    nano = load_as(PreviewConfig, ["clarity", "model=nano"])
    (said,) = unknown_to_nano(nano, load_rubrics(["clarity", "calibrated"]))
    assert "what it says of calibrated is chance" in said and "clarity" in said
    assert unknown_to_nano(nano, load_rubrics(DEFAULT_RUBRICS)) == []
    other = load_as(PreviewConfig, ["clarity", "model=smollm2-135m"])
    assert unknown_to_nano(other, load_rubrics(["calibrated"])) == []


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clarity", "input=x.jsonl"], "there is nobody to ask"),
        (["model=nano"], "name the rubrics"),
        (["clarity", "model=nano", "k=1"], "k=1 must be at least 2"),
        (["clarity", "model=nano", "limit=0"], "limit=0"),
        (["clarity", "model=nano", "temperature=0"], "temperature above 0"),
        (["clarity", "model=nano", "labl=x"], "unknown config key labl"),
        (["clarity", "model=nano", "judge.templat=full"], "judge.template"),
        (
            ["clarity", "model=nano", "input=x", "judge.endpoint=http://h/v1", *ENDPOINT],
            "model=nano has nothing to do",
        ),
    ],
)
def test_mistakes_are_named_before_anything_loads(words: list[str], said: str):
    with pytest.raises(ConjointError, match=said):
        load_as(PreviewConfig, words)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x"}, "field 'response' is missing; give fresh=true"),
        ({"response": "x"}, "field 'prompt' is missing"),
        ({"prompt": "x", "response": "y", "label": "best"}, "field 'label' is 'best'"),
        ({"prompt": "x", "response_a": "y"}, "field 'response_b' is no text"),
        (
            {"prompt": "x", "response_a": "y", "response_b": "z", "winner": "c"},
            "field 'winner' is 'c'; expected a, b or tie",
        ),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_field(bench: Bench, row: Any, said: str):
    bench.model(prefers(len))
    done = bench.run("preview", "clarity", f"input={bench.write([row])}")
    assert done.exit_code == 2 and f"rows.jsonl line 1: {said}" in done.stderr, done.output


def test_one_answer_a_prompt_leaves_nothing_to_compare(bench: Bench):
    done = bench.run("preview", "clarity", f"input={bench.write([row('a')])}")
    assert done.exit_code == 2 and "no prompt has two answers" in done.stderr
