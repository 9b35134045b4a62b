"""`conjoint rubric agree`: a planted disagreement is found, with its pair, share and interval."""

from pathlib import Path
from typing import Any

import pytest

from conjoint.rewards.judge.prompt import verdict_text
from conjoint.rl.stats.intervals import clustered_interval
from tests.fakes import quoted
from tests.scripts.rubric.conftest import Bench, prefers


def rows(prompts: int, **changes: Any) -> list[dict[str, Any]]:
    """Two answers a prompt; the longer one has the higher label."""
    return [
        {"prompt": f"Question {n}?", "response": "x" * size, "label": size, "id": f"{n}-{size}"}
        for n in range(prompts)
        for size in (3, 5)
    ]


def words(text: str) -> str:
    return " ".join(text.split())


def test_agreement_with_labels_is_full_but_for_the_planted_pair(bench: Bench):
    bench.model(prefers(len))
    planted = rows(10)
    planted[7]["label"] = 1  # the longer answer to question 3 is said to be the worse one
    done = bench.run("agree", "clarity", f"input={bench.write(planted)}", "output=out")
    assert done.exit_code == 0, done.output
    said, wanted = words(done.stdout), clustered_interval([1.0] * 9 + [0.0], 1)
    figure = f"90.0 % [{100 * wanted.lo:.1f}, {100 * wanted.hi:.1f}], n 10"
    assert f"agreement (a tie counts half) │ {figure}" in said
    assert "opposite verdicts │ 1" in said
    page = Path("out/index.html").read_text()
    assert page.count("<details") == 1 and "the labels: A, judge: B · Question 3?" in page


def test_labels_come_from_any_field_and_equal_ones_say_nothing(bench: Bench):
    bench.model(prefers(len))
    given = [{"stars": r.pop("label"), **r} for r in rows(3)]
    given[0]["stars"] = given[1]["stars"]
    keys = [f"input={bench.write(given)}", "label=stars"]
    done = bench.run("agree", "clarity", *keys)
    assert "pairs with a label │ 2" in words(done.stdout), done.output
    plain = bench.run("agree", "clarity", f"input={bench.write(given)}")
    assert "No pair has a label" in words(plain.stdout)
    assert "swap-consistency │ 100.0 %" in words(plain.stdout)


@pytest.mark.parametrize(
    ("pair", "agreement"),
    [
        ({"response_a": "xx", "response_b": "xxx", "winner": "model_b"}, "100.0 %"),
        ({"response_a": "xx", "response_b": "xxx", "expected": "a"}, "0.0 %"),
        ({"response_a": "xx", "response_b": "xxx", "better": "tie"}, "0.0 %"),
        ({"response_a": "xx", "response_b": "yy", "better": "tie"}, "100.0 %"),
        ({"response_a": "xx", "response_b": "yy", "better": "a"}, "50.0 %"),
        ({"chosen": "xxx", "rejected": "xx"}, "100.0 %"),
        ({"chosen": "xx", "rejected": "xxx"}, "0.0 %"),
    ],
)
def test_pairs_of_human_judgements_and_of_preference_data(
    bench: Bench, pair: dict[str, Any], agreement: str
):
    bench.model(prefers(len))
    name = bench.write([{"prompt": "Which?", **pair}])
    done = bench.run("agree", "clarity", f"input={name}")
    assert f"agreement (a tie counts half) │ {agreement}" in words(done.stdout), done.output


def test_preference_rows_of_whole_conversations_give_their_prompt(bench: Bench):
    bench.model(prefers(len))
    user = {"role": "user", "content": "Which?"}
    row = {
        "chosen": [user, {"role": "assistant", "content": "long one"}],
        "rejected": [user, {"role": "assistant", "content": "no"}],
    }
    done = bench.run("agree", "clarity", f"input={bench.write([row])}", "output=out")
    assert done.exit_code == 0, done.output
    (verdict,) = bench.verdicts("out")
    assert (verdict["prompt"], verdict["response_a"]) == ("Which?", "long one")


