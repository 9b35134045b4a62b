r"""References of every form that the math reward reads, right and wrong by construction.

Owns the generator of the mutation study: each reference comes with rewritings of itself, all equal,
and with near misses, none equal: another digit, sign, exponent, base, unit, bracket, order, name.
`study.py` grades them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

WAYS = 10


@dataclass(frozen=True, slots=True)
class Case:
    """A reference, answers that equal it, answers that do not."""

    form: str
    gold: str
    same: tuple[str, ...]
    other: tuple[str, ...]


def cases(count: int, seed: int) -> list[Case]:
    """`count` references, the forms in turn, each with WAYS rewritings and WAYS near misses."""
    rng = Random(seed)
    makers = list(_FORMS.items())
    made = []
    for index in range(count):
        form, maker = makers[index % len(makers)]
        gold, same, other = maker(rng)
        made.append(Case(form, gold, _filled(gold, same, rng), _distinct(other)))
    return made


def number_case(form: str, gold: str, rng: Random) -> Case:
    """A plain number as a reference, such as GSM8K's."""
    n = int(gold.replace(",", ""))
    same, other = _integer_answers(n, rng)
    return Case(form, gold, _filled(gold, same, rng), _distinct(other))


_DRESSINGS: tuple[Callable[[str], str], ...] = (
    lambda a: a,
    lambda a: f" {a} ",
    lambda a: f"${a}$",
    lambda a: f"\\displaystyle {a}",
    lambda a: f"{{{a}}}",
    lambda a: f"\\boldsymbol{{{a}}}",
    lambda a: f"{a}.",
    lambda a: f"\\,{a}\\,",
    lambda a: f"\\mathbf{{{a}}}",
    lambda a: f"\\({a}\\)",
)


def _filled(gold: str, same: list[str], rng: Random) -> tuple[str, ...]:
    """The form's own rewritings, then typography around them, WAYS in all."""
    own = list(dict.fromkeys([gold, *same]))
    chosen = own[: WAYS - 3]
    while len(chosen) < WAYS:
        dressed = rng.choice(_DRESSINGS)(rng.choice(own))
        if dressed not in chosen:
            chosen.append(dressed)
    return tuple(chosen)


def _distinct(other: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(other))[:WAYS]


def _integer_answers(n: int, rng: Random) -> tuple[list[str], list[str]]:
    digits = list(str(abs(n)))
    place = rng.randrange(len(digits))
    digits[place] = str((int(digits[place]) + rng.randint(1, 9)) % 10)
    changed = int("".join(digits)) * (-1 if n < 0 else 1)
    same = [f"{n}.0", f"x = {n}", f"{n:,}", f"{n - 3} + 3 = {n}", f"{n} \\text{{ apples}}",
            f"+{n}" if n >= 0 else f"-\\,{-n}", f"{2 * n} / 2 = {n}"]  # fmt: skip
    other = [str(changed), str(n + 1), str(n - 1), f"{n}0", f"{n}.5", f"{n} thousands",
             f"{n + 1} = {n}", f"{n}, {n + 1}", f"{n}\\%", f"{n} thirds", f"{n}x"]  # fmt: skip
    if n:
        other = [str(-n), f"\\pm {n}", *other]
        other = [o for o in other if o != f"{n}0"] + [f"{n}0"]
    else:
        other = [o for o in other if o not in ("00", "0 thousands", "0\\%", "0 thirds", "0x")]
        other += ["10", "0.1", "\\emptyset", "\\infty", "\\frac{1}{0}", "\\{0\\}", "100"]
    return same, other


