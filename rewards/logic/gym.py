"""reasoning-gym in the verifier profile of the jail: what draws its rows and scores its answers.

Every function here runs in the jail, and reasoning_gym is imported nowhere else. Nine of its
datasets evaluate an answer as Python; `score` takes that from them first, because an answer that
runs as code in the scoring process could write its own score.
"""

import ast
import importlib.metadata
import math
import re
import sys
from dataclasses import fields, replace
from typing import Any

from conjoint.rewards.sandbox import codec

LEVEL = "level"
"""The difficulty key that every dataset with a curriculum has, besides its own."""
_OURS = ("seed", "size")
CALL_EVAL = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
"""Datasets that call `eval` on an answer, where they expect a list."""
_CALL_PARSE_EXPR = ("countdown", "puzzle24")
"""Datasets that call `parse_expr`; three more call it as `sympy.parse_expr`."""
_SYMBOLS = re.compile(r"[0-9A-Za-z\s+\-*/^().,=]{0,2000}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z]")
_TRIGONOMETRY = "sin cos tan cot sec csc asin acos atan sinh cosh tanh"
_FUNCTIONS = frozenset((*_TRIGONOMETRY.split(), "exp", "log", "ln", "sqrt", "Abs", "pi"))
_MAX_POWER = 1_000
_MAX_LETTERED_POWER = 100
"""Exponents that are worked out, those of powers within powers multiplied; the second where the
base holds a letter, since a sum raised to it may be written out."""
_NO_VALUE = re.compile(r"(?<![^\W\d_])(?:nan|inf|infinity|none|null)(?![^\W\d_])", re.IGNORECASE)
_EXPONENTIAL = re.compile(r"(?<![\w.])(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE]\+?[0-9]+(?!\w)")
JUNK = ("", "I do not know", "0", "nan", "None", "[]")
"""Answers that say nothing; the prompt itself is tried as well."""


class NotADataset(ValueError):
    """The user named a dataset, a key or a value that does not exist; the text says which do."""


def warm() -> None:
    """Imports (4 s of CPU) and practice: sympy builds its tables on first use, for 2 s."""
    for name in ("simple_integration", "intermediate_integration", "polynomial_multiplication"):
        dataset = _dataset(name, {}, 0, 4)
        for index in range(4):
            entry = dataset[index]
            dataset.score_answer(entry["answer"], entry)


def _disarm() -> None:
    """From here on no answer runs as code in this process, which scores one and ends.

    What is replaced is the name that a dataset calls with an answer, not the function: sympy parses
    strings of its own while it simplifies.
    """
    import sympy
    from reasoning_gym.factory import DATASETS

    parse = sympy.parse_expr

    def parse_formula(text: str, *args: Any, **options: Any) -> Any:
        if not _is_formula(text):
            raise ValueError("not a formula")
        return parse(text, *args, **options)

    sympy.parse_expr = parse_formula
    for names, function, safe in (
        (CALL_EVAL, "eval", ast.literal_eval),
        (_CALL_PARSE_EXPR, "parse_expr", parse_formula),
    ):
        for name in names:
            setattr(sys.modules[DATASETS[name][0].__module__], function, safe)


def _is_formula(text: str) -> bool:
    """Numbers, one-letter names, arithmetic and a few functions: nothing that can reach Python, and
    no `Integral` or `Derivative`, which restate the problem."""
    if not _SYMBOLS.fullmatch(text) or _ATTRIBUTE.search(text):
        return False
    if not all(len(name) == 1 or name in _FUNCTIONS for name in _NAME.findall(text)):
        return False
    try:
        _power(ast.parse(text.strip().replace("^", "**"), mode="eval"))
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False
    return True


def _power(node: ast.AST) -> float:
    """The largest power that a formula raises anything to. Raises ValueError for a tower of powers
    and for a power so large that working it out would never end."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)):
        return max(map(_power, ast.iter_child_nodes(node)), default=1.0)
    raised, lettered = _power(node.left), any(isinstance(n, ast.Name) for n in ast.walk(node.left))
    for part in ast.walk(node.right):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow):
            raise ValueError("a power within an exponent")
        if isinstance(part, ast.Constant) and isinstance(part.value, (int, float)) and part.value:
            # A product bounds what sums, products and quotients of these can come to.
            raised *= max(float(abs(part.value)), 1 / abs(part.value), 2.0)
    if not raised <= 2 * (_MAX_LETTERED_POWER if lettered else _MAX_POWER):
        raise ValueError("too large a power")
    return raised


def version() -> str:
    return importlib.metadata.version("reasoning-gym")


def names() -> list[str]:
    """Every dataset that can be used by name: all but `composite`, which is made of others."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


def check(name: str, config: dict[str, Any]) -> str:
    """What is wrong with a dataset's name or its difficulty keys, in words; "" if nothing is."""
    try:
        _dataset(name, config, 0, 1)
    except NotADataset as error:
        return str(error)
    return ""


