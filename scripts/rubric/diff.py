"""`conjoint rubric diff OLD NEW`: what changed between two versions of a rubric, which pairs of the
same responses flip, and why."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.criteria import meets
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rewards.rubrics.rubric import Criterion, Rubric
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.rubric.preview import asks_criteria, cost
from conjoint.scripts.rubric.shared.config import DiffConfig, load_as
from conjoint.scripts.rubric.shared.figures import clustered, swap_consistency, warnings
from conjoint.scripts.rubric.shared.judged import (
    Judged,
    judge_pairs,
    unknown_to_nano,
    unseen_mandatory,
)
from conjoint.scripts.rubric.shared.page import Card, Page, Table, excerpt, share
from conjoint.scripts.rubric.shared.session import Session, responses, session

_ALIKE = 0.6
"""Similarity of two texts from which one is the other reworded."""


Version = tuple[Rubric, Sequence[Judged]]
"""A rubric, and the pairs judged by it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference of two versions; `old` or `new` is "" for what was added or removed."""

    what: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Flip:
    """A pair that the two versions judge differently, with what the judge says of each criterion
    that changed."""

    old: Judged
    new: Judged
    criteria: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        if self.new.winner == "tie":
            return "decided -> tie"
        return "tie -> decided" if self.old.winner == "tie" else "turned"


def run(words: Sequence[str]) -> int:
    """Print the tables and write the page; 0, or 128 + the signal that ended it."""
    cfg = load_as(DiffConfig, words)
    old, new = (load_rubrics([name], key="rubrics")[0] for name in cfg.rubrics)

    async def work(now: Session) -> None:
        groups, notices = await responses(cfg, now)
        judge = Judge(cfg.judge)
        before = await judge_pairs(judge, groups, [old], now.judge, cfg.seed)
        after = await judge_pairs(judge, groups, [new], now.judge, cfg.seed)
        flips = await flipped(cfg, judge, (old, before), (new, after), now.judge)
        page = diff_page(cfg, (old, before), (new, after), flips)
        page.notices += notices
        page.tables.append(cost(cfg, [*before, *after], now.judge))
        now.finish(page, after, groups)

    return session("diff", cfg, [old, new], work)


async def flipped(
    cfg: DiffConfig, judge: Judge, was: Version, now: Version, policy: ChatPolicy
) -> list[Flip]:
    """The pairs whose winner changed; of each the changed criteria are asked one by one, where the
    template can ask for one."""
    found = [
        Flip(b, a)
        for b, a in zip(was[1], now[1], strict=True)
        if b.winner != a.winner and None not in (b.winner, a.winner)
    ]
    if not asks_criteria(cfg):
        return found
    changed = changed_criteria(was[0], now[0])
    context = RewardContext(seed=cfg.seed, judge=policy)
    return list(
        await asyncio.gather(*(_explained(judge, flip, changed, context) for flip in found))
    )


async def _explained(
    judge: Judge,
    flip: Flip,
    changed: Sequence[tuple[str, Rubric, Criterion]],
    context: RewardContext,
) -> Flip:
    said = []
    for sign, rubric, criterion in changed:
        a, b = await asyncio.gather(
            *(
                meets(judge, flip.new.group.task, text, rubric, criterion, context)
                for text in (flip.new.a, flip.new.b)
            )
        )
        words = ["unreadable" if c is None else c.option for c in (a, b)]
        said.append(f"{sign} {criterion.text} A: {words[0]}, B: {words[1]}")
    return Flip(flip.old, flip.new, tuple(said))


def changed_criteria(old: Rubric, new: Rubric) -> list[tuple[str, Rubric, Criterion]]:
    """("-" or "+", rubric, criterion) of those that only one version has."""
    gone = [("-", old, c) for c in old.criteria if c not in new.criteria]
    return gone + [("+", new, c) for c in new.criteria if c not in old.criteria]


def changes(old: Rubric, new: Rubric) -> list[Change]:
    """Every difference in meaning, criteria matched by their likeness."""
    found = [
        Change(key, str(getattr(old, key)), str(getattr(new, key)))
        for key in ("name", "version", "kind", "intent", "short", "alternative_to")
        if getattr(old, key) != getattr(new, key)
    ]
    if old.applies_to != new.applies_to:
        found.append(Change("applies_to", ", ".join(old.applies_to), ", ".join(new.applies_to)))
    left = [c for c in new.criteria if c not in old.criteria]
    for criterion in (c for c in old.criteria if c not in new.criteria):
        near = max(left, key=lambda c: _likeness(criterion.text, c.text), default=None)
        if near is not None and _likeness(criterion.text, near.text) >= _ALIKE:
            left.remove(near)
            found.append(Change("criterion changed", _words(criterion), _words(near)))
        else:
            found.append(Change("criterion removed", _words(criterion), ""))
    found += [Change("criterion added", "", _words(c)) for c in left]
    lists = (
        ("good example", old.good, new.good),
        ("bad example", old.bad, new.bad),
        ("forbidden opening", _patterns(old, "opening"), _patterns(new, "opening")),
        ("forbidden anywhere", _patterns(old, "anywhere"), _patterns(new, "anywhere")),
    )
    for what, was, now in lists:
        found += [Change(f"{what} removed", text, "") for text in was if text not in now]
        found += [Change(f"{what} added", "", text) for text in now if text not in was]
    return found


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _words(criterion: Criterion) -> str:
    must = ", must" if criterion.mandatory else ""
    return f"{criterion.text} (weight {criterion.weight:g}{must})"


def _patterns(rubric: Rubric, where: str) -> list[str]:
    return [pattern.pattern for pattern in getattr(rubric, f"forbidden_{where}")]


# -- in words ----------------------------------------------------------------------------------


def diff_page(cfg: DiffConfig, was: Version, now: Version, flips: Sequence[Flip]) -> Page:
    (old, before), (new, after) = was, now
    changed = changes(old, new)
    page = Page(
        f"Rubric diff: {_name(old)} -> {_name(new)}",
        [
            f"{len(before)} pairs of {len({p.group.task.id for p in before})} prompts, judged by "
            f"{cfg.judge_name} (template {cfg.judge.template})",
            f"{len(flips)} pairs flip",
        ],
        [
            *unknown_to_nano(cfg, [old, new]),
            *unseen_mandatory(cfg, [old, new]),
            *warnings([*before, *after]),
        ],
        [
            Table(
                "What changed", ("what", "old", "new"), [(c.what, c.old, c.new) for c in changed]
            ),
            _shares(before, after, flips),
        ],
        "Pairs that flip, and why",
        [_card(flip) for flip in flips],
    )
    if not changed:
        page.notices.append("The two versions are the same; what flips is the judge's own noise.")
    elif (old.name, old.version) == (new.name, new.version):
        page.notices.append("The version is the same: raise it whenever the meaning changes.")
    if flips:
        rows = [(*_place(f), f.kind, f"{f.old.winner} -> {f.new.winner}", _why(f)) for f in flips]
        columns = ("prompt", "A", "B", "kind", "winner", "why")
        page.tables.append(Table("Flips", columns, rows))
    return page


def _name(rubric: Rubric) -> str:
    return f"{rubric.name} v{rubric.version}"


def _shares(before: Sequence[Judged], after: Sequence[Judged], flips: Sequence[Flip]) -> Table:
    turned = {id(flip.new) for flip in flips}
    both = [
        (b, a)
        for b, a in zip(before, after, strict=True)
        if b.winner is not None and a.winner is not None
    ]
    kinds = Counter(flip.kind for flip in flips)
    rows = [
        ("pairs that both versions judged", f"{len(both):,}"),
        ("  masked by one of them", f"{len(before) - len(both):,}"),
        (
            "share that flips",
            share(clustered((a.group.task.id, float(id(a) in turned)) for _, a in both)),
        ),
        *((f"  {kind}", f"{count:,}") for kind, count in kinds.most_common()),
        ("swap-consistency, old", share(swap_consistency(before))),
        ("swap-consistency, new", share(swap_consistency(after))),
    ]
    note = "[ ] 95 % intervals, n prompts. A judge that is not consistent flips by itself."
    return Table("Flips in figures", ("figure", "value"), rows, note)


def _place(flip: Flip) -> tuple[str, str, str]:
    pair = flip.new
    return excerpt(pair.group.task.prompt, 40), pair.group.ids[pair.i], pair.group.ids[pair.j]


def _why(flip: Flip) -> str:
    return excerpt("; ".join(flip.criteria) or flip.new.verdict.reason, 160)


def _card(flip: Flip) -> Card:
    pair = flip.new
    blocks = [
        ("prompt", pair.group.task.prompt),
        (f"A: answer {pair.group.ids[pair.i]}", pair.a),
        (f"B: answer {pair.group.ids[pair.j]}", pair.b),
        (f"old: {flip.old.winner}", flip.old.verdict.reason),
        (f"new: {flip.new.winner}", flip.new.verdict.reason),
    ]
    if flip.criteria:
        blocks.append(("criteria that only one version has", "\n".join(flip.criteria)))
    return Card(
        f"{flip.kind}: {flip.old.winner} -> {flip.new.winner} · "
        f"{excerpt(pair.group.task.prompt, 60)}",
        f"{len(flip.criteria)} criteria asked by themselves" if flip.criteria else "",
        blocks,
    )
