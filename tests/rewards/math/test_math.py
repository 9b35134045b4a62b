"""The math verifier: what pays, what must not, and what must not hang."""

import asyncio
import json
import re
import time
from pathlib import Path

import pytest

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.math import symbolic
from conjoint.rewards.math.numeric import same_value
from conjoint.rewards.math.reward import (
    MathVerifier,
    reference_answer,
    validate_reference,
)
from conjoint.rewards.text.extract import final_answer, visible_text
from conjoint.scripts.bench.rewards import math as math_bench

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def rows(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not beside this checkout")
    return [json.loads(line) for line in path.read_text().splitlines()]


def score(gold: object, response: str, prompt: str = "What is it?") -> Score:
    """By a verifier whose workers are never started: exact and textual verdicts only."""
    verifier = MathVerifier()
    result = asyncio.run(verifier(Task.make("math", prompt, gold), response))
    assert not verifier.started
    return result


def pays(gold: object, answer: str) -> bool:
    return score(gold, f"So it is $\\boxed{{{answer}}}$.").value == 1.0


@pytest.fixture(scope="module")
def verifier():
    verifier = MathVerifier()
    asyncio.run(verifier.start())
    yield verifier
    verifier.close()


def test_every_shared_example_is_paid_as_stated(verifier: MathVerifier) -> None:
    for row in rows("math_hack_examples.jsonl"):
        began = time.monotonic()
        result = asyncio.run(
            verifier(Task.make("math", "What is it?", row["gold"]), row["response"])
        )
        allowed = {row["must_reward"], *map(int, re.findall(r"^also=([01])", row["note"]))}
        assert (result.value or 0.0) in allowed, (row["name"], result)
        assert time.monotonic() - began < 4, row["name"]
    assert not Path("/tmp/sbx_math_pwn").exists()


def test_gsm8k_solutions_pass_and_changed_ones_do_not() -> None:
    verifier = MathVerifier()
    for row in rows("gsm8k_train.jsonl")[:200]:
        task = Task.make("math", row["question"], row["answer"])
        working, _, number = row["answer"].rpartition("#### ")
        right = [row["answer"], f"{working}\\boxed{{{number}}}", f"The answer is {number}."]
        wrong = int(number.replace(",", "")) + 1
        for response in right:
            assert asyncio.run(verifier(task, response)).value == 1.0, response
        for response in (f"{working}#### {wrong}", f"{working}\\boxed{{{wrong}}}"):
            assert asyncio.run(verifier(task, response)).value == 0.0, response
    assert not verifier.started, "numbers never need sympy"


def test_every_solution_of_gsm8k_is_paid_and_none_with_its_number_changed() -> None:
    verifier = MathVerifier()
    table = rows("gsm8k_test.jsonl")
    assert len(table) == 1319

    async def grade() -> None:
        for row in table:
            task = Task.make("math", row["question"], row["answer"])
            working, _, number = row["answer"].rpartition("#### ")
            changed = f"{working}#### {int(number.replace(',', '')) + 1}"
            assert (await verifier(task, row["answer"])).value == 1.0, row["answer"]
            assert (await verifier(task, changed)).value == 0.0, changed

    asyncio.run(grade())
    assert not verifier.started


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1234", "1,234"),
        ("1234", "1{,}234"),
        ("1,234", "x = 1234"),
        ("1,234", "1231 + 3 = 1234"),
        ("1234", "1\\,234"),
        ("0.5", "\\frac12"),
        ("1/2", "2/4"),
        ("1.5", "1\\frac{1}{2}"),
        ("\\frac{1}{3}", "0.\\overline{3}"),
        ("42", "\\$42.00"),
        ("42", "42 \\text{ dollars}"),
        ("42", "x = 42"),
        ("42", "6 \\times 7 = 42"),
        ("42", "\uff14\uff12"),
        ("-42", "\u221242"),
        ("50\\%", "0.5"),
        ("B", "(B)"),
        ("B", "B) 42 apples"),
        ("Monday", "\\text{monday}"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("(1,2]", "\\left(1, 2\\right]"),
        (
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\begin{bmatrix} 1 & 2.0 \\\\ 3 & 4 \\end{bmatrix}",
        ),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
        ("x^2+5x+6", "(x+2)(x+3)"),
        ("\\frac{x}{2}", "0.5x"),
        ("\\frac12\\pi", "\\frac{\\pi}{2}"),
        (42, "42"),
        (0.25, "\\dfrac{1}{4}"),
    ],
)
def test_equal_answers_pay_without_a_worker(gold: object, answer: str) -> None:
    assert pays(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("50", "50\\%"),
        ("50\\%", "50"),
        ("\\frac{1}{3}", "0.333333"),
        ("1000000000001", "1000000000000"),
        ("42", "41.9999999999"),
        ("42", "42 or 43"),
        ("42", "42 \\text{ or } 43"),
        ("42", "\\{42\\}"),
        ("42", "41,42,43"),
        ("42", "[41,43]"),
        ("42", "\\pm 42"),
        ("42", "41 < x < 43"),
        ("42", "x"),
        ("42", "6 \\cdot 7"),
        ("42", "84/2"),
        ("1024", "2^{10}"),
        ("42", "42x"),
        ("42", "42 million"),
        ("42", "41 = 42"),
        ("12", "12 thousands"),
        ("42", "0/0"),
        ("0", "\\frac{0}{0}"),
        ("42", "4\u200b2"),
        ("42", "4\u202e2"),
        ("42", "42\x00"),
        ("42", "\ud800"),
        ("x=42", "\u0445=42"),
        ("x=42", "y=42"),
        ("5 \\text{ cm}", "5 \\text{ m}"),
        ("B", "A, B"),
        ("B", "ABCDE"),
        ("B", "A B C D"),
        ("(1,2)", "(2,1)"),
        ("(1,2]", "[1,2]"),
        ("1,2", "1,2,3"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
        ("\\pi", "3.14159265358979323846264338327950288"),
        ("x^2+5x+6", "(x-2)(x-3)"),
        ("-x^2", "(-x)^2"),
    ],
)
def test_stuffed_restated_and_lookalike_answers_do_not_pay(gold: str, answer: str) -> None:
    result = score(gold, f"So \\boxed{{{answer}}}")
    assert result.value == 0.0, result
    assert result.reasons[0].encode()  # printable whatever the answer holds


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{41}\nNo, wait.\n\\boxed{42}", "42"),
        ("\\boxed{42} and again \\boxed{42}", "42"),
        ("\\boxed{41} \\boxed{42}", None),
        ("\\boxed{42}\n\\boxed{", None),
        ("\\boxed{}", None),
        ("\\boxed 42", None),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("<think>\\boxed{1}</think>\\boxed{42}", "42"),
        ("\\boxed{1}<think>\\boxed{42}", "1"),
        ("I cannot say<|im_end|>\\boxed{42}", None),
        ("I cannot say\nUser: what then?\n\\boxed{42}", None),
        ("~~~\n\\boxed{42}", None),
        ("#### 41 #### 42", None),
        ("5+5\n#### 10", "10"),
        ("#### 3\n\\boxed{4}", "4"),
        ("The answer is 42.", "42"),
        ("3 + 5 = 8", "3 + 5 = 8"),
        ("It is 41 or 42", None),
        ("41, 42, 43", None),
        ("It costs 5%", "5%"),
        ("", None),
    ],
)
def test_the_final_answer_stands_in_one_place(response: str, answer: str | None) -> None:
    found = final_answer(response)
    assert found.answer == answer
    assert answer is not None or found.reason


