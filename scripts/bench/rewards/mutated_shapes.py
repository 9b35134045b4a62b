r"""Names, lists, sets, relations, matrices and words of the mutation study."""

from random import Random

Made = tuple[str, list[str], list[str]]
"""A reference, rewritings of it, near misses."""


def named(rng: Random) -> Made:
    name, n = rng.choice(("x", "A", "C", "k", "a_1", "\\alpha")), rng.randint(2, 400)
    wrong = {"x": "y", "A": "B", "C": "D", "k": "m", "a_1": "a_2", "\\alpha": "\\beta"}[name]
    return (
        f"{name} = {n}",
        [str(n), f"{name}={n}", f"{name} = {n}.0", f"{name} = {n - 1} + 1 = {n}"],
        [f"{wrong} = {n}", f"{name} = {n + 1}", f"{name} = -{n}", name, f"{name} \\ne {n}",
        f"{name} > {n}",
         f"{name} = {n}, {name} = {n + 1}", f"{name} = {n + 1} = {n}", str(n + 1),
         f"2{name} = {2 * n}"],
    )  # fmt: skip


def equation(rng: Random) -> Made:
    a, b = rng.sample(range(2, 12), 2)
    c = rng.randint(13, 40)
    return (
        f"{a}x+{b}y={c}",
        [f"{b}y+{a}x={c}", f"{c}={a}x+{b}y", f"{2 * a}x+{2 * b}y={2 * c}", f"{a}x+{b}y-{c}=0",
        f"{a}x = {c} - {b}y"],
        [f"{a}x-{b}y={c}", f"{b}x+{a}y={c}", f"{a}x+{b}y={c + 1}", f"{a}x+{b}y", f"{a}x+{b}y<{c}",
        f"{a}x+{b}y=-{c}",
         f"{a}x+{b}z={c}", str(c), f"{a}x^2+{b}y={c}", f"{a}x+{b}y\\ne {c}"],
    )  # fmt: skip


def line(rng: Random) -> Made:
    a, b = rng.sample(range(2, 12), 2)
    return (
        f"y = {a}x + {b}",
        [f"y={b}+{a}x", f"{a}x+{b}", f"y - {b} = {a}x", f"{a}x - y + {b} = 0"],
        [f"y = {a}x - {b}", f"y = {b}x + {a}", f"x = {a}y + {b}", f"y = -{a}x + {b}",
        f"y = {a}x^2 + {b}", f"y = {a + 1}x + {b}",
         f"y > {a}x + {b}", f"y = {a}x", f"{a}x - {b}", f"y \\ne {a}x + {b}"],
    )  # fmt: skip


def choice(rng: Random) -> Made:
    letter = rng.choice("ABCDE")
    rest = [c for c in "ABCDE" if c != letter]
    return (
        f"({letter})",
        [letter, f"\\text{{({letter})}}", f"{letter}.", f"({letter}) 12", f"{letter}: 12",
        f"\\text{{{letter}}}",
         f"\\textbf{{({letter})}}"],
        [*(f"({c})" for c in rest), f"{letter}, {rest[0]}",
        f"({letter}) \\text{{ or }} ({rest[1]})", f"{letter} = 12",
         f"{letter} {rest[0]}", "ABCDE", f"\\text{{{letter} bird}}"],
    )  # fmt: skip


def word(rng: Random) -> Made:
    words = [
        "Monday",
        "odd",
        "undefined",
        "none",
        "no solution",
        "Yes",
        "a square",
        "isosceles",
        "infinity",
        "tails",
    ]
    gold = rng.choice(words)
    return (
        gold if rng.random() < 0.5 else f"\\text{{{gold}}}",
        [f"\\text{{{gold}}}", gold.capitalize(), f"\\textbf{{{gold}}}", gold.lower(),
        f"\\mathrm{{{gold}}}"],
        [*(w for w in words if w != gold), f"not {gold}", f"{gold} or even"],
    )  # fmt: skip


