"""What may reach sympy, and the sympy call itself.

Model text is admitted by an allow-list (characters, LaTeX commands, sizes) before it goes to
math-verify, whose parser and simplifier hang on power towers, factorials, sums and deep nesting. It
runs, and is imported, in the verifier profile of the jail only.
"""

import re
from typing import Any

_MAX_LENGTH = 300
_MAX_DEPTH = 12
_MAX_INTEGER = 40
_MAX_EXPONENT = 1_000
_ALLOWED = re.compile(r"[0-9A-Za-z\s+\-*/^_()\[\]{}|.\\!=]*")
_NAMES = (
    "frac sqrt pi cdot times div pm sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh "
    "log ln lg exp alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi psi omega "
    "Delta Gamma Omega Sigma infty lfloor rfloor lceil rceil to"
)
_COMMANDS = frozenset(_NAMES.split())
_UNEVALUATED = ("!", "\\sum", "\\prod", "\\int", "\\lim", "\\binom", "\\dots", "\\ldots", "\\cdots")
_SUBSCRIPT = re.compile(r"(?<!\\sum)(?<!\\prod)(?<!\\int)(?<!\\lim)(?<!\\log)\s*_")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z]*matrix\*?\}")
_EXPONENT = re.compile(r"\^\s*(?:\{([^{}]*)\}|\\?[A-Za-z]+|[0-9])?")
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")


def refusal(answer: str, gold: str) -> str:
    """Why `answer` is not handed to sympy; "" where it may be.

    Sums and limits are, where gold has them too. What the parser would drop (marks, subscripts,
    wrappers) is refused in both.
    """
    if len(answer) > _MAX_LENGTH or len(gold) > _MAX_LENGTH:
        return f"longer than {_MAX_LENGTH} characters"
    if not _ALLOWED.fullmatch(answer + gold):
        return "characters that no formula needs"
    if _SUBSCRIPT.search(answer) or _SUBSCRIPT.search(gold):
        return "a subscript, which its parser may drop"
    commands = set(re.findall(r"\\([A-Za-z]+)", answer + " " + gold))
    if unknown := sorted(commands - _COMMANDS - {name.strip("\\") for name in _UNEVALUATED}):
        return f"the command \\{unknown[0]}"
    for mark in _UNEVALUATED:
        if mark in answer and mark not in gold:
            return f"'{mark}', which is not an evaluated answer here"
    if words := set(_WORD.findall(_ENVIRONMENT.sub("", answer))) - set(_WORD.findall(gold)):
        return f"the word '{min(words)}'"
    if new := set(_VARIABLE.findall(answer)) - set(_VARIABLE.findall(gold)) - {"e", "i"}:
        return f"the variable {min(new)}, which the reference does not have"
    return _oversized(answer)


def _oversized(answer: str) -> str:
    depth = 0
    for char in answer.replace("\\{", "").replace("\\}", ""):
        depth += (char == "{") - (char == "}")
        if depth < 0 or depth > _MAX_DEPTH:
            return "braces that do not balance" if depth < 0 else "too deep a nesting"
    if depth:
        return "braces that do not balance"
    if re.search(rf"[0-9]{{{_MAX_INTEGER + 1},}}", answer):
        return f"an integer of more than {_MAX_INTEGER} digits"
    for match in _EXPONENT.finditer(answer):
        exponent = match.group(1)
        if exponent is None and match.group().endswith("^"):
            return "a nested exponent"  # ^{...{...}...}: a tower, or as hard to bound as one
        numbers = re.findall(r"[0-9]+", exponent or "")
        if any(int(n) > _MAX_EXPONENT for n in numbers):
            return f"an exponent above {_MAX_EXPONENT}"
    return ""


def as_fractions(text: str) -> str:
    r"""Decimals as exact fractions, so that nothing is rounded: 3.14 -> \frac{314}{100}."""
    return _DECIMAL.sub(
        lambda m: f"\\frac{{{int((m[1] or '0') + m[2])}}}{{{10 ** len(m[2])}}}", text
    )


_PRACTICE = (
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\frac{x}{2}", "0.5x"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x<5", "5>x"),
    ("\\pi", "3.14"),
    ("(-\\infty,2)\\cup(3,4]", "(3,4]\\cup(-\\infty,2)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("x^2+y^2=1", "y^2+x^2=1"),
    ("3-2i", "-2i+3"),
    ("\\sin^2 x", "1-\\cos^2 x"),
    ("\\log_2 3", "\\frac{\\ln 3}{\\ln 2}"),
    ("|x|", "\\sqrt{x^2}"),
    ("e^{i\\pi}", "-1+0i"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
)
"""One of each form: every call inherits what the parser and sympy build on first use."""


def warm() -> None:
    """Imports (2 s of CPU) and practice (1 s), which makes a verdict 5 to 20 ms and not 200."""
    import logging

    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for gold, answer in _PRACTICE:
        equal(gold, answer)


def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX formulas are equal. Runs in the jail: it may hang and it may die.

    Time-outs are None because math-verify's own use signal.alarm; the pool's deadline kills it. An
    answer that does not parse, that is undefined, or that has a variable gold lacks is not equal.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list:
        found = parse(
            f"${as_fractions(text)}$",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,  # type: ignore[arg-type]
        )
        return [expression for expression in found if hasattr(expression, "free_symbols")]

    gold_forms, answer_forms = read(gold), read(answer)
    if not gold_forms or not answer_forms:
        return False
    from sympy import nan, zoo

    known = {str(symbol) for form in gold_forms for symbol in form.free_symbols}
    for form in answer_forms:
        if form.has(nan, zoo) or any(str(symbol) not in known for symbol in form.free_symbols):
            return False
    return bool(
        verify(gold_forms, answer_forms, float_rounding=12, strict=True, timeout_seconds=None)
    )


def plain_verdict(gold: str, response: str) -> bool:
    """math-verify as it comes, time-outs off: what `conjoint bench rewards` compares with. Not for
    a model's text, on which it hangs."""
    from math_verify import parse, verify

    none: Any = None
    golds = parse(f"${gold}$", parsing_timeout=none)
    answers = parse(response, parsing_timeout=none)
    return bool(verify(golds, answers, timeout_seconds=none))
