r"""References of every form that the math reward reads, right and wrong by construction.

Owns the generator of the mutation study: each reference comes with rewritings of itself, all equal,
and with near misses, none equal: another digit, sign, exponent, base, unit, bracket, order, name.
`study.py` grades them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from conjoint.scripts.bench.rewards import mutated_shapes as shapes
from conjoint.scripts.bench.rewards import mutated_values as values

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
    same, other = values.integer_answers(n, rng)
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


_FORMS: dict[str, Callable[[Random], values.Made]] = {
    "integer": values.integer,
    "decimal": values.decimal,
    "fraction": values.fraction,
    "mixed number": values.mixed,
    "repeating decimal": values.repeating,
    "scientific": values.scientific,
    "large power": values.power,
    "tiny value": values.tiny,
    "number in a base": values.based,
    "percent": values.percent,
    "unit": values.unit,
    "money": values.money,
    "angle": values.angle,
    "root": values.root,
    "multiple of pi": values.pi,
    "polynomial": values.polynomial,
    "function": values.function,
    "logarithm": values.logarithm,
    "complex": values.complex,
    "factorial": values.factorial,
    "name = value": shapes.named,
    "equation": shapes.equation,
    "line": shapes.line,
    "choice": shapes.choice,
    "word": shapes.word,
    "list": shapes.list,
    "list of names": shapes.named_list,
    "plus-minus": shapes.plus_minus,
    "set": shapes.set,
    "point": shapes.point,
    "interval": shapes.interval,
    "union": shapes.union,
    "inequality": shapes.inequality,
    "matrix": shapes.matrix,
    "ratio": shapes.ratio,
    "congruence": shapes.congruence,
    "marks": shapes.marked,
}
FORMS = tuple(_FORMS)