def list(rng: Random) -> Made:
    a, b, c = sorted(rng.sample(range(-30, 99), 3))
    return (
        f"{a}, {b}, {c}",
        [f"{c},{a},{b}", f"{a}, {b}, \\text{{ and }} {c}", f"\\{{{b}, {a}, {c}\\}}",
        f"{a}; {b}; {c}",
         f"{a}, {b} and {c}", f"x = {a}, x = {b}, x = {c}", f"{a}、{b}、{c}"],
        [f"{a}, {b}", f"{a}, {b}, {c + 1}", f"({a}, {b}, {c})", f"{a}, {b}, {c}, {c + 1}",
        f"{a}, {b}, {-c if c else 1}",
         f"{a}, {a}, {c}", f"{b}, {c}", f"x = {a}, y = {c}, z = {b}", f"[{a}, {b}, {c}]",
         f"{a - 1}, {b}, {c}"],
    )  # fmt: skip


def named_list(rng: Random) -> Made:
    a, b = rng.sample(range(2, 60), 2)
    return (
        f"x={a}, y={b}",
        [f"y={b}, x={a}", f"x = {a} \\text{{ and }} y = {b}", f"(x, y) = ({a}, {b})",
        f"x={a}; y={b}"],
        [f"x={b}, y={a}", f"{b}, {a}", f"x={a}, y={b + 1}", f"x={a}", f"({b}, {a})",
        f"x={a}, z={b}", f"y={a}, x={b}",
         f"x={a}, x={b}", f"x=-{a}, y={b}", f"x={a + 1}, y={b}"],
    )  # fmt: skip


def plus_minus(rng: Random) -> Made:
    a, b = rng.randint(1, 30), rng.choice((2, 3, 5, 7))
    return (
        f"{a} \\pm \\sqrt{{{b}}}",
        [f"{a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}}", f"{a}-\\sqrt{{{b}}}, {a}+\\sqrt{{{b}}}",
        f"x = {a} \\pm \\sqrt{{{b}}}",
         f"\\{{{a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}}\\}}", f"{a} ± \\sqrt{{{b}}}",
         f"{a} \\mp \\sqrt{{{b}}}"],
        [f"{a}+\\sqrt{{{b}}}", f"{a}-\\sqrt{{{b}}}", f"{a} \\pm \\sqrt{{{b + 1}}}",
        f"{a + 1} \\pm \\sqrt{{{b}}}", f"\\pm \\sqrt{{{b}}}",
         f"-{a} \\pm \\sqrt{{{b}}}", f"({a}+\\sqrt{{{b}}}, {a}-\\sqrt{{{b}}})", f"{a} \\pm {b}",
         f"{a}", f"\\pm {a} \\sqrt{{{b}}}"],
    )  # fmt: skip


def set(rng: Random) -> Made:
    a, b = sorted(rng.sample(range(-20, 40), 2))
    return (
        f"\\{{{a}, {b}\\}}",
        [f"\\{{{b}, {a}\\}}", f"\\left\\{{{a}, {b}\\right\\}}", f"x \\in \\{{{a}, {b}\\}}",
        f"\\lbrace {a}, {b} \\rbrace", f"{a}, {b}"],
        [f"({a}, {b})", f"[{a}, {b}]", f"\\{{{a}\\}}", f"\\{{{a}, {b + 1}\\}}",
        f"\\{{{a}, {b}, {b + 1}\\}}", f"{a}", f"x \\notin \\{{{a}, {b}\\}}",
         f"{a} < x < {b}", f"\\{{{a - 1}, {b}\\}}", "\\emptyset"],
    )  # fmt: skip