def test_a_box_repeated_from_the_prompt_does_not_pay() -> None:
    prompt = "What is 40+2? Write it as in: the answer is \\boxed{42}"
    assert score("42", f"You said:\n{prompt}", prompt).value == 0.0
    assert score("42", "\\boxed{42}", prompt).value == 1.0


@pytest.mark.parametrize("reference", [None, True, float("nan"), float("inf"), "", " ", "NaN", []])
def test_an_unusable_reference_is_masked_and_never_paid(reference: object) -> None:
    with pytest.raises(ConjointError):
        validate_reference(reference)
    result = score(reference, f"\\boxed{{{reference}}}")
    assert result.outcome is Outcome.INFRA_ERROR and result.value is None


def test_a_reference_may_be_a_whole_solution() -> None:
    assert reference_answer("40+2=<<40+2=42>>42\n#### 42") == "42"
    assert reference_answer("Thus $\\boxed{\\frac{1}{2}}$") == "\\frac{1}{2}"


@pytest.mark.parametrize(
    ("gold", "answer", "paid"),
    [
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("x<5", "5>x", True),
        ("x<5", "x \\le 5", False),
        ("\\pi", "3.14", False),
        ("\\pi", "3.141592653589793", False),
        ("\\frac{x}{2}", "0.5x", True),
        ("(-\\infty,2)\\cup(3,4]", "(3,4] \\cup (-\\infty, 2)", True),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
        ("x^2+y^2=1", "y^2+x^2=1", True),
    ],
)
def test_symbolic_answers(verifier: MathVerifier, gold: str, answer: str, paid: bool) -> None:
    result = asyncio.run(verifier(Task.make("math", "?", gold), f"\\boxed{{{answer}}}"))
    assert result.value == float(paid), result


