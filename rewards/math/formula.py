r"""A reader of the LaTeX that final answers are written in, and its value at a point.

Reads + - * / ^ !, \frac, \sqrt[n], \binom, |x|, floor and ceiling, logarithms and exponentials,
trigonometric and hyperbolic functions, pi, e, i, variables with subscripts and primes, and calls of
unknown functions f(x). Values are exact fractions as long as they are rational. What has two
readings (1/2x, 2 3, sin x (x+1)) is not read.
"""

import functools
import math
import re
from fractions import Fraction

from conjoint.rewards.math.calculator import Ambiguous, Calculator, Number, Unread

_TOKEN = re.compile(
    r"\s*(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(\\[A-Za-z]+|\\.)|([A-Za-z])|(\S))", re.DOTALL
)
_SUBSCRIPT = re.compile(r"_\s*(?:\{([A-Za-z0-9,+ ]{1,12})\}|([A-Za-z0-9]))")
_GREEK = frozenset(
    [
        "\\alpha",
        "\\beta",
        "\\gamma",
        "\\delta",
        "\\epsilon",
        "\\varepsilon",
        "\\zeta",
        "\\eta",
        "\\theta",
        "\\kappa",
        "\\lambda",
        "\\mu",
        "\\nu",
        "\\xi",
        "\\rho",
        "\\sigma",
        "\\tau",
        "\\phi",
        "\\varphi",
        "\\chi",
        "\\psi",
        "\\omega",
        "\\Delta",
        "\\Gamma",
        "\\Omega",
        "\\Sigma",
        "\\Phi",
        "\\Psi",
        "\\Lambda",
        "\\Theta",
        "\\ell",
        "\\hbar",
        "\\infty",
    ]
)
_FUNCTIONS = {"\\arcsin": "asin", "\\arccos": "acos", "\\arctan": "atan"}
for _name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"):
    _FUNCTIONS[f"\\{_name}"] = _name
for _name in ("exp", "ln", "log", "lg"):
    _FUNCTIONS[f"\\{_name}"] = _name
_INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan"}
_CALLED = frozenset("fghFGHP")
_TIMES = ("\\cdot", "\\times", "*")
_FENCES = {"(": ")", "{": "}", "[": "]", "|": "|", "\\lvert": "\\rvert", "\\vert": "\\vert",
           "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}  # fmt: skip
_OPENERS = frozenset(("(", "{", "\\frac", "\\sqrt", "\\pi", "\\binom", "\\lfloor", "\\lceil"))
_DERIVATIVE = re.compile(
    r"\\frac\s*\{?\s*(?:d|\\partial)(?![A-Za-z]*\s*[-+])[^{}]{0,40}\}?\s*\{\s*(?:d|\\partial)\s*\\?[A-Za-z]"
)
_MATRIX_ORDER = re.compile(r"[A-Z]\s*\^\s*\{?\s*(?:-\s*1|T)")
_MAX_FACTORIAL = 1_000
_MAX_TOKENS = 400


@functools.lru_cache(maxsize=512)
def _tokens(text: str) -> tuple[str, ...]:
    if _DERIVATIVE.search(text):
        raise Ambiguous  # dy/dx is no fraction of variables
    tokens: list[str] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unread
        token, position = match.group().strip(), match.end()
        is_name = token.isalpha() or token in _GREEK
        if is_name and (sub := _SUBSCRIPT.match(text, position)):
            token += "_" + "".join((sub[1] or sub[2]).split())
            position = sub.end()
        while is_name and text.startswith("'", position):
            token, position = token + "'", position + 1
        tokens.append(token)
    if len(tokens) > _MAX_TOKENS:
        raise Unread
    return tuple(tokens)


def _is_variable(token: str) -> bool:
    return (token[:1].isalpha() and token not in ("e", "i")) or token.split("_")[0].rstrip(
        "'"
    ) in _GREEK


def variables(text: str) -> set[str]:
    """The variables of a formula. Raises Unread."""
    return {token for token in _tokens(text) if _is_variable(token)}


def matrix_order(text: str) -> str:
    """The capital letters in their order where an inverse or a transpose makes them matrices."""
    return "".join(re.findall("[A-Z]", text)) if _MATRIX_ORDER.search(text) else ""


def value_of(text: str, point: dict[str, Fraction], calculator: Calculator) -> Number:
    """The formula's value at `point`. Raises Unread, or ArithmeticError where it has none."""
    reader = _Reader(_tokens(text), point, calculator)
    value = reader.sum()
    if reader.at() != "":
        raise Unread
    return value


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(
        self, tokens: tuple[str, ...], point: dict[str, Fraction], calculator: Calculator
    ) -> None:
        self._tokens = list(tokens)
        self._place = 0
        self._point = point
        self._calc = calculator
        self._bars = 0

    def at(self, ahead: int = 0) -> str:
        place = self._place + ahead
        return self._tokens[place] if place < len(self._tokens) else ""

    def _take(self, expected: str = "") -> str:
        token = self.at()
        if not token or (expected and token != expected):
            raise Unread
        self._place += 1
        return token

    def _apply(self, sign: str, left: Number, right: Number) -> Number:
        if isinstance(left, Fraction) != isinstance(right, Fraction):
            left, right = self._calc.any(left), self._calc.any(right)
        if sign == "/":
            return self._calc.note(left / right)
        if sign == "*":
            return self._calc.note(left * right)
        return self._calc.note(left + right if sign == "+" else left - right)

    def sum(self) -> Number:
        value = self._product()
        while self.at() in ("+", "-"):
            value = self._apply(self._take(), value, self._product())
        return value

    def _product(self) -> Number:
        if self.at() in ("+", "-"):
            sign = self._take()
            value = self._product()
            return -value if sign == "-" else value
        value = self._power()
        divided = False
        while True:
            token = self.at()
            if token in _TIMES or token == "/":
                self._take()
                divided, sign = token == "/", "/" if token == "/" else "*"
                if self.at() in ("+", "-"):
                    raise Unread
            elif self._starts_factor(token):
                if divided:
                    raise Ambiguous  # 1/2x
                sign = "*"
            elif token[:1].isdigit():
                raise Ambiguous  # "2 3": a product, or a slip
            else:
                return value
            value = self._apply(sign, value, self._power())

    def _starts_factor(self, token: str) -> bool:
        bar = token in ("|", "\\vert", "\\lvert") and not self._bars
        name = _is_variable(token) or token in ("e", "i")
        return token in _OPENERS or token in _FUNCTIONS or name or bar

    def _power(self) -> Number:
        base = self._atom()
        while self.at() == "!":
            self._take()
            base = self._factorial(base)
        if self.at() != "^":
            return base
        self._take()
        if self.at() == "{" and self.at(1) in ("\\circ", "\\prime"):
            raise Unread
        exponent = self._argument()
        if self.at() in ("^", "!"):
            raise Unread
        return self._calc.note(self._calc.power(base, exponent))

    def _factorial(self, value: Number) -> Number:
        if self.at() == "!":
            raise Unread
        if isinstance(value, Fraction) and value.denominator == 1:
            if not 0 <= value <= _MAX_FACTORIAL:
                raise Unread
            return self._calc.note(Fraction(math.factorial(int(value))))
        if abs(self._calc.any(value)) > _MAX_FACTORIAL:
            raise Unread
        return self._calc.note(self._calc.mp.gamma(self._calc.any(value) + 1))

    def _argument(self) -> Number:
        r"""What LaTeX takes as an argument: a group, or one character (\frac12, x^2)."""
        if self.at() == "{":
            return self._group("{")
        token = self._take()
        if token[:1].isdigit() and len(token) > 1:
            if "." in token:
                raise Unread
            self._place -= 1
            self._tokens[self._place] = token[1:]
            return Fraction(int(token[0]))
        if not (token.isalnum() or token in self._point or token == "\\pi"):
            raise Unread
        self._place -= 1
        return self._atom()

    def _group(self, opening: str) -> Number:
        self._take(opening)
        bar = opening in ("|", "\\vert")
        bars, self._bars = self._bars, int(bar)
        if bar and bars:
            raise Unread
        inner = self.sum()
        self._take(_FENCES[opening])
        self._bars = bars
        if opening in ("\\lfloor", "\\lceil"):
            value = self._calc.real(inner)
            rounded = (
                math.floor(inner) if isinstance(inner, Fraction) else self._calc.mp.floor(value)
            )
            if opening == "\\lceil":
                rounded = -(
                    math.floor(-inner)
                    if isinstance(inner, Fraction)
                    else self._calc.mp.floor(-value)
                )
            return Fraction(int(rounded))
        if opening in ("|", "\\vert", "\\lvert"):
            return abs(inner)
        return inner

    def _atom(self) -> Number:
        token = self.at()
        if token in _FENCES and (token != "|" or not self._bars):
            return self._group(token)
        self._take()
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            if token[0] == "0" and token[1:2].isdigit():
                raise Ambiguous  # 01, as in a date
            return self._calc.note(Fraction(token))
        if token in self._point:
            return self._variable(token)
        if token in _FUNCTIONS:
            return self._call(_FUNCTIONS[token])
        match token:
            case "e":
                return +self._calc.mp.e
            case "i":
                return self._calc.mp.mpc(0, 1)
            case "\\pi":
                return +self._calc.mp.pi
            case "\\frac":
                above, below = self._argument(), self._argument()
                return self._apply("/", above, below)
            case "\\sqrt":
                return self._root()
            case "\\binom":
                return self._binomial()
        raise Unread

    def _variable(self, token: str) -> Number:
        bare = token.rstrip("'")
        if (bare in _CALLED or bare != token) and self.at() == "(":
            return self._calc.note(self._calc.unknown(token, self._arguments()))
        inverse = self._tokens[self._place : self._place + 6]
        if bare in _CALLED and inverse == ["^", "{", "-", "1", "}", "("]:
            self._place += 5
            return self._calc.note(self._calc.unknown(f"{token}^-1", self._arguments()))
        return self._calc.note(self._point[token])

    def _arguments(self) -> list[Number]:
        self._take("(")
        arguments = [self.sum()]
        while self.at() == ",":
            self._take()
            arguments.append(self.sum())
        self._take(")")
        return arguments

    def _root(self) -> Number:
        degree = Fraction(2)
        if self.at() == "[":
            degree = self._group("[")
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 100:
            raise Unread
        return self._calc.note(self._calc.root(self._argument(), int(degree)))

    def _binomial(self) -> Number:
        above, below = self._argument(), self._argument()
        if all(isinstance(v, Fraction) and v.denominator == 1 for v in (above, below)):
            if not 0 <= below <= above <= _MAX_FACTORIAL:
                raise Unread
            return self._calc.note(Fraction(math.comb(int(above), int(below))))
        return self._calc.note(self._calc.mp.binomial(self._calc.any(above), self._calc.any(below)))

    def _call(self, name: str) -> Number:
        r"""A named function: \sin^2 x, \log_2 8, \sin 2x, \ln(x+1)."""
        base, power = None, None
        for _ in range(2):
            if self.at() == "_" and name == "log":
                self._take()
                base = self._argument()
            elif self.at() == "^":
                self._take()
                power = self._argument()
        if power == -1:
            if name not in _INVERSE:
                raise Unread
            name, power = _INVERSE[name], None
        value = self._calc.call("ln" if base is not None else name, self._bare_argument())
        if base is not None:
            value = value / self._calc.call("ln", base)
        value = self._calc.note(value)
        return value if power is None else self._calc.note(self._calc.power(value, power))

    def _bare_argument(self) -> Number:
        if self.at() in ("(", "{", "|"):
            value = self._group(self.at())
            if self.at() in ("^", "!"):
                raise Unread
            return value
        if self.at() in _FUNCTIONS:
            return self._call(_FUNCTIONS[self._take()])
        value = self._power()
        while self._starts_factor(self.at()) and self.at() not in _FUNCTIONS:
            if self.at() == "(":
                raise Ambiguous  # \sin x (x+1)
            value = self._apply("*", value, self._power())
        if self.at() == "/":
            raise Unread
        return value