def _integer(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.choice((1, 1, 1, -1)) * rng.randint(2, 99_999)
    return str(n), *_integer_answers(n, rng)


def _decimal(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(1, 99), rng.randint(1, 9) * 10 + rng.randint(1, 9)
    gold = f"{a}.{b}"
    return (
        gold,
        [f"{a}.{b}0", f"\\frac{{{a * 100 + b}}}{{100}}", f"{a}{b}/100", f"{a},{b}",
         f"{a * 100 + b}\\%", f"y = {gold}", f"{a}{b} \\times 10^{{-2}}"],
        [f"{a}.{b + 1}", f"{a}.{b // 10}", f"{a + 1}.{b}", f"-{gold}", f"{a}{b}", f"{a}.0{b}",
         f"{gold}\\%", f"{a}; {b}", f"{gold} \\times 10^{{-1}}", f"{b}.{a}" if a != b else "0.5"],
    )  # fmt: skip


def _fraction(rng: Random) -> tuple[str, list[str], list[str]]:
    b = rng.choice((3, 7, 9, 11, 13))
    a = rng.choice([k for k in range(1, 40) if k % b and k * 2 % b and k % 3 and k != b])
    sign = rng.choice(("", "-"))
    gold = f"{sign}\\frac{{{a}}}{{{b}}}"
    same = [f"{sign}{a}/{b}", f"{sign}\\dfrac{{{2 * a}}}{{{2 * b}}}", f"\\frac{{{sign}{a}}}{{{b}}}",
            f"{sign}\\tfrac{{{3 * a}}}{{{3 * b}}}", f"x = {sign}\\frac{{{a}}}{{{b}}}"]  # fmt: skip
    if a > b:
        same += [f"{sign}{a // b} \\frac{{{a % b}}}{{{b}}}", f"{sign}{a // b} {a % b}/{b}"]
    minus = "" if sign else "-"
    return (
        gold,
        same,
        [f"{minus}\\frac{{{a}}}{{{b}}}", f"{sign}\\frac{{{b}}}{{{a}}}",
         f"{sign}\\frac{{{a + b}}}{{{b}}}", f"{sign}\\frac{{{a}}}{{{b + 1}}}",
         f"{sign}\\frac{{{a + 1}}}{{{b}}}", f"{sign}{a / b:.4f}", f"{sign}{a}",
         f"{sign}{a}:{b}", f"{sign}\\frac{{{a}}}{{{b}}}\\%", f"{sign}1\\frac{{{a % b}}}{{{b}}}"
         if a // b != 1 else f"{sign}2\\frac{{{a % b}}}{{{b}}}"],
    )  # fmt: skip


def _mixed(rng: Random) -> tuple[str, list[str], list[str]]:
    w, b = rng.randint(1, 19), rng.choice((3, 5, 7, 11))
    a = rng.randint(1, b - 1)
    top = w * b + a
    return (
        f"{w}\\frac{{{a}}}{{{b}}}",
        [f"{w} {a}/{b}", f"{top}/{b}", f"\\frac{{{top}}}{{{b}}}", f"{w} \\frac{{{a}}}{{{b}}}"],
        [f"{w}{a}/{b}", f"{w + 1}\\frac{{{a}}}{{{b}}}", f"-{w}\\frac{{{a}}}{{{b}}}", f"{w}",
         f"\\frac{{{a}}}{{{b}}}", f"\\frac{{{top + 1}}}{{{b}}}", f"{w} \\cdot {a}/{b + 1}",
         f"{w}\\frac{{{b}}}{{{a}}}", f"\\frac{{{b}}}{{{top}}}", f"{w}.{a}{b}"],
    )  # fmt: skip


def _repeating(rng: Random) -> tuple[str, list[str], list[str]]:
    a = rng.choice((1, 2, 4, 5, 7, 8))
    return (
        f"0.\\overline{{{a}}}",
        [f"\\frac{{{a}}}{{9}}", f"{a}/9", f"0.{a}\\overline{{{a}}}", f"0.\\overline{{{a}{a}}}"],
        [f"0.{a}", f"0.{a}{a}{a}", f"0.\\overline{{{a + 1}}}", f"{a}/10", f"{a}.\\overline{{{a}}}",
         f"-0.\\overline{{{a}}}", f"0.0\\overline{{{a}}}", f"\\overline{{{a}}}", f"{a}/99",
         f"0.\\overline{{{a}0}}"],
    )  # fmt: skip


def _scientific(rng: Random) -> tuple[str, list[str], list[str]]:
    a, e = rng.randint(11, 98), rng.choice((-12, -9, -7, 8, 11, 15))
    m = f"{a // 10}.{a % 10 or 3}"
    return (
        f"{m} \\times 10^{{{e}}}",
        [f"{m} \\cdot 10^{{{e}}}", f"{m}e{e}", f"{m.replace('.', '')} \\times 10^{{{e - 1}}}",
         f"{m}0 \\times 10^{{{e}}}", f"{m}×10^{{{e}}}"],
        [f"{m} \\times 10^{{{e + 1}}}", f"{m} \\times 10^{{{-e}}}", f"{m}", f"-{m} \\times 10^{{{e}}}",
         f"{m}1 \\times 10^{{{e}}}", f"{m} \\times 10{e}", f"{m} \\times 2^{{{e}}}", "0",
         f"{m} + 10^{{{e}}}", f"10^{{{e}}}"],
    )  # fmt: skip


def _power(rng: Random) -> tuple[str, list[str], list[str]]:
    b, e = rng.choice((2, 3, 5, 7)), rng.randint(500, 2500)
    return (
        f"{b}^{{{e}}}-1",
        [f"-1+{b}^{{{e}}}", f"{b} \\cdot {b}^{{{e - 1}}}-1", f"{b}^{{{e - 2}}} \\cdot {b * b} - 1",
         f"-(1 - {b}^{{{e}}})"],
        [f"{b}^{{{e}}}", f"{b}^{{{e}}}+1", f"{b}^{{{e + 1}}}-1", f"{b}^{{{e}-1}}", f"{b + 1}^{{{e}}}-1",
         f"1-{b}^{{{e}}}", f"{b}^{{{e - 1}}}-1", f"{b}^{{{e}}}-2", f"{b}^{{-{e}}}-1", f"{b}{e}-1"],
    )  # fmt: skip


def _tiny(rng: Random) -> tuple[str, list[str], list[str]]:
    e, r = rng.randint(12, 60), rng.choice((2, 3, 5, 7))
    return (
        f"\\frac{{\\sqrt{{{r}}}}}{{10^{{{e}}}}}",
        [f"\\sqrt{{{r}}} \\cdot 10^{{-{e}}}", f"10^{{-{e}}}\\sqrt{{{r}}}",
         f"\\sqrt{{{r}}}/10^{{{e}}}", f"\\frac{{{r}}}{{10^{{{e}}}\\sqrt{{{r}}}}}"],
        ["0", f"\\frac{{\\sqrt{{{r + 1}}}}}{{10^{{{e}}}}}", f"\\frac{{\\sqrt{{{r}}}}}{{10^{{{e + 1}}}}}",
         f"-\\frac{{\\sqrt{{{r}}}}}{{10^{{{e}}}}}", f"\\frac{{{r}}}{{10^{{{e}}}}}",
         f"\\frac{{\\sqrt{{{r}}}}}{{10^{{{e}}}+1}}", f"\\frac{{\\sqrt[3]{{{r}}}}}{{10^{{{e}}}}}",
         f"\\sqrt{{{r}}}", f"10^{{-{e}}}", f"\\frac{{\\sqrt{{{r}}}}}{{2^{{{e}}}}}"],
    )  # fmt: skip


def _based(rng: Random) -> tuple[str, list[str], list[str]]:
    base = rng.choice((2, 3, 5, 7, 8))
    digits = "".join(str(rng.randrange(base)) for _ in range(4))
    gold, other = f"1{digits}_{{{base}}}", f"1{digits[:-1]}{(int(digits[-1]) + 1) % base}"
    word = {2: "two", 3: "three", 5: "five", 7: "seven", 8: "eight"}[base]
    return (
        gold,
        [f"1{digits}_{base}", f"1{digits}_{{\\text{{{word}}}}}", f"1{digits} \\text{{ base }} {base}",
         f"(1{digits})_{{{base}}}"],
        [f"1{digits}_{{{base + 1}}}", f"1{digits}_{{10}}", f"{other}_{{{base}}}", f"1{digits}",
         f"-1{digits}_{{{base}}}", f"1{digits}0_{{{base}}}", f"1{digits}^{{{base}}}",
         f"{int('1' + digits, base)}", f"1{digits}_{{{base + 2}}}", f"1{digits}_{{x}}"],
    )  # fmt: skip


def _percent(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(2, 98)
    return (
        f"{n}\\%",
        [f"{n} \\%", f"{n}%", f"{n} \\text{{ percent}}", f"0.{n:02d}", f"\\frac{{{n}}}{{100}}", f"{n}.0\\%"],
        [str(n), f"{n + 1}\\%", f"-{n}\\%", f"{n}0\\%", f"0.{n:02d}\\%", f"0.0{n:02d}", f"{n}^{{\\circ}}",
         f"{n}/10", f"{n}.5\\%", f"1{n}\\%"],
    )  # fmt: skip


def _unit(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(2, 500)
    short, long, wrong = rng.choice(
        (("cm", "centimeters", "m"), ("m", "meters", "km"), ("kg", "kilograms", "g"),
         ("h", "hours", "min"), ("cm^2", "square centimeters", "cm"))
    )  # fmt: skip
    gold = f"{n} \\text{{ {short}}}" if "^" not in short else f"{n} \\text{{ cm}}^2"
    return (
        gold,
        [f"{n} \\text{{ {long}}}", f"{n}\\ \\mathrm{{{short}}}", f"{n} {long}", f"{n}.0 \\text{{ {long}}}", f"{n}"],
        [f"{n} \\text{{ {wrong}}}", f"{n + 1} \\text{{ {short}}}", f"-{gold}", f"{n}0 \\text{{ {short}}}",
         f"{n} \\text{{ {short}}}^3", f"{n} \\text{{ lb}}", f"{n}.5 \\text{{ {short}}}", f"{n}\\%",
         f"{n} \\text{{ thousand {long}}}", f"{n} \\text{{ dollars}}"],
    )  # fmt: skip


def _money(rng: Random) -> tuple[str, list[str], list[str]]:
    n, c = rng.randint(1_000, 9_999), rng.randint(10, 98)
    gold = f"\\${n}.{c}"
    return (
        gold,
        [f"\\${n:,}.{c}", f"{n}.{c} \\text{{ dollars}}", f"{n}.{c}", f"${n:,}.{c}", f"{n}.{c}\\$"],
        [f"\\${n}.{c + 1}", f"\\${n}", f"€{n}.{c}", f"-\\${n}.{c}", f"\\${n}{c}", f"\\${n + 1}.{c}",
         f"{n}.{c} \\text{{ cents}}", f"\\${n}.{c} \\text{{ thousand}}", f"\\${n // 10}.{c}", f"{n}.{c}\\%"],
    )  # fmt: skip


def _angle(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(2, 179)
    return (
        f"{n}^\\circ",
        [f"{n}^{{\\circ}}", f"{n}°", f"{n} \\text{{ degrees}}", f"{n}\\degree", f"x = {n}^\\circ"],
        [f"{n + 1}^\\circ", f"-{n}^\\circ", f"{n} \\text{{ radians}}", f"{n}\\pi", f"{n}^0", f"{n}'",
         f"{180 - n if n != 90 else 91}^\\circ", f"{n}0^\\circ", f"\\frac{{{n}\\pi}}{{180}}", f"{n}\\%"],
    )  # fmt: skip


def _root(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(2, 19), rng.choice((2, 3, 5, 7, 11))
    return (
        f"{a}\\sqrt{{{b}}}",
        [f"\\sqrt{{{a * a * b}}}", f"{a} \\cdot \\sqrt{{{b}}}", f"\\sqrt{{{b}}} \\cdot {a}",
         f"{a}\\sqrt {b}" if b < 10 else f"{a}({b})^{{1/2}}", f"\\frac{{{a * b}}}{{\\sqrt{{{b}}}}}",
         f"{a}√{{{b}}}"],
        [f"{a}\\sqrt{{{b + 1}}}", f"{a + 1}\\sqrt{{{b}}}", f"-{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * b}}}",
         f"{a}\\sqrt[3]{{{b}}}", f"{a}+\\sqrt{{{b}}}", f"{a * b**0.5:.3f}", f"{b}\\sqrt{{{a}}}"
         if a != b else "1", f"\\frac{{{a}}}{{\\sqrt{{{b}}}}}", f"\\pm {a}\\sqrt{{{b}}}"],
    )  # fmt: skip


def _pi(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.choice((5, 7, 11, 13)), rng.choice((2, 3, 4, 6))
    return (
        f"\\frac{{{a}\\pi}}{{{b}}}",
        [f"\\frac{{{a}}}{{{b}}}\\pi", f"{a}\\pi/{b}", f"\\pi \\cdot \\frac{{{a}}}{{{b}}}", f"\\frac{{{a}π}}{{{b}}}"],
        [f"\\frac{{{a + 1}\\pi}}{{{b}}}", f"\\frac{{{a}\\pi}}{{{b + 1}}}", f"-\\frac{{{a}\\pi}}{{{b}}}",
         f"\\frac{{{a}}}{{{b}\\pi}}", f"\\frac{{{a}}}{{{b}}}", f"{a * 3.14159 / b:.5f}", f"\\frac{{{a}\\pi^2}}{{{b}}}",
         f"\\frac{{{b}\\pi}}{{{a}}}", f"{a}\\pi", f"\\frac{{{a}p}}{{{b}}}"],
    )  # fmt: skip


def _polynomial(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample(range(1, 12), 2)
    s, p = a + b, a * b
    return (
        f"x^2+{s}x+{p}",
        [f"(x+{a})(x+{b})", f"{p}+{s}x+x^2", f"x^{{2}} + {s} \\cdot x + {p}", f"x(x+{s})+{p}", f"x²+{s}x+{p}"],
        [f"x^2+{s}x-{p}", f"x^2-{s}x+{p}", f"x^3+{s}x+{p}", f"(x-{a})(x-{b})", f"x^2+{s}x+{p + 1}",
         f"x^2+{s + 1}x+{p}", f"y^2+{s}y+{p}", f"x_2+{s}x+{p}", f"x^2+{s}x+{p}=0", f"2x^2+{s}x+{p}"],
    )  # fmt: skip


def _function(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample(range(2, 10), 2)
    kind = rng.choice(("\\sin", "\\cos", "\\ln", "\\tan"))
    wrong = {"\\sin": "\\cos", "\\cos": "\\sin", "\\ln": "\\log_2", "\\tan": "\\cot"}[kind]
    return (
        f"{a}{kind} x+{b}",
        [f"{b}+{a}{kind} x", f"{a}{kind}(x)+{b}", f"{a} \\cdot {kind}{{x}} + {b}",
         f"{a}\\operatorname{{{kind[1:]}}}(x)+{b}"],
        [f"{a}{wrong} x+{b}", f"{a}{kind} (x+{b})", f"{a + 1}{kind} x+{b}", f"{a}{kind} x-{b}", f"{b}{kind} x+{a}",
         f"{a}{kind} {a}x+{b}", f"{a}{kind}^2 x+{b}", f"{kind} x+{b}", f"{a}{kind} y+{b}", f"{a}x+{b}"],
    )  # fmt: skip


def _logarithm(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample((2, 3, 5, 7, 11), 2)
    return (
        f"\\log_{{{a}}} {b}",
        [f"\\frac{{\\ln {b}}}{{\\ln {a}}}", f"\\log_{a if a < 10 else {a}}({b})".replace("{11}", "{11}"),
         f"\\frac{{\\log {b}}}{{\\log {a}}}", f"\\frac{{1}}{{\\log_{{{b}}} {a}}}"],
        [f"\\log_{{{b}}} {a}", f"\\log_{{{a + 1}}} {b}", f"\\log {b}", f"\\ln {b}", f"-\\log_{{{a}}} {b}",
         f"\\log_{{{a}}} {b + 1}", f"\\frac{{{b}}}{{{a}}}", f"\\log_{{{a}}} {a * b}", f"{a}^{b}", f"\\log {a}{b}"],
    )  # fmt: skip


def _complex(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample(range(2, 15), 2)
    return (
        f"{a}+{b}i",
        [f"{b}i+{a}", f"{a} + {b} i", f"-(-{a}-{b}i)", f"{a}-{b}i^3"],
        [f"{a}-{b}i", f"{b}+{a}i", f"-{a}+{b}i", f"{a}+{b}", f"{a}+{b}j", f"{a + 1}+{b}i", f"{a}+{b + 1}i", f"{a}{b}i",
         f"({a},{b})", f"{a}+{b}i^2"],
    )  # fmt: skip


def _factorial(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(21, 60)
    return (
        f"{n}!",
        [f"{n} \\cdot {n - 1}!", f"{n - 1}! \\cdot {n}", f"\\frac{{{n + 1}!}}{{{n + 1}}}", f"({n})!"],
        [str(n), f"{n + 1}!", f"{n - 1}!", f"-{n}!", f"{n}!!", f"{n}^{{{n}}}", f"({n}!)!", f"{n}! + 1", f"\\frac{{{n}!}}{{2}}", f"!{n}"],
    )  # fmt: skip


def _named(rng: Random) -> tuple[str, list[str], list[str]]:
    name, n = rng.choice(("x", "A", "C", "k", "a_1", "\\alpha")), rng.randint(2, 400)
    wrong = {"x": "y", "A": "B", "C": "D", "k": "m", "a_1": "a_2", "\\alpha": "\\beta"}[name]
    return (
        f"{name} = {n}",
        [str(n), f"{name}={n}", f"{name} = {n}.0", f"{name} = {n - 1} + 1 = {n}"],
        [f"{wrong} = {n}", f"{name} = {n + 1}", f"{name} = -{n}", name, f"{name} \\ne {n}", f"{name} > {n}",
         f"{name} = {n}, {name} = {n + 1}", f"{name} = {n + 1} = {n}", str(n + 1), f"2{name} = {2 * n}"],
    )  # fmt: skip


def _equation(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample(range(2, 12), 2)
    c = rng.randint(13, 40)
    return (
        f"{a}x+{b}y={c}",
        [f"{b}y+{a}x={c}", f"{c}={a}x+{b}y", f"{2 * a}x+{2 * b}y={2 * c}", f"{a}x+{b}y-{c}=0", f"{a}x = {c} - {b}y"],
        [f"{a}x-{b}y={c}", f"{b}x+{a}y={c}", f"{a}x+{b}y={c + 1}", f"{a}x+{b}y", f"{a}x+{b}y<{c}", f"{a}x+{b}y=-{c}",
         f"{a}x+{b}z={c}", str(c), f"{a}x^2+{b}y={c}", f"{a}x+{b}y\\ne {c}"],
    )  # fmt: skip


def _line(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample(range(2, 12), 2)
    return (
        f"y = {a}x + {b}",
        [f"y={b}+{a}x", f"{a}x+{b}", f"y - {b} = {a}x", f"{a}x - y + {b} = 0"],
        [f"y = {a}x - {b}", f"y = {b}x + {a}", f"x = {a}y + {b}", f"y = -{a}x + {b}", f"y = {a}x^2 + {b}", f"y = {a + 1}x + {b}",
         f"y > {a}x + {b}", f"y = {a}x", f"{a}x - {b}", f"y \\ne {a}x + {b}"],
    )  # fmt: skip


def _choice(rng: Random) -> tuple[str, list[str], list[str]]:
    letter = rng.choice("ABCDE")
    rest = [c for c in "ABCDE" if c != letter]
    return (
        f"({letter})",
        [letter, f"\\text{{({letter})}}", f"{letter}.", f"({letter}) 12", f"{letter}: 12", f"\\text{{{letter}}}",
         f"\\textbf{{({letter})}}"],
        [*(f"({c})" for c in rest), f"{letter}, {rest[0]}", f"({letter}) \\text{{ or }} ({rest[1]})", f"{letter} = 12",
         f"{letter} {rest[0]}", "ABCDE", f"\\text{{{letter} bird}}"],
    )  # fmt: skip


def _word(rng: Random) -> tuple[str, list[str], list[str]]:
    words = ["Monday", "odd", "undefined", "none", "no solution", "Yes", "a square", "isosceles", "infinity", "tails"]
    gold = rng.choice(words)
    return (
        gold if rng.random() < 0.5 else f"\\text{{{gold}}}",
        [f"\\text{{{gold}}}", gold.capitalize(), f"\\textbf{{{gold}}}", gold.lower(), f"\\mathrm{{{gold}}}"],
        [*(w for w in words if w != gold), f"not {gold}", f"{gold} or even"],
    )  # fmt: skip


def _list(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b, c = sorted(rng.sample(range(-30, 99), 3))
    return (
        f"{a}, {b}, {c}",
        [f"{c},{a},{b}", f"{a}, {b}, \\text{{ and }} {c}", f"\\{{{b}, {a}, {c}\\}}", f"{a}; {b}; {c}",
         f"{a}, {b} and {c}", f"x = {a}, x = {b}, x = {c}", f"{a}、{b}、{c}"],
        [f"{a}, {b}", f"{a}, {b}, {c + 1}", f"({a}, {b}, {c})", f"{a}, {b}, {c}, {c + 1}", f"{a}, {b}, {-c if c else 1}",
         f"{a}, {a}, {c}", f"{b}, {c}", f"x = {a}, y = {c}, z = {b}", f"[{a}, {b}, {c}]", f"{a - 1}, {b}, {c}"],
    )  # fmt: skip


def _named_list(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample(range(2, 60), 2)
    return (
        f"x={a}, y={b}",
        [f"y={b}, x={a}", f"x = {a} \\text{{ and }} y = {b}", f"(x, y) = ({a}, {b})", f"x={a}; y={b}"],
        [f"x={b}, y={a}", f"{b}, {a}", f"x={a}, y={b + 1}", f"x={a}", f"({b}, {a})", f"x={a}, z={b}", f"y={a}, x={b}",
         f"x={a}, x={b}", f"x=-{a}, y={b}", f"x={a + 1}, y={b}"],
    )  # fmt: skip


def _plus_minus(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(1, 30), rng.choice((2, 3, 5, 7))
    return (
        f"{a} \\pm \\sqrt{{{b}}}",
        [f"{a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}}", f"{a}-\\sqrt{{{b}}}, {a}+\\sqrt{{{b}}}", f"x = {a} \\pm \\sqrt{{{b}}}",
         f"\\{{{a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}}\\}}", f"{a} ± \\sqrt{{{b}}}", f"{a} \\mp \\sqrt{{{b}}}"],
        [f"{a}+\\sqrt{{{b}}}", f"{a}-\\sqrt{{{b}}}", f"{a} \\pm \\sqrt{{{b + 1}}}", f"{a + 1} \\pm \\sqrt{{{b}}}", f"\\pm \\sqrt{{{b}}}",
         f"-{a} \\pm \\sqrt{{{b}}}", f"({a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}})", f"{a} \\pm {b}", f"{a}", f"\\pm {a} \\sqrt{{{b}}}"],
    )  # fmt: skip


def _set(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = sorted(rng.sample(range(-20, 40), 2))
    return (
        f"\\{{{a}, {b}\\}}",
        [f"\\{{{b}, {a}\\}}", f"\\left\\{{{a}, {b}\\right\\}}", f"x \\in \\{{{a}, {b}\\}}", f"\\lbrace {a}, {b} \\rbrace", f"{a}, {b}"],
        [f"({a}, {b})", f"[{a}, {b}]", f"\\{{{a}\\}}", f"\\{{{a}, {b + 1}\\}}", f"\\{{{a}, {b}, {b + 1}\\}}", f"{a}", f"x \\notin \\{{{a}, {b}\\}}",
         f"{a} < x < {b}", f"\\{{{a - 1}, {b}\\}}", "\\emptyset"],
    )  # fmt: skip


def _point(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(-9, 9), rng.randint(10, 30)
    return (
        f"({a}, \\frac{{1}}{{{b}}})",
        [f"\\left({a}, \\frac{{1}}{{{b}}}\\right)", f"({a}, 1/{b})", f"({a},\\dfrac{{2}}{{{2 * b}}})", f"({a}.0, \\frac{{1}}{{{b}}})",
         f"(x, y) = ({a}, 1/{b})"],
        [f"(\\frac{{1}}{{{b}}}, {a})", f"({a}, {b})", f"[{a}, \\frac{{1}}{{{b}}}]", f"({a + 1}, \\frac{{1}}{{{b}}})", f"({a}, -\\frac{{1}}{{{b}}})",
         f"({a}, \\frac{{1}}{{{b + 1}}})", f"\\{{{a}, \\frac{{1}}{{{b}}}\\}}", f"({a}, \\frac{{1}}{{{b}}}, 0)", f"({a})", f"{a}"],
    )  # fmt: skip


def _interval(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = sorted(rng.sample(range(-40, 40), 2))
    return (
        f"({a}, {b}]",
        [f"\\left({a}, {b}\\right]", f"{a} < x \\le {b}", f"{b} \\ge x > {a}", f"x \\in ({a}, {b}]", f"{a} < x \\leqslant {b}", f"({a}, {b}.0]"],
        [f"[{a}, {b}]", f"({a}, {b})", f"[{a}, {b})", f"({a}, {b + 1}]", f"({a - 1}, {b}]", f"{a} \\le x < {b}", f"({b}, {a}]", f"x \\le {b}",
         f"{a} < x < {b}", f"\\{{{a}, {b}\\}}"],
    )  # fmt: skip


def _union(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = sorted(rng.sample(range(-40, 40), 2))
    return (
        f"(-\\infty, {a}) \\cup [{b}, \\infty)",
        [f"[{b}, \\infty) \\cup (-\\infty, {a})", f"x < {a} \\text{{ or }} x \\ge {b}", f"(-\\infty,{a})∪[{b},∞)",
         f"x \\in (-\\infty, {a}) \\cup [{b}, +\\infty)", f"x \\geq {b} \\text{{ or }} x < {a}"],
        [f"(-\\infty, {a}] \\cup [{b}, \\infty)", f"(-\\infty, {a}) \\cup ({b}, \\infty)", f"(-\\infty, {a}) \\cap [{b}, \\infty)",
         f"({a}, {b}]", f"(-\\infty, {a})", f"[{b}, \\infty)", f"x < {a} \\text{{ and }} x \\ge {b}", f"(-\\infty, {a - 1}) \\cup [{b}, \\infty)",
         f"(-\\infty, {a}) \\cup [{b + 1}, \\infty)", f"(-\\infty, {b}) \\cup [{a}, \\infty)"],
    )  # fmt: skip


def _inequality(rng: Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(2, 90)
    return (
        f"x \\ge {n}",
        [f"x \\geq {n}", f"{n} \\le x", f"x >= {n}", f"[{n}, \\infty)", f"x ≥ {n}", f"x \\geqslant {n}", f"\\{{x \\mid x \\ge {n}\\}}"],
        [f"x > {n}", f"x \\le {n}", f"x \\ge {n + 1}", f"x \\ge -{n}", f"y \\ge {n}", f"x = {n}", f"({n}, \\infty)", str(n), f"x \\ne {n}", f"{n} \\ge x"],
    )  # fmt: skip


def _matrix(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b, c, d = rng.sample(range(-12, 30), 4)

    def form(w: int, x: int, y: int, z: int, kind: str = "pmatrix", end: str = "\\\\") -> str:
        return f"\\begin{{{kind}}} {w} & {x} {end} {y} & {z} \\end{{{kind}}}"

    return (
        form(a, b, c, d),
        [form(a, b, c, d, "bmatrix"), form(a, b, c, d, end="\\\\[4pt]"), f"\\begin{{pmatrix}}{a}&{b}\\\\{c}&{d}\\end{{pmatrix}}",
         f"\\left[\\begin{{array}}{{cc}} {a} & {b} \\\\ {c} & {d} \\end{{array}}\\right]",
         f"\\left(\\begin{{matrix}} {a} & {b} \\\\ {c} & {d} \\end{{matrix}}\\right)"],
        [form(a, c, b, d), form(b, a, c, d), form(a, b, c, d + 1), form(a + 1, b, c, d), form(a, b, c, d, "vmatrix"),
         f"\\begin{{pmatrix}} {a} & {b} & {c} & {d} \\end{{pmatrix}}", form(c, d, a, b), f"\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}",
         f"2{form(a, b, c, d)}" if any((a, b, c, d)) else "1", form(a, b, c, d) + "^T"],
    )  # fmt: skip


def _ratio(rng: Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.sample((2, 3, 5, 7, 11, 13), 2)
    return (
        f"{a}:{b}",
        [f"{a} : {b}", f"{a}\\colon {b}", f"{a}∶{b}", f"{a}.0:{b}"],
        [f"{b}:{a}", f"{a}:{b + 1}", f"{a}/{b}", f"{a}, {b}", f"{a + 1}:{b}", f"-{a}:{b}", f"{a}{b}", f"{a}:{b}:1", f"({a}, {b})", str(a)],
    )  # fmt: skip


def _congruence(rng: Random) -> tuple[str, list[str], list[str]]:
    m = rng.randint(5, 40)
    a = rng.randint(1, m - 2)
    return (
        f"x \\equiv {a} \\pmod{{{m}}}",
        [f"x≡{a} \\pmod{{{m}}}", f"x \\equiv {a} \\pmod {{{m}}}", f"x \\equiv {a} (\\mod {m})", f"x \\equiv {a} \\bmod {m}"],
        [f"x \\equiv {a + 1} \\pmod{{{m}}}", f"x \\equiv {a} \\pmod{{{m + 1}}}", f"x = {a}", f"{a}", f"y \\equiv {a} \\pmod{{{m}}}",
         f"x \\equiv -{a} \\pmod{{{m}}}" if 2 * a != m else "x", f"x \\equiv {m} \\pmod{{{a}}}", f"x \\equiv {a}", f"x \\not\\equiv {a} \\pmod{{{m}}}", f"{a} \\equiv {m}"],
    )  # fmt: skip


def _marked(rng: Random) -> tuple[str, list[str], list[str]]:
    v = rng.choice("abcxyz")
    gold, same, other = rng.choice(
        (
            (f"|{v}|+1", [f"1+|{v}|", f"\\lvert {v} \\rvert + 1", f"\\sqrt{{{v}^2}}+1"], [f"{v}+1", f"|{v}+1|", f"|{v}|", f"-|{v}|+1"]),
            (f"{v}_1+{v}_2", [f"{v}_2+{v}_1", f"{v}_{{1}} + {v}_{{2}}", f"{v}₁+{v}₂"], [f"{v}_1+{v}_3", f"2{v}_1", f"{v}+{v}", f"{v}_{{12}}", f"{v}_1-{v}_2"]),
            (f"f'({v})", [f"f' ({v})", f"f′({v})", f"1 \\cdot f'({v})"], [f"f({v})", f"f''({v})", f"f'({v}+1)", f"f^{{-1}}({v})"]),
            (f"\\lfloor {v} \\rfloor", [f"\\left\\lfloor {v} \\right\\rfloor", f"\\lfloor {{{v}}} \\rfloor", f"1 + \\lfloor {v} - 1 \\rfloor"], [f"\\lceil {v} \\rceil", v, f"|{v}|", f"[{v}]"]),
            (f"\\overline{{{v}}}", [f"\\overline{{ {v} }}", f"\\overline {{{v}}}"], [v, f"\\underline{{{v}}}", f"\\vec{{{v}}}", f"\\hat{{{v}}}", f"-{v}"]),
        )
    )  # fmt: skip
    return gold, same, [*other, f"{v}!", f"2{v}", f"\\{{{v}\\}}", f"{v}^3", f"\\frac{{1}}{{{v}}}", "0"]


_FORMS: dict[str, Callable[[Random], tuple[str, list[str], list[str]]]] = {
    "integer": _integer, "decimal": _decimal, "fraction": _fraction, "mixed number": _mixed,
    "repeating decimal": _repeating, "scientific": _scientific, "large power": _power, "tiny value": _tiny,
    "number in a base": _based, "percent": _percent, "unit": _unit, "money": _money, "angle": _angle,
    "root": _root, "multiple of pi": _pi, "polynomial": _polynomial, "function": _function,
    "logarithm": _logarithm, "complex": _complex, "factorial": _factorial, "name = value": _named,
    "equation": _equation, "line": _line, "choice": _choice, "word": _word, "list": _list,
    "list of names": _named_list, "plus-minus": _plus_minus, "set": _set, "point": _point,
    "interval": _interval, "union": _union, "inequality": _inequality, "matrix": _matrix,
    "ratio": _ratio, "congruence": _congruence, "marks": _marked,
}  # fmt: skip
FORMS = tuple(_FORMS)