@pytest.mark.parametrize(
    "answer",
    [
        "10^{10^{10}}",
        "2^{99999}",
        "(10^9)!",
        "\\sum_{k=1}^{n} k",
        "\\int x",
        "\\input{/etc/passwd}",
        "\\write18{x}",
        "__import__('os')",
        "lambda: 0",
        "{" * 30 + "2" + "}" * 30,
        "}{",
        "9" * 60,
        "x" * 500,
        "x_1",
    ],
)
def test_bombs_and_injections_never_reach_sympy(answer: str) -> None:
    assert symbolic.refusal(answer, "\\sqrt{2}")


def test_a_formula_that_hangs_sympy_scores_zero_once_and_is_remembered() -> None:
    verifier = MathVerifier(deadline_s=1.0)
    task = Task.make("math", "?", "\\sqrt{2}")
    bomb = "\\boxed{(((9^{999})^{999})^{999})^{999}}"

    async def grade() -> list[Score]:
        await verifier.start()
        return list(await asyncio.gather(*(verifier(task, bomb) for _ in range(4))))

    try:
        results = asyncio.run(grade())
        assert {(r.value, r.outcome) for r in results} == {(0.0, Outcome.TIMEOUT)}
        began = time.monotonic()
        assert asyncio.run(verifier(task, bomb)).outcome is Outcome.TIMEOUT
        assert time.monotonic() - began < 0.5
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\\sqrt{x^2}", "x"),
        ("\\frac{x}{0}", "x"),
        ("\\sqrt{2}", "(((9^{999})^{999})^{999})^{999}"),
        ("(x", "x"),
    ],
)
def test_what_values_cannot_tell_is_left_to_sympy(gold: str, answer: str) -> None:
    assert same_value(gold, answer) is None


def test_a_small_term_beside_a_huge_one_is_seen() -> None:
    assert same_value("2^{2005}+\\sqrt{2}", "2^{2005}+\\sqrt{3}") is False
    assert same_value("2^{2005}+\\sqrt{8}", "2\\sqrt{2}+2^{2005}") is True
    assert same_value("10^{-50}\\sqrt{2}", "10^{-51}\\sqrt{2}") is False


def test_values_and_sympy_agree() -> None:
    made = [
        (gold, final_answer(response).answer or "", paid)
        for gold, response, paid in math_bench.rows(60, 4, 1)
    ]
    told = [(same_value(gold, answer), paid) for gold, answer, paid in made if "," not in answer]
    assert sum(value is not None for value, _ in told) > 100
    assert all(value == paid for value, paid in told if value is not None)


def test_the_bench_counts_verdicts_of_both_and_finds_ours_right() -> None:
    result = math_bench.measure_math(problems=6, samples=3, seed=0)
    assert result["answers"] == 18 and result["wrong"]["ours"] == 0
    assert min(result["verdicts_per_second"].values()) > 0 and result["slowest_s"] > 0


def test_long_garbage_is_read_in_linear_time() -> None:
    size = 99_000
    for unit in (
        "\n",
        " ",
        "#### ",
        "```",
        "=",
        "1",
        "1,111",
        "\\boxed{",
        "{",
        "<think>",
        "! ",
        "-",
    ):
        began = time.monotonic()
        final_answer(unit * (size // len(unit)))
        assert time.monotonic() - began < 1.0, unit
    assert final_answer("1" * 200_000).answer is None


def test_an_answer_of_any_length_is_compared_in_bounded_time() -> None:
    for unit in (
        "(",
        "\\{",
        "1,",
        "x=",
        "\\pm ",
        "a and ",
        "<",
        "\\frac{1}{",
        "|",
        "1 base ",
        "十",
    ):
        answer = unit * (1_990 // len(unit))
        began = time.monotonic()
        assert score("1,2", f"\\boxed{{{answer}}}").value == 0.0
        assert score("1,2", f"The answer is {answer}").value == 0.0
        assert time.monotonic() - began < 5.0, unit
    assert score("1", f"\\boxed{{{'1' * 3_000}}}").value == 0.0


def test_visible_text_is_what_follows_the_thinking() -> None:
    assert visible_text("<think>a</think>b</think>c<|im_end|>d") == "c"