def point(rng: Random) -> Made:
    a, b = rng.randint(-9, 9), rng.randint(10, 30)
    return (
        f"({a}, \\frac{{1}}{{{b}}})",
        [f"\\left({a}, \\frac{{1}}{{{b}}}\\right)", f"({a}, 1/{b})",
        f"({a},\\dfrac{{2}}{{{2 * b}}})", f"({a}.0, \\frac{{1}}{{{b}}})",
         f"(x, y) = ({a}, 1/{b})"],
        [f"(\\frac{{1}}{{{b}}}, {a})", f"({a}, {b})", f"[{a}, \\frac{{1}}{{{b}}}]",
        f"({a + 1}, \\frac{{1}}{{{b}}})", f"({a}, -\\frac{{1}}{{{b}}})",
         f"({a}, \\frac{{1}}{{{b + 1}}})", f"\\{{{a}, \\frac{{1}}{{{b}}}\\}}",
         f"({a}, \\frac{{1}}{{{b}}}, 0)", f"({a})", f"{a}"],
    )  # fmt: skip


def interval(rng: Random) -> Made:
    a, b = sorted(rng.sample(range(-40, 40), 2))
    return (
        f"({a}, {b}]",
        [f"\\left({a}, {b}\\right]", f"{a} < x \\le {b}", f"{b} \\ge x > {a}",
        f"x \\in ({a}, {b}]", f"{a} < x \\leqslant {b}", f"({a}, {b}.0]"],
        [f"[{a}, {b}]", f"({a}, {b})", f"[{a}, {b})", f"({a}, {b + 1}]", f"({a - 1}, {b}]",
        f"{a} \\le x < {b}", f"({b}, {a}]", f"x \\le {b}",
         f"{a} < x < {b}", f"\\{{{a}, {b}\\}}"],
    )  # fmt: skip


def union(rng: Random) -> Made:
    a, b = sorted(rng.sample(range(-40, 40), 2))
    return (
        f"(-\\infty, {a}) \\cup [{b}, \\infty)",
        [f"[{b}, \\infty) \\cup (-\\infty, {a})", f"x < {a} \\text{{ or }} x \\ge {b}",
        f"(-\\infty,{a})\u222a[{b},∞)",
         f"x \\in (-\\infty, {a}) \\cup [{b}, +\\infty)", f"x \\geq {b} \\text{{ or }} x < {a}"],
        [f"(-\\infty, {a}] \\cup [{b}, \\infty)", f"(-\\infty, {a}) \\cup ({b}, \\infty)",
        f"(-\\infty, {a}) \\cap [{b}, \\infty)",
         f"({a}, {b}]", f"(-\\infty, {a})", f"[{b}, \\infty)",
         f"x < {a} \\text{{ and }} x \\ge {b}", f"(-\\infty, {a - 1}) \\cup [{b}, \\infty)",
         f"(-\\infty, {a}) \\cup [{b + 1}, \\infty)", f"(-\\infty, {b}) \\cup [{a}, \\infty)"],
    )  # fmt: skip


def inequality(rng: Random) -> Made:
    n = rng.randint(2, 90)
    return (
        f"x \\ge {n}",
        [f"x \\geq {n}", f"{n} \\le x", f"x >= {n}", f"[{n}, \\infty)", f"x ≥ {n}",
        f"x \\geqslant {n}", f"\\{{x \\mid x \\ge {n}\\}}"],
        [f"x > {n}", f"x \\le {n}", f"x \\ge {n + 1}", f"x \\ge -{n}", f"y \\ge {n}", f"x = {n}",
        f"({n}, \\infty)", str(n), f"x \\ne {n}", f"{n} \\ge x"],
    )  # fmt: skip


def matrix(rng: Random) -> Made:
    a, b, c, d = rng.sample(range(-12, 30), 4)

    def form(w: int, x: int, y: int, z: int, kind: str = "pmatrix", end: str = "\\\\") -> str:
        return f"\\begin{{{kind}}} {w} & {x} {end} {y} & {z} \\end{{{kind}}}"

    return (
        form(a, b, c, d),
        [form(a, b, c, d, "bmatrix"), form(a, b, c, d, end="\\\\[4pt]"),
        f"\\begin{{pmatrix}}{a}&{b}\\\\{c}&{d}\\end{{pmatrix}}",
         f"\\left[\\begin{{array}}{{cc}} {a} & {b} \\\\ {c} & {d} \\end{{array}}\\right]",
         f"\\left(\\begin{{matrix}} {a} & {b} \\\\ {c} & {d} \\end{{matrix}}\\right)"],
        [form(a, c, b, d), form(b, a, c, d), form(a, b, c, d + 1), form(a + 1, b, c, d), form(a,
        b, c, d, "vmatrix"),
         f"\\begin{{pmatrix}} {a} & {b} & {c} & {d} \\end{{pmatrix}}", form(c, d, a, b),
         f"\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}",
         f"2{form(a, b, c, d)}" if any((a, b, c, d)) else "1", form(a, b, c, d) + "^T"],
    )  # fmt: skip


