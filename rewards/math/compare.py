r"""A reference against an answer, by what kind of thing they are.

Numbers, words and choices are decided here; lists, tuples, sets of reals, matrices and relations
are taken apart (`forms.py`) down to pairs of formulas. Whatever cannot be told is not equal.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from conjoint.envs.types import Outcome
from conjoint.rewards.math import forms
from conjoint.rewards.math.exact import decimal_comma, quantity
from conjoint.rewards.math.forms import Listing, Piece
from conjoint.rewards.math.numeric import close, evaluate, same_relation, same_value

_LOOSE_SPACE = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")
_STYLED = re.compile(r"(?:[a-z]+|[A-Z][a-z]*|[A-Z]+)")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_ORDERED_SIGNS = ("<", "\\le")
_MAX_ITEMS = 24

Named = tuple[str, str]
"""(name, value) of `x = 2`; the name is "" where none is written."""


@dataclass(frozen=True, slots=True)
class Verdict:
    equal: bool
    outcome: Outcome
    reason: str


Formulas = Callable[[str, str], Awaitable[Verdict]]
"""Decides two formulas of which `same_value` cannot tell."""


def verdict(equal: bool, reason: str = "") -> Verdict:
    return Verdict(equal, Outcome.PASS if equal else Outcome.FAIL, reason)


async def equal(gold: str, answer: str, formulas: Formulas) -> Verdict:
    """Whether a cleaned answer is the cleaned reference."""
    decided = plainly_equal(gold, answer)
    if decided is not None:
        return verdict(decided)
    if letter := forms.choice(gold):
        return verdict(letter == forms.choice(answer))
    sets = forms.real_set(gold), forms.real_set(answer)
    if sets[0] and sets[1]:
        return await _equal_sets(sets[0], sets[1], formulas)
    members = _members(gold), _members(answer)
    if members[0] or members[1]:
        return await _equal_members(gold, answer, *members, formulas)
    one, other = assigned(gold), assigned(answer)
    if one and other and (one[1] != gold or other[1] != answer):
        if not _names_agree(one[0], other[0]):
            return await _equal_relations(gold, answer, formulas)
        return await equal(one[1], other[1], formulas)
    return await _equal_shapes(gold, answer, formulas)


def plainly_equal(gold: str, answer: str) -> bool | None:
    """Equal as text, or decided by exact numbers or as words; None where it takes more to know."""
    if _LOOSE_SPACE.sub("", gold) == _LOOSE_SPACE.sub("", answer):
        return True
    if forms.words(gold) and len(gold) > 1 and not forms.choice(gold):
        if _bare_list(gold) is None:
            return _same_words(gold, answer)
        return True if _same_words(gold, answer) else None
    gold_number, number = quantity(gold), quantity(answer)
    if gold_number is None:
        return None
    if number is None:
        number = decimal_comma(answer)
    if number is None:
        # "6*7" restates a problem whose answer is a number; only "6*7 = 42" may still be one.
        joined = "=" in answer or "\\approx" in answer
        return None if joined or not gold_number.evaluated else False
    return number.same(gold_number)


def _same_words(gold: str, answer: str) -> bool:
    one, other = forms.words(gold), forms.words(answer)
    if not other or gold.isascii() != answer.isascii():
        return False
    plain = all(_STYLED.fullmatch(w) for w in re.findall("[A-Za-z]+", f"{gold} {answer}")
                if w not in ("text", "mathrm", "textbf", "mbox"))  # fmt: skip
    short = len(one) == 2 and one != "no"
    return one == other if plain and not short else _spelled(gold) == _spelled(answer)


def _spelled(text: str) -> str:
    return "".join(re.sub(r"\\[a-z]+|[{}\s]", "", text).split()).rstrip(".")


def assigned(text: str) -> Named | None:
    """What `x = 6*7 = 42` says: ("x", "42"). None for an equation, which assigns nothing.

    Every step must be true: `41 = 42` and `1/3 \\approx 0.5` say nothing. Of an exact value and a
    rounded one, the exact one counts.
    """
    name, values, signs = forms.parts_of_equation(text)
    if not name and not signs:
        return "", values[0]
    joins = signs[-(len(values) - 1) :] if len(values) > 1 else []
    value = values[0]
    rounded = False
    for sign, following in zip(joins, values[1:], strict=True):
        if sign == "=" and not rounded:
            if not _agree(value, following):
                return None
            value = following
        else:
            rounded = True
            if not close(value, following):
                return None
    return (name, value) if value else None


def _agree(one: str, other: str) -> bool:
    left, right = quantity(one), quantity(other)
    if left and right:
        return left.value == right.value and (not left.unit or left.unit == right.unit)
    if left:
        return evaluate(other) == left.value
    return evaluate(one) == right.value if right else same_value(one, other) is True


def _names_agree(gold: str, answer: str) -> bool:
    if gold and answer:
        return gold == answer
    names = re.findall(r"[A-Za-z]\w*", answer) if answer.startswith("(") else []
    return names == sorted(names)


def _bare_list(text: str) -> Listing | None:
    found = forms.listing(text)
    return found if found and not found.opening else None


def _members(text: str) -> tuple[list[Named], str] | None:
    """Items of an unordered collection with their names, and the word between them, or None.

    `x = \\pm 3` and `x = 3, -3` are two items named x; `(x, y) = (2, 3)` has one for each name.
    """
    if quantity(text):
        return None  # the comma of 2,125
    name, value = "", text
    if _bare_list(text) is None:
        if "=" in text and (found := assigned(text)):
            name, value = found
        elif found := forms.MEMBER.fullmatch(text):
            name, value = found.groups()
    shape = forms.listing(value)
    if shape and shape.ordered:
        names = forms.listing(name) if name.startswith("(") else None
        if names is None or len(names.items) != len(shape.items) or shape.opening != "(":
            return None
        return list(zip(names.items, shape.items, strict=True)), ""
    items = shape.items if shape else (value,)
    spread = [sign for item in items for sign in forms.both_signs(item)]
    if shape is None and len(spread) < 2:
        return None
    named: list[Named] = []
    for item in spread:
        found = assigned(item)
        named.append(found if found and found[1] != item else ("", item))
    if named and named[0][0] and not any(n for n, _ in named[1:]):
        name = named[0][0]
    return [(n or name, v) for n, v in named], shape.word if shape else ""


async def _equal_members(
    gold: str,
    answer: str,
    one: tuple[list[Named], str] | None,
    other: tuple[list[Named], str] | None,
    formulas: Formulas,
) -> Verdict:
    tuple_of = forms.listing(answer) if one and not other else None
    all_named = one is not None and len({n for n, _ in one[0] if n}) == len(one[0])
    if tuple_of and tuple_of.opening == "(" and all_named:
        other = [("", item) for item in tuple_of.items], ""
    if one is None and other is not None and (shape := forms.listing(gold)):
        names = [n for n, _ in other[0]]
        if shape.opening == "(" and all(names) and names == sorted(set(names)):
            return await _equal_items(shape.items, tuple(v for _, v in other[0]), True, formulas)
    if one is None or other is None:
        return verdict(False, "one is a collection, the other is not")
    (wanted, word), (found, other_word) = one, other
    if len(wanted) != len(found):
        return verdict(False, f"{len(found)} items, wanted {len(wanted)}")
    related = any(forms.RELATION.search(value) for _, value in (*wanted, *found))
    if related and word != other_word:
        return verdict(False, "other words between the items")
    names, other_names = {n for n, _ in wanted}, {n for n, _ in found}
    if "" not in names and "" not in other_names and names != other_names:
        return verdict(False, "other names")
    if ("" in names and len(names) > 1) or ("" in other_names and len(other_names) > 1):
        return verdict(False, "some items have a name and others have none")
    if len(names) > 1 and len(other_names) > 1:
        if len(names) < len(wanted):
            return verdict(False, "a name twice")
        values = dict(found)
        return await _equal_items(
            tuple(v for _, v in wanted), tuple(values[n] for n, _ in wanted), True, formulas
        )
    ordered = len(names) > 1 or len(other_names) > 1
    return await _equal_items(
        tuple(v for _, v in wanted), tuple(v for _, v in found), ordered, formulas
    )


async def _equal_items(
    gold: tuple[str, ...], answer: tuple[str, ...], ordered: bool, formulas: Formulas
) -> Verdict:
    if len(gold) != len(answer) or len(gold) > _MAX_ITEMS:
        return verdict(False, f"{len(answer)} items, wanted {len(gold)}")
    left = list(answer)
    for item in gold:
        for place in range(1 if ordered else len(left)):
            found = await equal(item, left[place], formulas)
            if found.equal:
                del left[place]
                break
            if found.outcome is not Outcome.FAIL:
                return found
        else:
            return verdict(False, f"no item equals {item[:40]}")
    return verdict(True)


async def _equal_sets(
    gold: tuple[str, tuple[Piece, ...]], answer: tuple[str, tuple[Piece, ...]], formulas: Formulas
) -> Verdict:
    if gold[0] and answer[0] and gold[0] != answer[0]:
        return verdict(False, "another variable")
    if len(gold[1]) != len(answer[1]) or len(gold[1]) > _MAX_ITEMS:
        return verdict(False, "another number of intervals")
    left = list(answer[1])
    for piece in gold[1]:
        for candidate in left:
            if await _same_piece(piece, candidate, formulas):
                left.remove(candidate)
                break
        else:
            return verdict(False, "other intervals")
    return verdict(True)


async def _same_piece(gold: Piece, answer: Piece, formulas: Formulas) -> bool:
    if (gold.low_in, gold.high_in) != (answer.low_in, answer.high_in):
        return False
    low = await equal(gold.low, answer.low, formulas)
    return low.equal and (await equal(gold.high, answer.high, formulas)).equal


async def _equal_shapes(gold: str, answer: str, formulas: Formulas) -> Verdict:
    rows, other_rows = forms.matrix(gold), forms.matrix(answer)
    if rows and other_rows:
        if [len(row) for row in rows] != [len(row) for row in other_rows]:
            return verdict(False, "a matrix of another size")
        entries = [tuple(entry for row in both for entry in row) for both in (rows, other_rows)]
        return await _equal_items(entries[0], entries[1], True, formulas)
    terms, other_terms = forms.ratio(gold), forms.ratio(answer)
    if terms or other_terms:
        return await _equal_items(terms, other_terms, True, formulas)
    shape, other = forms.listing(gold), forms.listing(answer)
    if shape and other:
        if (shape.opening, shape.closing) != (other.opening, other.closing):
            return verdict(False, "other brackets")
        return await _equal_items(shape.items, other.items, shape.ordered, formulas)
    if shape or other or rows or other_rows:
        return verdict(False, "one is a collection, the other is not")
    if forms.relates(gold) or forms.relates(answer):
        return await _equal_relations(gold, answer, formulas)
    if (number := quantity(gold)) and number.evaluated:
        return verdict(False)
    told = same_value(gold, answer)
    return verdict(told) if told is not None else await formulas(gold, answer)


async def _equal_relations(gold: str, answer: str, formulas: Formulas) -> Verdict:
    one, other = forms.relation(gold), forms.relation(answer)
    if one is None or other is None:
        return await _equal_chains(gold, answer, formulas)
    if one[1] != other[1]:
        return verdict(False, "another relation")
    if one[1] == "=" and assigned(gold) and not _LETTER.search(one[2]):
        return verdict(False, "an equation where a value is wanted, or another variable")
    told = None
    if not one[1].startswith("mod"):
        told = same_relation((one[0], one[2]), (other[0], other[2]), one[1] in _ORDERED_SIGNS)
    if told is not None:
        return verdict(told)
    return await _equal_items((one[0], one[2]), (other[0], other[2]), True, formulas)


async def _equal_chains(gold: str, answer: str, formulas: Formulas) -> Verdict:
    signs = forms.RELATION.findall(gold)
    sides, other = forms.split(gold, forms.RELATION), forms.split(answer, forms.RELATION)
    if not signs or signs != forms.RELATION.findall(answer) or len(sides) != len(signs) + 1:
        return verdict(False, "another relation, or a relation where a value is wanted")
    return await _equal_items(sides, other, True, formulas)
