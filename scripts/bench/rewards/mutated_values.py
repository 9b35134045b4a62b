r"""Numbers and formulas of the mutation study, right and wrong by construction."""

from random import Random

Made = tuple[str, list[str], list[str]]
"""A reference, rewritings of it, near misses."""


def integer_answers(n: int, rng: Random) -> tuple[list[str], list[str]]:
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


def integer(rng: Random) -> Made:
    n = rng.choice((1, 1, 1, -1)) * rng.randint(2, 99_999)
    return str(n), *integer_answers(n, rng)


def decimal(rng: Random) -> Made:
    a, b = rng.randint(1, 99), rng.randint(1, 9) * 10 + rng.randint(1, 9)
    gold = f"{a}.{b}"
    return (
        gold,
        [f"{a}.{b}0", f"\\frac{{{a * 100 + b}}}{{100}}", f"{a}{b}/100", f"{a},{b}",
         f"{a * 100 + b}\\%", f"y = {gold}", f"{a}{b} \\times 10^{{-2}}"],
        [f"{a}.{b + 1}", f"{a}.{b // 10}", f"{a + 1}.{b}", f"-{gold}", f"{a}{b}", f"{a}.0{b}",
         f"{gold}\\%", f"{a}; {b}", f"{gold} \\times 10^{{-1}}", f"{b}.{a}" if a != b else "0.5"],
    )  # fmt: skip


def fraction(rng: Random) -> Made:
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


def mixed(rng: Random) -> Made:
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


def repeating(rng: Random) -> Made:
    a = rng.choice((1, 2, 4, 5, 7, 8))
    return (
        f"0.\\overline{{{a}}}",
        [f"\\frac{{{a}}}{{9}}", f"{a}/9", f"0.{a}\\overline{{{a}}}", f"0.\\overline{{{a}{a}}}"],
        [f"0.{a}", f"0.{a}{a}{a}", f"0.\\overline{{{a + 1}}}", f"{a}/10", f"{a}.\\overline{{{a}}}",
         f"-0.\\overline{{{a}}}", f"0.0\\overline{{{a}}}", f"\\overline{{{a}}}", f"{a}/99",
         f"0.\\overline{{{a}0}}"],
    )  # fmt: skip


def scientific(rng: Random) -> Made:
    a, e = rng.randint(11, 98), rng.choice((-12, -9, -7, 8, 11, 15))
    m = f"{a // 10}.{a % 10 or 3}"
    return (
        f"{m} \\times 10^{{{e}}}",
        [f"{m} \\cdot 10^{{{e}}}", f"{m}e{e}", f"{m.replace('.', '')} \\times 10^{{{e - 1}}}",
         f"{m}0 \\times 10^{{{e}}}", f"{m}\u00d710^{{{e}}}"],
        [f"{m} \\times 10^{{{e + 1}}}", f"{m} \\times 10^{{{-e}}}", f"{m}",
        f"-{m} \\times 10^{{{e}}}",
         f"{m}1 \\times 10^{{{e}}}", f"{m} \\times 10{e}", f"{m} \\times 2^{{{e}}}", "0",
         f"{m} + 10^{{{e}}}", f"10^{{{e}}}"],
    )  # fmt: skip


def power(rng: Random) -> Made:
    b, e = rng.choice((2, 3, 5, 7)), rng.randint(500, 2500)
    return (
        f"{b}^{{{e}}}-1",
        [f"-1+{b}^{{{e}}}", f"{b} \\cdot {b}^{{{e - 1}}}-1", f"{b}^{{{e - 2}}} \\cdot {b * b} - 1",
         f"-(1 - {b}^{{{e}}})"],
        [f"{b}^{{{e}}}", f"{b}^{{{e}}}+1", f"{b}^{{{e + 1}}}-1", f"{b}^{{{e}-1}}",
        f"{b + 1}^{{{e}}}-1",
         f"1-{b}^{{{e}}}", f"{b}^{{{e - 1}}}-1", f"{b}^{{{e}}}-2", f"{b}^{{-{e}}}-1", f"{b}{e}-1"],
    )  # fmt: skip


