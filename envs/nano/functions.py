"""The `code` kind: write a function of one integer that applies two or three operations in order.

A demonstration is one nested expression, one statement an operation, or the latter after a plan in
a comment. Graded by hidden calls; the one call a prompt may show is never among them.
"""

from dataclasses import dataclass
from random import Random

from conjoint.envs.sources.splits import Item, Procedural, pick
from conjoint.envs.types import Task

SHOWN_INPUT = 1
HIDDEN_INPUTS = (-3, 0, 2, 5, 8)
_SHOWN = {"nested": 0.5, "statements": 0.35, "planned": 0.15}
_RIGHT = {"nested": 0.35, "statements": 0.65}
_WRONG = {"nested": 0.65, "statements": 0.35}
_PHRASES = {"+": "plus {}", "-": "minus {}", "*": "times {}"}


@dataclass(frozen=True, slots=True)
class Operation:
    """`sign` is +, - or *; `number` a digit from 2 to 9."""

    sign: str
    number: int

    def apply(self, x: int) -> int:
        return {"+": x + self.number, "-": x - self.number, "*": x * self.number}[self.sign]

    @property
    def phrase(self) -> str:
        return _PHRASES[self.sign].format(self.number)


class Functions(Procedural):
    """`Write f(x): add 3, multiply by 2.` Reference: the entry point and hidden calls."""

    kind = "code"

    def draw(self, rng: Random) -> Item:
        chain = _chain(rng)
        content = ", ".join(op.phrase for op in chain)
        prompt = f"Write f(x): {content}."
        if rng.random() < 0.25:
            prompt += f" f({SHOWN_INPUT})={_run(chain, SHOWN_INPUT)}"
        cases = [{"args": [x], "expected": _run(chain, x)} for x in HIDDEN_INPUTS]
        reference = {
            "language": "python",
            "tests": {"type": "function", "entry": "f", "cases": cases},
        }
        return Item(
            task=Task.make(self.kind, prompt, reference, {"source": "functions"}),
            content=content,
            answer=_render(chain, pick(rng, _SHOWN)),
            correct=_render(chain, pick(rng, _RIGHT)),
            incorrect=_render(_slip(chain, rng), pick(rng, _WRONG)),
        )


def _operation(rng: Random) -> Operation:
    return Operation(rng.choice("++--*"), rng.randint(2, 9))


def _chain(rng: Random) -> list[Operation]:
    return [_operation(rng) for _ in range(3)]


def _run(chain: list[Operation], x: int) -> int:
    for op in chain:
        x = op.apply(x)
    return x


def _slip(chain: list[Operation], rng: Random) -> list[Operation]:
    """The chain with an operation changed or forgotten, so that a hidden call differs."""
    while True:
        wrong = list(chain)
        place = rng.randrange(len(chain))
        old = chain[place]
        fault = rng.random()
        if fault < 0.4:
            del wrong[place]
        elif fault < 0.7:
            wrong[place] = Operation(rng.choice("+-*"), old.number)
        else:
            wrong[place] = Operation(old.sign, rng.randint(2, 9))
        if any(_run(wrong, x) != _run(chain, x) for x in HIDDEN_INPUTS):
            return wrong


def _render(chain: list[Operation], style: str) -> str:
    if style == "nested":
        expression = "x"
        for i, op in enumerate(chain):
            inner = f"({expression})" if op.sign == "*" and i else expression
            expression = f"{inner}{op.sign}{op.number}"
        return f"def f(x):\n return {expression}"
    lines = ["def f(x):"]
    if style == "planned":
        lines.append(" # " + ", then ".join(op.phrase for op in chain))
    lines += [f" x{op.sign}={op.number}" for op in chain]
    return "\n".join([*lines, " return x"])