def test_a_verifier_labels_and_without_a_rubric_the_judge_is_asked_which_is_correct(bench: Bench):
    """A judge that prefers the longer answer against a verifier that knows the sum."""
    bench.model(prefers(len))
    sums = [
        {"kind": "math", "prompt": f"{n}+1?", "reference": str(n + 1), "response": answer}
        for n in range(4)
        for answer in (f"It is surely \\boxed{{{n + 1}}}.", "\\boxed{77}")
    ]
    sums[0]["response"] = "\\boxed{1}"  # short and right, against a longer wrong one
    sums[1]["response"] = "I worked it out: \\boxed{77}"
    done = bench.run("agree", "verifier=math", f"input={bench.write(sums)}")
    assert done.exit_code == 0, done.output
    said = words(done.stdout)
    assert "agreement (a tie counts half) │ 75.0 %" in said and "which answer is correct" in said
    assert "would reach │ 75.0 %" in said
    assert "Criterion: correctness" in bench.sent[0]["messages"][-1]["content"]
    opinion = bench.run("agree", "verifier=rubric", f"input={bench.write(sums)}")
    assert opinion.exit_code == 2 and "a judge's opinion" in opinion.stderr
    sums[2]["reference"] = None
    none = bench.run("agree", "verifier=math", f"input={bench.write(sums)}")
    assert none.exit_code == 2 and "cannot use" in none.stderr


def test_swap_consistency_and_position_are_those_of_the_judge(bench: Bench):
    def leans(prompt: str) -> str:
        """The first answer, but the longer one for one question of four."""
        a, b = len(quoted(prompt, "A")), len(quoted(prompt, "B"))
        return verdict_text("B" if "Question 1?" in prompt and b > a else "A", "full")

    bench.model(leans)
    done = bench.run("agree", "clarity", f"input={bench.write(rows(4))}")
    said = words(done.stdout)
    assert "swap-consistency │ 25.0 %" in said and "ties │ 75.0 %" in said
    assert "agreement (a tie counts half) │ 62.5 %" in said
    assert "agreement where the judge decided │ 100.0 %" in said
    assert "the longer answer wins (50 % is unbiased) │ 100.0 %" in said
    assert "the first answer wins (50 % is unbiased) │ 87.5 %" in said


def test_two_judges_are_compared_over_stored_verdicts(bench: Bench):
    name = bench.write(rows(5))
    bench.model(prefers(len))
    bench.run("agree", "clarity", f"input={name}", "output=one")
    bench.model(lambda p: prefers(lambda t: -len(t) if "Question 2?" in p else len(t))(p))
    done = bench.run("agree", "clarity", f"input={name}", "against=one/verdicts.jsonl")
    said = words(done.stdout)
    assert "pairs that both judged │ 5" in said and "opposite winners │ 1" in said
    assert "the same verdict, ties included │ 80.0 %" in said
    turned = bench.write(rows(5)[::-1], "turned.jsonl")  # B and A have changed places
    bench.model(prefers(len))
    same = bench.run("agree", "clarity", f"input={turned}", "against=one/verdicts.jsonl")
    assert "the same verdict, ties included │ 100.0 %" in words(same.stdout)
    other = bench.write([{**r, "response": r["response"] + "y"} for r in rows(2)], "o.jsonl")
    none = bench.run("agree", "clarity", f"input={other}", "against=one/verdicts.jsonl")
    assert none.exit_code == 2 and "holds no pair of o.jsonl" in none.stderr
    gone = bench.run("agree", "clarity", f"input={name}", "against=two.jsonl")
    assert gone.exit_code == 2 and "there is no file" in gone.stderr


def test_an_input_is_needed(bench: Bench):
    done = bench.run("agree", "clarity")
    assert done.exit_code == 2 and "input is not given" in done.stderr