def tiny(rng: Random) -> Made:
    e, r = rng.randint(12, 60), rng.choice((2, 3, 5, 7))
    return (
        f"\\frac{{\\sqrt{{{r}}}}}{{10^{{{e}}}}}",
        [f"\\sqrt{{{r}}} \\cdot 10^{{-{e}}}", f"10^{{-{e}}}\\sqrt{{{r}}}",
         f"\\sqrt{{{r}}}/10^{{{e}}}", f"\\frac{{{r}}}{{10^{{{e}}}\\sqrt{{{r}}}}}"],
        ["0", f"\\frac{{\\sqrt{{{r + 1}}}}}{{10^{{{e}}}}}",
        f"\\frac{{\\sqrt{{{r}}}}}{{10^{{{e + 1}}}}}",
         f"-\\frac{{\\sqrt{{{r}}}}}{{10^{{{e}}}}}", f"\\frac{{{r}}}{{10^{{{e}}}}}",
         f"\\frac{{\\sqrt{{{r}}}}}{{10^{{{e}}}+1}}", f"\\frac{{\\sqrt[3]{{{r}}}}}{{10^{{{e}}}}}",
         f"\\sqrt{{{r}}}", f"10^{{-{e}}}", f"\\frac{{\\sqrt{{{r}}}}}{{2^{{{e}}}}}"],
    )  # fmt: skip


def based(rng: Random) -> Made:
    base = rng.choice((2, 3, 5, 7, 8))
    digits = "".join(str(rng.randrange(base)) for _ in range(4))
    gold, other = f"1{digits}_{{{base}}}", f"1{digits[:-1]}{(int(digits[-1]) + 1) % base}"
    word = {2: "two", 3: "three", 5: "five", 7: "seven", 8: "eight"}[base]
    return (
        gold,
        [f"1{digits}_{base}", f"1{digits}_{{\\text{{{word}}}}}",
        f"1{digits} \\text{{ base }} {base}",
         f"(1{digits})_{{{base}}}"],
        [f"1{digits}_{{{base + 1}}}", f"1{digits}_{{10}}", f"{other}_{{{base}}}", f"1{digits}",
         f"-1{digits}_{{{base}}}", f"1{digits}0_{{{base}}}", f"1{digits}^{{{base}}}",
         f"{int('1' + digits, base)}", f"1{digits}_{{{base + 2}}}", f"1{digits}_{{x}}"],
    )  # fmt: skip


def percent(rng: Random) -> Made:
    n = rng.randint(2, 98)
    return (
        f"{n}\\%",
        [f"{n} \\%", f"{n}%", f"{n} \\text{{ percent}}", f"0.{n:02d}", f"\\frac{{{n}}}{{100}}",
        f"{n}.0\\%"],
        [str(n), f"{n + 1}\\%", f"-{n}\\%", f"{n}0\\%", f"0.{n:02d}\\%", f"0.0{n:02d}",
        f"{n}^{{\\circ}}",
         f"{n}/10", f"{n}.5\\%", f"1{n}\\%"],
    )  # fmt: skip


def unit(rng: Random) -> Made:
    n = rng.randint(2, 500)
    short, long, wrong = rng.choice(
        (("cm", "centimeters", "m"), ("m", "meters", "km"), ("kg", "kilograms", "g"),
         ("h", "hours", "min"), ("cm^2", "square centimeters", "cm"))
    )  # fmt: skip
    gold = f"{n} \\text{{ {short}}}" if "^" not in short else f"{n} \\text{{ cm}}^2"
    return (
        gold,
        [f"{n} \\text{{ {long}}}", f"{n}\\ \\mathrm{{{short}}}", f"{n} {long}",
        f"{n}.0 \\text{{ {long}}}", f"{n}"],
        [f"{n} \\text{{ {wrong}}}", f"{n + 1} \\text{{ {short}}}", f"-{gold}",
        f"{n}0 \\text{{ {short}}}",
         f"{n} \\text{{ {short}}}^3", f"{n} \\text{{ lb}}", f"{n}.5 \\text{{ {short}}}", f"{n}\\%",
         f"{n} \\text{{ thousand {long}}}", f"{n} \\text{{ dollars}}"],
    )  # fmt: skip


