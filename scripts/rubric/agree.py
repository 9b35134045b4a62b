"""`conjoint rubric agree RUBRIC...`: how far a judge agrees with human labels, with a verifier,
with another judge, and with itself when the answers change places."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError, Group, Message, Status, Trajectory
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.registry import always_judged, reference_check
from conjoint.rewards.rubrics.rubric import Rubric
from conjoint.scripts.grade.config import GradeConfig
from conjoint.scripts.grade.run import make_grader
from conjoint.scripts.rubric.preview import cost
from conjoint.scripts.rubric.shared.config import AgreeConfig, load_as
from conjoint.scripts.rubric.shared.figures import Points, clustered, habits, warnings
from conjoint.scripts.rubric.shared.judged import (
    Judged,
    judge_pairs,
    load_named,
    unknown_to_nano,
    unseen_mandatory,
)
from conjoint.scripts.rubric.shared.page import Card, Page, Table, excerpt, share
from conjoint.scripts.rubric.shared.rows import Answers, read_answers
from conjoint.scripts.rubric.shared.session import Session, session

_SWAP = {"A": "B", "B": "A", "tie": "tie"}
_CARDS = 200
Truth = str
"""A, B or tie, by a label."""
Verdicts = dict[tuple[str, str, str], str]
"""(task id, answer a, answer b) -> the other judge's winner."""


@dataclass(frozen=True, slots=True)
class Against:
    """A judged pair beside the truth of its labels, None where there is none."""

    pair: Judged
    truth: Truth | None

    @property
    def points(self) -> float | None:
        """1 for the label's winner, 0.5 for a tie against a winner, 0 for the other; None if there
        is nothing to compare."""
        if self.truth is None or self.pair.winner is None:
            return None
        if self.pair.winner == self.truth:
            return 1.0
        return 0.5 if self.pair.winner == "tie" else 0.0


def run(words: Sequence[str]) -> int:
    """Print the tables and write the page; 0, or 128 + the signal that ended it."""
    cfg = load_as(AgreeConfig, words)
    rubrics = load_named(cfg)
    groups = read_answers(cfg.input, cfg.limit, cfg.label)
    others = read_verdicts(cfg.against) if cfg.against else {}
    if cfg.verifier:
        groups = asyncio.run(verified(cfg, groups))

    async def work(now: Session) -> None:
        judge = Judge(cfg.judge)
        judged = await judge_pairs(
            judge, groups, rubrics, now.judge, cfg.seed, correctness=not rubrics
        )
        page = agree_page(cfg, rubrics, judged, others)
        page.tables.append(cost(cfg, judged, now.judge))
        now.finish(page, judged)

    return session("agree", cfg, rubrics, work, groups)


async def verified(cfg: AgreeConfig, groups: Sequence[Answers]) -> list[Answers]:
    """The groups with a verifier's scores as labels. Raises ConjointError."""
    if always_judged(cfg.verifier):
        raise ConjointError(
            f"verifier={cfg.verifier} is a judge's opinion; name one that proves, such as math"
        )
    reward = GradeConfig(rewards=[cfg.verifier], sandbox=cfg.sandbox, seed=cfg.seed)
    reward.validate()
    check = reference_check([cfg.verifier], cfg.sandbox, answers_known=True)
    for group in groups:
        try:
            if check is not None:
                check(group.task.reference)
        except (ConjointError, ValueError) as error:
            raise ConjointError(
                f"{cfg.input}: answer {group.ids[0]} has a reference that verifier={cfg.verifier} "
                f"cannot use: {error}"
            ) from error
    grader = make_grader(reward, {group.task.kind for group in groups})

    async def one(group: Answers) -> Answers:
        answers = [
            Trajectory(
                messages=[*group.task.messages, Message(role="assistant", content=text)],
                status=Status.COMPLETED,
            )
            for text in group.texts
        ]
        scored = await grader.score(Group(group.task, answers), cfg.seed)
        return replace(group, labels=[t.scores[0].value for t in scored.trajectories])

    try:
        await grader.start()
        return list(await asyncio.gather(*map(one, groups)))
    finally:
        await grader.close()


def truth_of(pair: Judged) -> Truth | None:
    """Which answer the labels prefer; None where one has no label, or two numbers are equal."""
    if pair.group.better is not None:
        return pair.group.better
    labels = pair.group.labels
    a, b = (labels[i] if labels else None for i in (pair.i, pair.j))
    if a is None or b is None or a == b:
        return None
    return "A" if a > b else "B"


