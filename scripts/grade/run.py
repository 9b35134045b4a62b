"""Stored responses -> verdicts: the rows of a file, graded by the rewards of a run outside one."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from conjoint.envs.sources.dataset import no_reference
from conjoint.envs.types import (
    Completion,
    ConjointError,
    Group,
    Message,
    Outcome,
    Score,
    Status,
    Trajectory,
)
from conjoint.rewards.assign import assign_rewards
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.registry import OwnRewards, load_own_reward, reference_check
from conjoint.scripts.eval.grader import Grader
from conjoint.scripts.grade.config import GradeConfig
from conjoint.scripts.grade.rows import GradeRow, grouped, read_rows
from conjoint.scripts.grade.verdict import BAD_REFERENCE, Verdict
from conjoint.scripts.grade.words import Progress, verdict_words
from conjoint.scripts.new_file import growing_file, put_in_order

Check = Callable[[Any], None]
"""Checks a task's reference. Raises ConjointError or ValueError for one that cannot be used."""


def grade(cfg: GradeConfig, skipped: Counter[str] | None = None) -> list[Verdict]:
    """Verdicts on the rows of `cfg.input`, in order, written to `cfg.output` as they are ready and
    put in order at the end. Rows of other kinds than `cfg.kinds` are counted in `skipped`.

    Raises ConjointError for a file that is malformed, before anything is graded, and
    SandboxUnavailable where programs cannot be run safely.
    """
    cfg.check_output()
    rows = _input(cfg, skipped)
    written: list[Verdict] = []
    with growing_file(cfg.output, overwrite=cfg.replaces_output) as out:

        def write(verdicts: Sequence[Verdict]) -> None:
            for verdict in verdicts:
                out.write(verdict.plain())
                written.append(verdict)

        try:
            verdicts = _grade(cfg, rows, write)
        except BaseException:
            if written:
                print(f"ended early: {len(written):,} of {len(rows):,} rows are in {cfg.output}")
            raise
    if written != verdicts:
        put_in_order(cfg.output, (verdict.plain() for verdict in verdicts))
    return verdicts


def explain(cfg: GradeConfig) -> list[str]:
    """One row in words, graded together with its group; nothing is written."""
    rows = _input(cfg)
    row = next((r for r in rows if not cfg.row or str(r.id) == cfg.row), None)
    if row is None:
        raise ConjointError(f"row={cfg.row}: {cfg.input} has no row of this id")
    members = [r for r in rows if r.group == row.group]
    verdicts = _grade(cfg, members)
    verdict = next(v for v in verdicts if v.row is row)
    return verdict_words(cfg, verdict, [v for v in verdicts if v.row is not row])


def _input(cfg: GradeConfig, skipped: Counter[str] | None = None) -> list[GradeRow]:
    if not cfg.input:
        raise ConjointError("input is not given; name the file of rows to grade: input=FILE")
    cfg.check_judge()
    return read_rows(cfg.input, cfg.kinds, skipped)


def _grade(
    cfg: GradeConfig,
    rows: Sequence[GradeRow],
    ready: Callable[[Sequence[Verdict]], None] = lambda _: None,
) -> list[Verdict]:
    """The rows' verdicts in order; `ready` gets them as they are found."""
    own = _own(cfg)
    tokens = all(row.tokens for row in rows)
    own.fit(cfg.rewards, (row.task for row in rows), cfg.input, tokens=tokens)
    check = reference_check(cfg.rewards, cfg.sandbox, answers_known=True)
    verdicts = {row.line: v for row in rows if (v := _ungradable(cfg, row, check)) is not None}
    left = [row for row in rows if row.line not in verdicts]
    alone = len(cfg.rewards) == 1
    groups = grouped(left, pairwise=cfg.pairwise, path=cfg.input, alone=alone)
    ready([*verdicts.values()])
    if groups:
        grader = make_grader(cfg, {row.task.kind for row in left}, own)
        for verdict in asyncio.run(_score(cfg, groups, grader, ready)):
            verdicts[verdict.row.line] = verdict
    return [verdicts[row.line] for row in rows]