def money(rng: Random) -> Made:
    n, c = rng.randint(1_000, 9_999), rng.randint(10, 98)
    gold = f"\\${n}.{c}"
    return (
        gold,
        [f"\\${n:,}.{c}", f"{n}.{c} \\text{{ dollars}}", f"{n}.{c}", f"${n:,}.{c}", f"{n}.{c}\\$"],
        [f"\\${n}.{c + 1}", f"\\${n}", f"€{n}.{c}", f"-\\${n}.{c}", f"\\${n}{c}", f"\\${n + 1}.{c}",
         f"{n}.{c} \\text{{ cents}}", f"\\${n}.{c} \\text{{ thousand}}", f"\\${n // 10}.{c}",
         f"{n}.{c}\\%"],
    )  # fmt: skip


def angle(rng: Random) -> Made:
    n = rng.randint(2, 179)
    return (
        f"{n}^\\circ",
        [f"{n}^{{\\circ}}", f"{n}°", f"{n} \\text{{ degrees}}", f"{n}\\degree", f"x = {n}^\\circ"],
        [f"{n + 1}^\\circ", f"-{n}^\\circ", f"{n} \\text{{ radians}}", f"{n}\\pi", f"{n}^0",
        f"{n}'",
         f"{180 - n if n != 90 else 91}^\\circ", f"{n}0^\\circ", f"\\frac{{{n}\\pi}}{{180}}",
         f"{n}\\%"],
    )  # fmt: skip


def root(rng: Random) -> Made:
    a, b = rng.randint(2, 19), rng.choice((2, 3, 5, 7, 11))
    return (
        f"{a}\\sqrt{{{b}}}",
        [f"\\sqrt{{{a * a * b}}}", f"{a} \\cdot \\sqrt{{{b}}}", f"\\sqrt{{{b}}} \\cdot {a}",
         f"{a}\\sqrt {b}" if b < 10 else f"{a}({b})^{{1/2}}", f"\\frac{{{a * b}}}{{\\sqrt{{{b}}}}}",
         f"{a}√{{{b}}}"],
        [f"{a}\\sqrt{{{b + 1}}}", f"{a + 1}\\sqrt{{{b}}}", f"-{a}\\sqrt{{{b}}}",
        f"\\sqrt{{{a * b}}}",
         f"{a}\\sqrt[3]{{{b}}}", f"{a}+\\sqrt{{{b}}}", f"{a * b**0.5:.3f}", f"{b}\\sqrt{{{a}}}"
         if a != b else "1", f"\\frac{{{a}}}{{\\sqrt{{{b}}}}}", f"\\pm {a}\\sqrt{{{b}}}"],
    )  # fmt: skip


def pi(rng: Random) -> Made:
    a, b = rng.choice((5, 7, 11, 13)), rng.choice((2, 3, 4, 6))
    return (
        f"\\frac{{{a}\\pi}}{{{b}}}",
        [f"\\frac{{{a}}}{{{b}}}\\pi", f"{a}\\pi/{b}", f"\\pi \\cdot \\frac{{{a}}}{{{b}}}",
        f"\\frac{{{a}π}}{{{b}}}"],
        [f"\\frac{{{a + 1}\\pi}}{{{b}}}", f"\\frac{{{a}\\pi}}{{{b + 1}}}",
        f"-\\frac{{{a}\\pi}}{{{b}}}",
         f"\\frac{{{a}}}{{{b}\\pi}}", f"\\frac{{{a}}}{{{b}}}", f"{a * 3.14159 / b:.5f}",
         f"\\frac{{{a}\\pi^2}}{{{b}}}",
         f"\\frac{{{b}\\pi}}{{{a}}}", f"{a}\\pi", f"\\frac{{{a}p}}{{{b}}}"],
    )  # fmt: skip