def read_verdicts(path: str) -> Verdicts:
    """Another judge's winners from its verdicts.jsonl, in both directions. Raises ConjointError."""
    found: Verdicts = {}
    where, rows = open_rows(path)
    for number, row in rows:
        *key, winner = (row.get(k) for k in ("task", "response_a", "response_b", "winner"))
        if not all(isinstance(text, str) for text in key) or winner not in [*_SWAP, None]:
            raise ConjointError(
                f"against={path} {where} {number}: expected the fields task, response_a, "
                "response_b and winner, as in the verdicts.jsonl that preview or agree wrote"
            )
        task, a, b = map(str, key)
        if winner is not None:
            found[task, a, b], found[task, b, a] = winner, _SWAP[winner]
    return found


# -- in words ----------------------------------------------------------------------------------


def agree_page(
    cfg: AgreeConfig, rubrics: Sequence[Rubric], judged: Sequence[Judged], others: Verdicts
) -> Page:
    compared = [Against(pair, truth_of(pair)) for pair in judged]
    labelled = [c for c in compared if c.truth is not None]
    by = f"the verifier {cfg.verifier}" if cfg.verifier else "the labels"
    page = Page(
        "Agreement of a judge",
        [
            f"judge: {cfg.judge_name} (template {cfg.judge.template})",
            "asked: "
            + (", ".join(f"{r.name} v{r.version}" for r in rubrics) or "which answer is correct"),
            f"{len(judged)} pairs of {len({p.group.task.id for p in judged})} prompts",
        ],
        [*unknown_to_nano(cfg, rubrics), *unseen_mandatory(cfg, rubrics), *warnings(judged)],
    )
    if labelled:
        page.tables.append(_with_labels(by, labelled))
    else:
        page.notices.append(
            f"No pair has a label that tells its answers apart (field '{cfg.label}', a pair's "
            "winner, chosen and rejected, or verifier=NAME): the judge is measured against itself."
        )
    if others:
        page.tables.append(_with_other(cfg, judged, others))
    page.tables.append(habits(judged))
    page.cards_title = f"Where the judge and {by} differ"
    wrong = sorted((c for c in labelled if c.points in (0.0, 0.5)), key=lambda c: c.points or 0.0)
    page.cards = [_card(c, by) for c in wrong[:_CARDS]]
    return page


def _with_labels(by: str, labelled: Sequence[Against]) -> Table:
    known = [(c, c.points) for c in labelled if c.points is not None]
    decided = [(c, p) for c, p in known if c.pair.winner != "tie"]
    apart = [c for c in labelled if c.truth != "tie" and len(c.pair.a) != len(c.pair.b)]
    longer = [
        (c.pair.group.task.id, float((c.truth == "A") == (len(c.pair.a) > len(c.pair.b))))
        for c in apart
    ]
    rows = [
        ("pairs with a label", f"{len(labelled):,}"),
        ("  masked, left out", f"{len(labelled) - len(known):,}"),
        ("agreement (a tie counts half)", share(clustered(_points(known)))),
        ("agreement where the judge decided", share(clustered(_points(decided)))),
        ("what 'the longer is better' would reach", share(clustered(longer))),
        ("opposite verdicts", f"{sum(p == 0.0 for _, p in known):,}"),
    ]
    note = "[ ] 95 % intervals, n prompts. 50 % is chance."
    return Table(f"Against {by}", ("figure", "value"), rows, note)


def _points(compared: Sequence[tuple[Against, float]]) -> Points:
    return ((c.pair.group.task.id, p) for c, p in compared)


def _with_other(cfg: AgreeConfig, judged: Sequence[Judged], others: Verdicts) -> Table:
    both = [(p, others[p.key]) for p in judged if p.winner is not None and p.key in others]
    if not both:
        raise ConjointError(
            f"against={cfg.against} holds no pair of {cfg.input}; judge the same responses, as "
            "responses.jsonl of a preview"
        )
    firm = [(p, other) for p, other in both if "tie" not in (p.winner, other)]
    rows = [
        ("pairs that both judged", f"{len(both):,}"),
        ("the same verdict, ties included", share(clustered(_same(both)))),
        ("the same winner where both decided", share(clustered(_same(firm)))),
        ("opposite winners", f"{sum(p.winner != other for p, other in firm):,}"),
    ]
    return Table(f"Against the judge of {cfg.against}", ("figure", "value"), rows)


def _same(pairs: Sequence[tuple[Judged, str]]) -> Iterator[tuple[str, float]]:
    return ((p.group.task.id, float(p.winner == other)) for p, other in pairs)


def _card(compared: Against, by: str) -> Card:
    pair = compared.pair
    return Card(
        f"{by}: {compared.truth}, judge: {pair.winner} · {excerpt(pair.group.task.prompt, 60)}",
        f"A = {pair.group.ids[pair.i]}, B = {pair.group.ids[pair.j]}",
        [
            ("prompt", pair.group.task.prompt),
            ("A", pair.a),
            ("B", pair.b),
            ("the judge's reasons", pair.verdict.reason),
        ],
    )