def make_grader(cfg: GradeConfig, kinds: Collection[str], own: OwnRewards | None = None) -> Grader:
    """The rewards of the config for these kinds, not started. Raises ConjointError."""
    reward = replace(cfg.reward, kinds={kind: list(cfg.rewards) for kind in kinds})
    return Grader(sorted(kinds), cfg, reward, cfg.judge, own or _own(cfg))


def _own(cfg: GradeConfig) -> OwnRewards:
    return OwnRewards({name: load_own_reward(cfg.reward, name, "reward") for name in cfg.own})


async def _score(
    cfg: GradeConfig,
    groups: Sequence[list[GradeRow]],
    grader: Grader,
    ready: Callable[[Sequence[Verdict]], None],
) -> list[Verdict]:
    """Some groups at once, combined as in a run without budgets. If it is stopped, so is what
    runs."""
    gate, progress = asyncio.Semaphore(cfg.concurrency), Progress(sum(map(len, groups)))

    async def one(members: list[GradeRow]) -> list[Verdict]:
        async with gate:
            group = await grader.score(_group(members), cfg.seed)
        assign_rewards([group], BudgetConfig(enabled=False), cfg.reward.weights)
        verdicts = [_verdict(cfg, *pair) for pair in zip(members, group.trajectories, strict=True)]
        ready(verdicts)
        progress.add(len(verdicts))
        return verdicts

    try:
        await grader.start()
        lists = await asyncio.gather(*map(one, groups))
    finally:
        progress.finish()
        await grader.close()
    return [verdict for verdicts in lists for verdict in verdicts]


def _group(members: Sequence[GradeRow]) -> Group:
    """The rows as finished trajectories, with tokens where they are a run's."""
    return Group(members[0].task, [_trajectory(row) for row in members])


def _trajectory(row: GradeRow) -> Trajectory:
    messages = [*row.task.messages, Message(role="assistant", content=row.response)]
    answer = Trajectory(messages=messages, status=Status.COMPLETED)
    for token, sampled in row.tokens:
        if sampled:
            answer.extend_sampled(Completion([token], [0.0], "stop", 0))
        else:
            answer.extend_context([token])
    return answer


def _ungradable(cfg: GradeConfig, row: GradeRow, check: Check | None) -> Verdict | None:
    """The verdict on a row that no reward is asked about, None for all others."""
    if row.unfinished:
        reason = "the run could not finish this answer (its status is failed)"
        return Verdict(row, None, Outcome.INFRA_ERROR, (reason,))
    if check is None:
        return None
    problem = _reference_problem(row.task.reference, check)
    return Verdict(row, None, Outcome.ERROR, (BAD_REFERENCE, problem)) if problem else None


def _reference_problem(reference: Any, check: Check) -> str:
    """Why no answer can be graded by it, "" if one can be: what `train` would refuse."""
    if lacks := no_reference(reference):
        return f"the reference is {lacks}"
    try:
        check(reference)
    except (ConjointError, ValueError, RecursionError) as error:
        return str(error)
    return ""


def _verdict(cfg: GradeConfig, row: GradeRow, answer: Trajectory) -> Verdict:
    """A pass by the threshold; below it what the rewards say, but for a pass."""
    scores, value = answer.scores, answer.reward
    several = len(scores) > 1
    reasons = [f"{s.name}: {r}" if several else r for s in scores for r in s.reasons]
    parts = {s.name: s.value for s in scores} if several else {}
    return Verdict(row, value, _status(cfg, scores, value), tuple(reasons), parts)


def _status(cfg: GradeConfig, scores: Sequence[Score], value: float | None) -> Outcome:
    outcomes = [score.outcome for score in scores]
    if value is None:
        return Outcome.INFRA_ERROR if Outcome.INFRA_ERROR in outcomes else Outcome.ABSTAIN
    if value >= cfg.pass_threshold:
        return Outcome.PASS
    broken = (outcome for outcome in outcomes if outcome in (Outcome.TIMEOUT, Outcome.ERROR))
    return next(broken, Outcome.FAIL)