def polynomial(rng: Random) -> Made:
    a, b = rng.sample(range(1, 12), 2)
    s, p = a + b, a * b
    return (
        f"x^2+{s}x+{p}",
        [f"(x+{a})(x+{b})", f"{p}+{s}x+x^2", f"x^{{2}} + {s} \\cdot x + {p}", f"x(x+{s})+{p}",
        f"x²+{s}x+{p}"],
        [f"x^2+{s}x-{p}", f"x^2-{s}x+{p}", f"x^3+{s}x+{p}", f"(x-{a})(x-{b})", f"x^2+{s}x+{p + 1}",
         f"x^2+{s + 1}x+{p}", f"y^2+{s}y+{p}", f"x_2+{s}x+{p}", f"x^2+{s}x+{p}=0",
         f"2x^2+{s}x+{p}"],
    )  # fmt: skip


def function(rng: Random) -> Made:
    a, b = rng.sample(range(2, 10), 2)
    kind = rng.choice(("\\sin", "\\cos", "\\ln", "\\tan"))
    wrong = {"\\sin": "\\cos", "\\cos": "\\sin", "\\ln": "\\log_2", "\\tan": "\\cot"}[kind]
    return (
        f"{a}{kind} x+{b}",
        [f"{b}+{a}{kind} x", f"{a}{kind}(x)+{b}", f"{a} \\cdot {kind}{{x}} + {b}",
         f"{a}\\operatorname{{{kind[1:]}}}(x)+{b}"],
        [f"{a}{wrong} x+{b}", f"{a}{kind} (x+{b})", f"{a + 1}{kind} x+{b}", f"{a}{kind} x-{b}",
        f"{b}{kind} x+{a}",
         f"{a}{kind} {a}x+{b}", f"{a}{kind}^2 x+{b}", f"{kind} x+{b}", f"{a}{kind} y+{b}",
         f"{a}x+{b}"],
    )  # fmt: skip


def logarithm(rng: Random) -> Made:
    a, b = rng.sample((2, 3, 5, 7, 11), 2)
    return (
        f"\\log_{{{a}}} {b}",
        [f"\\frac{{\\ln {b}}}{{\\ln {a}}}", f"\\log_{a if a < 10 else {a}}({b})".replace("{11}",
        "{11}"),
         f"\\frac{{\\log {b}}}{{\\log {a}}}", f"\\frac{{1}}{{\\log_{{{b}}} {a}}}"],
        [f"\\log_{{{b}}} {a}", f"\\log_{{{a + 1}}} {b}", f"\\log {b}", f"\\ln {b}",
        f"-\\log_{{{a}}} {b}",
         f"\\log_{{{a}}} {b + 1}", f"\\frac{{{b}}}{{{a}}}", f"\\log_{{{a}}} {a * b}", f"{a}^{b}",
         f"\\log {a}{b}"],
    )  # fmt: skip


def complex(rng: Random) -> Made:
    a, b = rng.sample(range(2, 15), 2)
    return (
        f"{a}+{b}i",
        [f"{b}i+{a}", f"{a} + {b} i", f"-(-{a}-{b}i)", f"{a}-{b}i^3"],
        [f"{a}-{b}i", f"{b}+{a}i", f"-{a}+{b}i", f"{a}+{b}", f"{a}+{b}j", f"{a + 1}+{b}i",
        f"{a}+{b + 1}i", f"{a}{b}i",
         f"({a},{b})", f"{a}+{b}i^2"],
    )  # fmt: skip


def factorial(rng: Random) -> Made:
    n = rng.randint(21, 60)
    return (
        f"{n}!",
        [f"{n} \\cdot {n - 1}!", f"{n - 1}! \\cdot {n}", f"\\frac{{{n + 1}!}}{{{n + 1}}}",
        f"({n})!"],
        [str(n), f"{n + 1}!", f"{n - 1}!", f"-{n}!", f"{n}!-1", f"{n}^{{{n}}}",
        f"\\frac{{{n}!}}{{3}}",
        f"{n}! + 1", f"\\frac{{{n}!}}{{2}}", f"!{n}"],
    )  # fmt: skip