def draw(
    name: str, config: dict[str, Any], seed: int, size: int, start: int, count: int
) -> list[tuple[str, str | None, Any]]:
    """Rows `start` to `start + count` as (question, answer, entry in codec form).

    Pure in its arguments. `answer` is None where several are right and none is distinguished.
    """
    dataset = _dataset(name, config, seed, size)
    rows = []
    for index in range(start, start + count):
        entry = dataset[index]
        answer = entry["answer"]
        rows.append(
            (
                str(entry["question"]),
                None if answer is None else str(answer),
                codec.encode(_plain(entry)),
            )
        )
    return rows


def score(
    name: str, config: dict[str, Any], seed: int, size: int, entry: Any, answer: str
) -> tuple[float | None, str]:
    """(score in [0, 1], "") of the dataset's own verifier, or (None, why it refused the answer).

    Raises what only our side can cause: an unknown dataset, an entry that is none.
    """
    dataset = _dataset(name, config, seed, size)
    row = codec.decode(entry)
    _disarm()
    if word := _no_value(answer, row):
        return None, f"{word} is no value"
    try:
        value = float(dataset.score_answer(answer, row))
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"[:200]
    if not 0.0 <= value <= 1.0:
        return None, f"the verifier gave {value}"
    return value, ""


def _no_value(answer: str, row: Any) -> str:
    """The part of an answer that is no finite value, "" if there is none.

    NaN compares with nothing, so that a distance to it is neither too large nor small enough. A
    word that the row itself has, in question or answer, is one like any other.
    """
    own = " ".join(str(row[key] or "") for key in ("question", "answer")).lower()
    words = {word.lower() for word in _NO_VALUE.findall(own)}
    for found in _NO_VALUE.finditer(answer):
        if found.group().lower() not in words:
            return found.group()
    for found in _EXPONENTIAL.finditer(answer):
        if found.group().lower() not in own and math.isinf(float(found.group())):
            return found.group()[:40]
    return ""


def junk_pay(
    name: str, config: dict[str, Any], seed: int, size: int, partial: bool
) -> dict[str, float]:
    """Junk answer ("prompt" for an echo) -> what `size` rows pay for it beyond chance.

    Chance is the rows where it happens to be right: equal to the row's own answer, as text or as a
    number. Without `partial` only a score of 1 pays.
    """
    dataset = _dataset(name, config, seed, size)
    paid: dict[str, float] = dict.fromkeys((*JUNK, "prompt"), 0.0)
    for index in range(size):
        entry = dataset[index]
        for junk in paid:
            text = entry["question"] if junk == "prompt" else junk
            if _same(text, entry["answer"]) or _no_value(text, entry):
                continue
            try:
                value = float(dataset.score_answer(text, entry))
            except Exception:
                continue
            paid[junk] += value if partial or value >= 1.0 else 0.0
    return paid


def _same(text: str, answer: Any) -> bool:
    if answer is None:
        return False
    if text.strip() == str(answer).strip():
        return True
    try:
        return float(text) == float(answer)
    except (TypeError, ValueError):
        return False


def _dataset(name: str, config: dict[str, Any], seed: int, size: int) -> Any:
    """The dataset at its difficulty. Raises NotADataset for a name, key or value it lacks."""
    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum

    if name not in DATASETS or name == "composite":
        raise NotADataset(f"reasoning-gym has no dataset '{name}'; it has {', '.join(names())}")
    make, settings = DATASETS[name]
    keys = [field.name for field in fields(settings) if field.name not in _OURS]
    known = [*keys, *([LEVEL] if name in CURRICULA else [])]
    if unknown := sorted(set(config) - set(known)):
        raise NotADataset(f"{name} has no key '{unknown[0]}'; it has {', '.join(known)}")
    try:
        chosen = {"seed": seed, "size": size} | {k: v for k, v in config.items() if k != LEVEL}
        made = settings(**chosen)
        if LEVEL in config:
            curriculum = create_curriculum(name)
            curriculum.set_global_level(int(config[LEVEL]))
            made = replace(curriculum.generate_configuration(), **chosen)
        if hasattr(made, "validate"):
            made.validate()
        return make(config=made)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"[:200]
        raise NotADataset(f"{name} does not take {config} ({detail})") from error


def _plain(value: Any) -> Any:
    """`value` in types that the codec carries: subclasses and numpy's scalars as what they hold."""
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, (list, set, frozenset)):
        kind = next(k for k in (list, set, frozenset) if isinstance(value, k))
        return kind(_plain(item) for item in value)
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(value, kind):
            convert: Any = kind
            return convert(value)
    if value is None or not hasattr(value, "item"):
        return None if value is None else str(value)
    return value.item()