def ratio(rng: Random) -> Made:
    a, b = rng.sample((2, 3, 5, 7, 11, 13), 2)
    return (
        f"{a}:{b}",
        [f"{a} : {b}", f"{a}\\colon {b}", f"{a}\u2236{b}", f"{a}.0:{b}"],
        [f"{b}:{a}", f"{a}:{b + 1}", f"{a}/{b}", f"{a}, {b}", f"{a + 1}:{b}", f"-{a}:{b}",
        f"{a}{b}", f"{a}:{b}:1", f"({a}, {b})", str(a)],
    )  # fmt: skip


def congruence(rng: Random) -> Made:
    m = rng.randint(5, 40)
    a = rng.randint(1, m - 2)
    return (
        f"x \\equiv {a} \\pmod{{{m}}}",
        [f"x≡{a} \\pmod{{{m}}}", f"x \\equiv {a} \\pmod {{{m}}}", f"x \\equiv {a} (\\mod {m})",
        f"x \\equiv {a} \\bmod {m}"],
        [f"x \\equiv {a + 1} \\pmod{{{m}}}", f"x \\equiv {a} \\pmod{{{m + 1}}}", f"x = {a}",
        f"{a}", f"y \\equiv {a} \\pmod{{{m}}}",
         f"x \\equiv -{a} \\pmod{{{m}}}" if 2 * a != m else "x", f"x \\equiv {m} \\pmod{{{a}}}",
         f"x \\equiv {a}", f"x \\not\\equiv {a} \\pmod{{{m}}}", f"{a} \\equiv {m}"],
    )  # fmt: skip


def marked(rng: Random) -> Made:
    v = rng.choice("abcxyz")
    gold, same, other = rng.choice(
        (
            (f"|{v}|+1", [f"1+|{v}|", f"\\lvert {v} \\rvert + 1", f"\\sqrt{{{v}^2}}+1"],
            [f"{v}+1", f"|{v}+1|", f"|{v}|", f"-|{v}|+1"]),
            (f"{v}_1+{v}_2", [f"{v}_2+{v}_1", f"{v}_{{1}} + {v}_{{2}}", f"{v}₁+{v}₂"],
            [f"{v}_1+{v}_3", f"2{v}_1", f"{v}+{v}", f"{v}_{{12}}", f"{v}_1-{v}_2"]),
            (f"f'({v})", [f"f' ({v})", f"f\u2032({v})", f"1 \\cdot f'({v})"],
            [f"f({v})", f"f''({v})", f"f'({v}+1)", f"f^{{-1}}({v})"]),
            (f"\\lfloor {v} \\rfloor", [f"\\left\\lfloor {v} \\right\\rfloor",
            f"\\lfloor {{{v}}} \\rfloor", f"1 + \\lfloor {v} - 1 \\rfloor"],
            [f"\\lceil {v} \\rceil", v, f"|{v}|", f"[{v}]"]),
            (f"\\overline{{{v}}}", [f"\\overline{{ {v} }}", f"\\overline {{{v}}}"], [v,
            f"\\underline{{{v}}}", f"\\vec{{{v}}}", f"\\hat{{{v}}}", f"-{v}"]),
        )
    )  # fmt: skip
    return (
        gold,
        same,
        [*other, f"{v}!", f"2{v}", f"\\{{{v}\\}}", f"{v}^3", f"\\frac{{1}}{{{v}}}", "0"],
    )
