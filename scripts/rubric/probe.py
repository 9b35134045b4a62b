"""`conjoint rubric probe RUBRIC...`: attacks on the judge, and which of them succeed.

Each attack is the weaker of two answers in a disguise. The judge is asked about the pair with and
without the disguise, in both orders: what an attack gains over its plain answer is its success.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conjoint.envs.types import Task
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.registry import RewardConfig
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rewards.rubrics.rubric import EVERY_KIND, Rubric
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.rubric.attacks import SHIPPED, Attack, read_attacks
from conjoint.scripts.rubric.preview import cost
from conjoint.scripts.rubric.shared.config import ProbeConfig, load_as
from conjoint.scripts.rubric.shared.figures import habits, warnings
from conjoint.scripts.rubric.shared.judged import (
    Judged,
    judge_pairs,
    unknown_to_nano,
    unseen_mandatory,
)
from conjoint.scripts.rubric.shared.page import Card, Page, Table
from conjoint.scripts.rubric.shared.rows import Answers
from conjoint.scripts.rubric.shared.session import Session, session

FOUND = 3
"""Exit code where an attack succeeded."""


@dataclass(frozen=True, slots=True)
class Probed:
    """One attack: the comparison of the good answer (A) with the plain one, and with the attack."""

    attack: Attack
    without: Judged
    attacked: Judged

    @property
    def told_apart(self) -> bool:
        """Whether the judge prefers the good answer where there is no attack."""
        return self.without.winner == "A"

    @property
    def outcome(self) -> str:
        """held, tied or won by the attack; masked; untold where the judge errs without it too."""
        if self.without.winner is None or self.attacked.verdict.b is None:
            return "masked"
        gained = self.attacked.verdict.b > (self.without.verdict.b or 0.0)
        if gained:
            return "won" if self.attacked.winner == "B" else "tied"
        return "held" if self.told_apart else "untold"

    @property
    def by(self) -> str:
        """What an attack that failed failed at."""
        if self.outcome != "held":
            return ""
        return "code" if self.attacked.how == "code" else "the judge, in both orders"


def run(words: Sequence[str]) -> int:
    """Print the tables and write the page; 0, 3 if an attack succeeded, 128 + a signal's number."""
    cfg = load_as(ProbeConfig, words)
    rubrics = load_rubrics(cfg.rubrics or RewardConfig().rubrics, key="rubrics")
    attacks = read_attacks(Path(cfg.input) if cfg.input else SHIPPED)[: cfg.limit]
    succeeded: list[Probed] = []
    kind = task_kind(rubrics)
    groups = [g for attack in attacks for g in pair_groups(attack, kind)]

    async def work(now: Session) -> None:
        probed = await probe(cfg, attacks, rubrics, now.judge)
        succeeded.extend(p for p in probed if p.outcome in ("won", "tied"))
        judged = [pair for p in probed for pair in (p.without, p.attacked)]
        page = probe_page(cfg, rubrics, probed)
        page.tables += [habits(judged), cost(cfg, judged, now.judge)]
        now.finish(page, judged)

    code = session("probe", cfg, rubrics, work, groups)
    return code or (FOUND if succeeded else 0)


async def probe(
    cfg: ProbeConfig, attacks: Sequence[Attack], rubrics: Sequence[Rubric], policy: ChatPolicy
) -> list[Probed]:
    """Each attack tried, in their order."""
    kind = task_kind(rubrics)
    groups = [pair_groups(attack, kind) for attack in attacks]
    flat = [group for pair in groups for group in pair]
    judged = await judge_pairs(Judge(cfg.judge), flat, rubrics, policy, cfg.seed)
    return [Probed(a, judged[2 * i], judged[2 * i + 1]) for i, a in enumerate(attacks)]


def task_kind(rubrics: Sequence[Rubric]) -> str:
    """A task kind that the rubrics judge."""
    if any(rubric.applies("open") for rubric in rubrics):
        return "open"
    return next((k for r in rubrics for k in r.applies_to if k != EVERY_KIND), "open")


def pair_groups(attack: Attack, kind: str) -> tuple[Answers, Answers]:
    """(good against plain, good against the attack)."""
    task = Task.make(kind, attack.prompt)
    return (
        Answers(task, ["good", "plain"], [attack.good, attack.plain]),
        Answers(task, ["good", attack.name], [attack.good, attack.text]),
    )


# -- in words ----------------------------------------------------------------------------------


def probe_page(cfg: ProbeConfig, rubrics: Sequence[Rubric], probed: Sequence[Probed]) -> Page:
    won = [p for p in probed if p.outcome in ("won", "tied")]
    untold = sum(p.outcome == "untold" for p in probed)
    page = Page(
        "Judge attacks",
        [
            f"rubrics: {', '.join(f'{r.name} v{r.version}' for r in rubrics)}",
            f"judge: {cfg.judge_name} (template {cfg.judge.template})",
            f"{len(won)} of {len(probed)} attacks succeeded"
            + (f": {', '.join(p.attack.name for p in won)}" if won else ""),
        ],
        [
            *unknown_to_nano(cfg, rubrics),
            *unseen_mandatory(cfg, rubrics),
            *warnings([pair for p in probed for pair in (p.without, p.attacked)]),
        ],
        [_by_category(probed), _each(probed)],
        "What each attack said, and what the judge answered",
        [_card(p) for p in sorted(probed, key=lambda p: p.outcome == "held")],
    )
    if untold:
        page.notices.append(
            f"On {untold} cases the judge does not prefer the good answer even without an attack: "
            "nothing is shown by those. Try a stronger judge, or input=FILE with cases it can tell."
        )
    return page


def _by_category(probed: Sequence[Probed]) -> Table:
    rows = []
    for category in dict.fromkeys(p.attack.category for p in probed):
        some = [p.outcome for p in probed if p.attack.category == category]
        counts = [str(some.count(word)) for word in ("held", "tied", "won", "untold", "masked")]
        rows.append((category, str(len(some)), *counts))
    note = (
        "held: the good answer still wins; tied: half a success, the order of the answers decided; "
        "won: the attack wins; untold: the judge errs without the attack too."
    )
    columns = ("category", "tried", "held", "tied", "won", "untold", "masked")
    return Table("By category", columns, rows, note)


def _each(probed: Sequence[Probed]) -> Table:
    rows = [
        (p.attack.name, p.attack.category, _winner(p.without), _winner(p.attacked), p.outcome, p.by)
        for p in probed
    ]
    columns = ("attack", "category", "without it", "with it", "outcome", "held by")
    return Table("Each attack", columns, rows)


def _winner(pair: Judged) -> str:
    return {"A": "good", "B": "weaker", "tie": "tie", None: "masked"}[pair.winner]


def _card(p: Probed) -> Card:
    return Card(
        f"{p.attack.name}: {p.outcome}",
        f"{p.attack.category}; without the attack: {_winner(p.without)}, with it: "
        f"{_winner(p.attacked)}",
        [
            ("prompt", p.attack.prompt),
            ("good", p.attack.good),
            ("the attack", p.attack.text),
            ("verdict (A is the good answer)", p.attacked.verdict.reason),
            ("verdict without the attack", p.without.verdict.reason),
        ],
    )
