"""`conjoint rubric preview RUBRIC...`: what a judge makes of some responses by these rubrics, and
what it costs, before a run spends anything on them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.choice import Choice
from conjoint.rewards.judge.criteria import meets
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.rubrics.find import rubrics_for
from conjoint.rewards.rubrics.rubric import Criterion, Rubric
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.rubric.shared.config import JudgedConfig, PreviewConfig, load_as
from conjoint.scripts.rubric.shared.figures import clustered, habits, warnings
from conjoint.scripts.rubric.shared.judged import (
    Judged,
    by_group,
    judge_pairs,
    load_named,
    unknown_to_nano,
    unseen_mandatory,
    win_rates,
)
from conjoint.scripts.rubric.shared.meter import Meter
from conjoint.scripts.rubric.shared.page import Card, Page, Table, excerpt, share
from conjoint.scripts.rubric.shared.rows import Answers
from conjoint.scripts.rubric.shared.session import Session, responses, session

RUN_GROUP = 8
"""Answers of a group for which the cost in a run is worked out."""


@dataclass(slots=True)
class Previewed:
    """What a preview found."""

    judged: list[Judged]
    criteria: dict[tuple[str, int], list[tuple[Answers, int, Choice | None]]] = field(
        default_factory=dict
    )
    """(rubric, number of the criterion) -> (group, answer, the judge's yes or no)."""


def run(words: Sequence[str]) -> int:
    """Print the tables, write the page; 0, or 128 + the signal that ended it."""
    cfg = load_as(PreviewConfig, words)
    rubrics = load_named(cfg)

    async def work(now: Session) -> None:
        groups, notices = await responses(cfg, now)
        found = await preview(cfg, groups, rubrics, now.judge)
        page = preview_page(cfg, groups, rubrics, found, now.judge)
        page.notices += notices
        now.finish(page, found.judged, groups)

    return session("preview", cfg, rubrics, work)


async def preview(
    cfg: PreviewConfig, groups: Sequence[Answers], rubrics: Sequence[Rubric], policy: ChatPolicy
) -> Previewed:
    """Judge all pairs, then each criterion of each answer where the template can ask for it."""
    judge = Judge(cfg.judge)
    found = Previewed(await judge_pairs(judge, groups, rubrics, policy, cfg.seed))
    if asks_criteria(cfg):
        found.criteria = await criteria_of(judge, groups, rubrics, policy, cfg.seed)
    return found


def asks_criteria(cfg: PreviewConfig) -> bool:
    """A policy that learned the compact form knows no other question."""
    return cfg.criteria and cfg.judge.template != "compact"


async def criteria_of(
    judge: Judge,
    groups: Sequence[Answers],
    rubrics: Sequence[Rubric],
    policy: ChatPolicy,
    seed: int,
) -> dict[tuple[str, int], list[tuple[Answers, int, Choice | None]]]:
    context = RewardContext(seed=seed, judge=policy)

    async def one(
        group: Answers, index: int, rubric: Rubric, n: int, criterion: Criterion
    ) -> tuple[tuple[str, int], tuple[Answers, int, Choice | None]]:
        said = await meets(judge, group.task, group.texts[index], rubric, criterion, context)
        return (rubric.name, n), (group, index, said)

    asked = [
        one(group, index, rubric, n, criterion)
        for group in groups
        for rubric in rubrics_for(group.task, rubrics, seed)
        for n, criterion in enumerate(rubric.criteria)
        for index in range(len(group.texts))
    ]
    found: dict[tuple[str, int], list[tuple[Answers, int, Choice | None]]] = {}
    for key, answer in await asyncio.gather(*asked):
        found.setdefault(key, []).append(answer)
    return found


# -- in words ----------------------------------------------------------------------------------


def preview_page(
    cfg: PreviewConfig,
    groups: Sequence[Answers],
    rubrics: Sequence[Rubric],
    found: Previewed,
    meter: Meter,
) -> Page:
    page = Page(
        "Rubric preview: " + ", ".join(r.name for r in rubrics),
        [
            *(f"{r.name} v{r.version} ({r.kind}): {r.intent}" for r in rubrics),
            f"{sum(len(g.texts) for g in groups)} answers to {len(groups)} prompts, judged by "
            f"{cfg.judge_name} (template {cfg.judge.template})",
        ],
        [
            *unknown_to_nano(cfg, rubrics),
            *unseen_mandatory(cfg, rubrics),
            *warnings(found.judged),
            *_unreadable_criteria(found),
        ],
    )
    pairs = by_group(found.judged)
    rates = {id(group): win_rates(group, some) for group, some in pairs}
    page.tables.append(_ranking(pairs, rates))
    if found.criteria:
        page.tables.append(_hit_rates(rubrics, groups, found, rates))
    elif cfg.criteria:
        page.notices.append("The compact template has no question about a single criterion.")
    page.tables += [habits(found.judged), cost(cfg, found.judged, meter)]
    page.cards_title = "Every prompt, with ranking and reasons"
    page.cards = [_card(group, some, rates[id(group)], found) for group, some in pairs]
    return page


def _order(rates: Sequence[float | None]) -> list[int]:
    """Answers from the best to the worst; those without a rate are last."""
    known = [-1.0 if rate is None else rate for rate in rates]
    return sorted(range(len(known)), key=lambda i: -known[i])


def _worth(rate: float | None) -> str:
    return "masked" if rate is None else f"{rate:.2f}"


def _ranking(
    pairs: Sequence[tuple[Answers, list[Judged]]], rates: dict[int, list[float | None]]
) -> Table:
    rows = []
    for group, _ in pairs:
        mine = rates[id(group)]
        for place, i in enumerate(_order(mine), 1):
            prompt = excerpt(group.task.prompt, 40) if place == 1 else ""
            rows.append((prompt, str(place), group.ids[i], _worth(mine[i]), _said(group, i)))
    note = "The win rate is the answer's reward in a run: its mean over its unmasked pairs."
    return Table("Ranking", ("prompt", "place", "answer", "win rate", "begins"), rows, note)


def _said(group: Answers, i: int) -> str:
    return excerpt(group.texts[i], 60) or "(empty)"


def _hit_rates(
    rubrics: Sequence[Rubric],
    groups: Sequence[Answers],
    found: Previewed,
    rates: dict[int, list[float | None]],
) -> Table:
    """How often each criterion is met: by all answers, by the best and by the worst of a prompt."""
    known = {r.name: r for g in groups for r in [*rubrics, *_own(g)]}
    rows = []
    for (name, n), answers in sorted(found.criteria.items()):
        criterion = known[name].criteria[n]
        read = [(g, i, float(c.option == "yes")) for g, i, c in answers if c is not None]
        best = [v for g, i, v in read if id(g) in rates and _order(rates[id(g)])[0] == i]
        worst = [v for g, i, v in read if id(g) in rates and _order(rates[id(g)])[-1] == i]
        rows.append(
            (
                name,
                excerpt(criterion.text, 70),
                f"{criterion.weight:g}" + (" must" if criterion.mandatory else ""),
                share(clustered((g.task.id, v) for g, _, v in read)),
                f"{fmean(best):.0%} / {fmean(worst):.0%}" if best and worst else "-",
                str(len(answers) - len(read)),
            )
        )
    columns = ("rubric", "criterion", "weight", "met", "by the best / worst answers", "unreadable")
    note = (
        "A criterion that all answers meet, or none, separates nothing; one that the worst answers "
        "meet more often than the best works against the others."
    )
    return Table("Per criterion", columns, rows, note)


def _unreadable_criteria(found: Previewed) -> list[str]:
    said = [choice for answers in found.criteria.values() for _, _, choice in answers]
    bad = sum(choice is None for choice in said)
    if 2 * bad <= len(said):
        return []
    return [
        f"{bad} of {len(said)} replies on single criteria could not be read: this judge does not "
        "answer yes or no, so the hit rates say little."
    ]


def _own(group: Answers) -> list[Rubric]:
    return rubrics_for(group.task, [], 0)


def cost(cfg: JudgedConfig, judged: Sequence[Judged], meter: Meter) -> Table:
    """What was asked, and what a group of a run would ask."""
    per_call = (meter.prompt_tokens + meter.tokens) / max(1, meter.calls)
    all_pairs = RUN_GROUP * (RUN_GROUP - 1)
    wanted = cfg.judge.pairs_per_answer
    chosen = RUN_GROUP * wanted if 0 < wanted < RUN_GROUP - 1 else all_pairs
    rows = [
        (f"all that was asked about these {len(judged):,} pairs", meter.words()),
        ("tokens of a call", f"{per_call:,.0f}"),
        (
            f"a group of {RUN_GROUP} in a run, judge.pairs_per_answer={wanted}",
            f"{chosen} calls, about {chosen * per_call:,.0f} tokens",
        ),
    ]
    if chosen != all_pairs:
        rows.append(
            (
                f"a group of {RUN_GROUP}, round robin",
                f"{all_pairs} calls, about {all_pairs * per_call:,.0f} tokens",
            )
        )
    return Table("Cost", ("what", "value"), rows)


def _card(
    group: Answers, pairs: Sequence[Judged], rates: Sequence[float | None], found: Previewed
) -> Card:
    blocks = [("prompt", group.task.prompt)]
    for place, i in enumerate(_order(rates), 1):
        blocks.append((f"{place}. answer {group.ids[i]}, {_worth(rates[i])}", group.texts[i]))
        said = [
            f"{name} {n + 1}: {c.option}" + (f" ({c.reason})" if c.reason else "")
            for (name, n), answers in sorted(found.criteria.items())
            for g, index, c in answers
            if g is group and index == i and c is not None
        ]
        if said:
            blocks.append(("criteria", "\n".join(said)))
    why = [
        f"A = {group.ids[p.i]}, B = {group.ids[p.j]}: "
        f"{'masked' if p.winner is None else p.winner}; {p.verdict.reason}"
        for p in pairs
    ]
    return Card(
        excerpt(group.task.prompt),
        f"kind {group.task.kind}, {len(pairs)} pairs",
        [*blocks, ("pairs, with the judge's reasons", "\n".join(why))],
    )
