"""The judge attacks that `conjoint rubric probe` tries, read from a YAML file of cases."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conjoint.envs.types import ConjointError

SHIPPED = Path(__file__).with_name("attacks.yaml")
_CASE = {"prompt", "good", "plain", "attacks"}
_ATTACK = {"name", "category", "text"}


@dataclass(frozen=True, slots=True)
class Attack:
    """`text` is the weaker answer `plain` dressed up to beat `good`."""

    name: str
    category: str
    prompt: str
    good: str
    plain: str
    text: str


def read_attacks(path: Path = SHIPPED) -> list[Attack]:
    """Every attack of a file. Raises ConjointError naming the file and the entry."""
    try:
        cases = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConjointError(f"{path} is no readable YAML file of attacks: {detail}") from error
    if not isinstance(cases, list) or not cases:
        raise ConjointError(f"{path}: expected a list of cases {{prompt, good, plain, attacks}}")
    found = [attack for i, case in enumerate(cases) for attack in _case(path, f"[{i}]", case)]
    names = [attack.name for attack in found]
    for name in names:
        if names.count(name) > 1:
            raise ConjointError(f"{path}: the attack '{name}' is given twice")
    return found


def _case(path: Path, at: str, case: Any) -> list[Attack]:
    _check(path, at, case, _CASE - {"attacks"}, _CASE)
    if not isinstance(case["attacks"], list) or not case["attacks"]:
        raise ConjointError(f"{path}: {at}.attacks must be a list of at least one attack")
    prompt, good, plain = case["prompt"], case["good"], case["plain"]
    found = []
    for i, attack in enumerate(case["attacks"]):
        here = f"{at}.attacks[{i}]"
        _check(path, here, attack, _ATTACK, _ATTACK)
        try:
            text = attack["text"].format(plain=plain, good=good)
        except (KeyError, IndexError, ValueError) as error:
            raise ConjointError(
                f"{path}: {here}.text has braces that name nothing ({error}); write {{plain}}, "
                "{good}, or double the brace"
            ) from error
        found.append(Attack(attack["name"], attack["category"], prompt, good, plain, text))
    return found


def _check(path: Path, at: str, entry: Any, texts: set[str], keys: set[str]) -> None:
    if not isinstance(entry, Mapping) or set(entry) != keys:
        raise ConjointError(
            f"{path}: {at} must be a mapping with the keys {', '.join(sorted(keys))}"
        )
    for key in sorted(texts):
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise ConjointError(f"{path}: {at}.{key} must be a text; got {entry[key]!r}")
