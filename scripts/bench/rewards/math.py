"""The mathematics part of `conjoint bench rewards`: verdicts a second beside math-verify's own.

Owns the answers, MATH-like and labelled by construction: K sampled answers to each problem, as a
group has them, most of them numbers and the rest fractions, roots, polynomials, intervals, tuples
and matrices in other forms than the reference's. math-verify is timed on the same answers, in this
process and without its time-outs (they use signal.alarm); hostile ones, which hang it, ours alone.
"""

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Any

from conjoint.envs.types import Task
from conjoint.rewards.math.reward import MathVerifier
from conjoint.rewards.math.symbolic import plain_verdict

HOSTILE = (
    "10^{10^{10}}",
    "(((9^{999})^{999})^{999})^{999}",
    "(10^9)!",
    "{" * 400 + "2" + "}" * 400,
    "\\sum_{k=1}^{10^9} k",
    "\\frac{" * 60 + "1" + "}{2}" * 60,
)
Row = tuple[str, str, bool]
"""(reference, response, whether it is right)."""


def rows(problems: int, samples: int, seed: int) -> list[Row]:
    """`problems` x `samples` labelled answers, about half of them right."""
    rng, made = Random(seed), []
    kinds: list[Callable[[Random], tuple[str, list[str], list[str]]]] = [
        _integer, _fraction, _root, _polynomial, _interval, _point, _matrix,
    ]  # fmt: skip
    for _ in range(problems):
        gold, right, wrong = rng.choices(kinds, (62, 14, 7, 6, 4, 5, 2))[0](rng)
        for _ in range(samples):
            paid = rng.random() < 0.5
            answer = rng.choice(right if paid else wrong)
            made.append((gold, f"We work it out.\nThe answer is $\\boxed{{{answer}}}$.", paid))
    return made


def _integer(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(-500, 5000)
    return str(n), [str(n), f"{n:,}", f"{n}.0"], [str(n + 1), str(-n - 1), f"{n}.5"]


def _fraction(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(1, 30), rng.choice((3, 7, 11, 13))
    a += a % b == 0
    return (
        f"\\frac{{{a}}}{{{b}}}",
        [f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}", f"\\dfrac{{{2 * a}}}{{{2 * b}}}"],
        [f"\\frac{{{b}}}{{{a}}}", f"\\frac{{{a + 1}}}{{{b}}}", f"{a / b:.3f}"],
    )


def _root(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(2, 9), rng.choice((2, 3, 5, 7))
    right = [f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt {b}"]
    return right[0], right, [f"{a}\\sqrt{{{b + 1}}}", f"\\sqrt{{{a * b}}}", f"{a * b**0.5:.2f}"]


def _polynomial(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    gold = f"x^2+{a + b}x+{a * b}"
    return (
        gold,
        [gold, f"(x+{a})(x+{b})", f"x^{{2}} + {a + b} x + {a * b}"],
        [f"x^2+{a + b}x+{a * b + 1}", f"(x-{a})(x+{b})", f"x^2-{a + b}x"],
    )


def _interval(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(-9, 0), rng.randint(1, 9)
    gold = f"({a},{b}]"
    return gold, [gold, f"\\left({a}, {b}\\right]"], [f"[{a},{b}]", f"({a},{b})", f"({a},{b + 1}]"]


def _point(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(-9, 9), rng.randint(2, 9)
    gold = f"({a}, \\frac{{1}}{{{b}}})"
    return gold, [gold, f"\\left({a},\\frac{{2}}{{{2 * b}}}\\right)"], [f"({a}, {b})", f"({a + 1},1/{b})"]  # fmt: skip # noqa: E501


def _matrix(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(-9, 9), rng.randint(-9, 9)
    form = "\\begin{{pmatrix}} {} \\\\ {} \\end{{pmatrix}}".format
    return form(a, b), [form(a, b), form(f"{a}.0", b)], [form(a + 1, b), form(a, b - 1)]


def measure_math(problems: int, samples: int, seed: int) -> dict[str, Any]:
    """Figures of both: verdicts a second, wrong verdicts, and our slowest item in seconds.

    Ours includes extraction, memo and the jail, whose start (imports, seconds) is left out, as are
    math-verify's imports and its first verdicts.
    """
    made = rows(problems, samples, seed)
    verdicts, seconds, slowest = asyncio.run(_ours(made))
    for warm_up in made[:20]:
        plain_verdict(*warm_up[:2])
    began = time.perf_counter()
    plain = [plain_verdict(gold, response) for gold, response, _ in made]
    plain_seconds = time.perf_counter() - began
    labels = [paid for *_, paid in made]
    rates = {"ours": len(made) / seconds, "math_verify": len(made) / plain_seconds}
    return {
        "answers": len(made),
        "verdicts_per_second": rates,
        "speedup": rates["ours"] / rates["math_verify"],
        "wrong": {"ours": _wrong(verdicts, labels), "math_verify": _wrong(plain, labels)},
        "slowest_s": slowest,
    }


def _wrong(verdicts: list[bool], labels: list[bool]) -> int:
    return sum(verdict is not label for verdict, label in zip(verdicts, labels, strict=True))


async def _ours(made: list[Row]) -> tuple[list[bool], float, float]:
    """Our verdicts, one after the other; the seconds for all; the slowest, hostile ones too."""
    verifier = MathVerifier()
    hostile = [("\\sqrt{2}", f"\\boxed{{{bomb}}}", False) for bomb in HOSTILE]
    verdicts, times = [], []
    try:
        await verifier.start()
        for gold, response, _ in [*made, *hostile]:
            began = time.perf_counter()
            score = await verifier(Task.make("math", "?", gold), response)
            times.append(time.perf_counter() - began)
            verdicts.append(score.value == 1.0)
    finally:
        verifier.close()
    return verdicts[: len(made)], sum(times[: len(made)]), max(times)
