"""Stored responses -> verdicts: the rows of a file, graded by one reward outside a run."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from conjoint.envs.sources.dataset import no_reference
from conjoint.envs.types import ConjointError, Group, Message, Outcome, Score, Status, Trajectory
from conjoint.rewards.registry import OwnRewards, load_own_reward, reference_check
from conjoint.rewards.text.quoting import printable
from conjoint.rl.run.console import RunConsole
from conjoint.scripts.eval.grader import Grader
from conjoint.scripts.grade.config import GradeConfig
from conjoint.scripts.grade.rows import GradeRow, grouped, read_rows
from conjoint.scripts.new_file import new_file

Check = Callable[[Any], None]
"""Checks a task's reference. Raises ConjointError or ValueError for one that cannot be used."""

BAD_REFERENCE = "bad_reference"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What grading gave one row: `score` in [0, 1], or None for a row that could not be graded."""

    row: GradeRow
    score: float | None
    status: Outcome
    reasons: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        return {
            "id": self.row.id,
            "score": self.score,
            "status": self.status.value,
            "reasons": list(self.reasons),
        }


def grade(cfg: GradeConfig) -> list[Verdict]:
    """Verdicts on all rows of `cfg.input`, in order, written to `cfg.output`.

    Raises ConjointError for a file that is malformed, before anything is graded, and
    SandboxUnavailable where programs cannot be run safely.
    """
    cfg.check_output()
    rows = _input(cfg)
    with new_file(cfg.output, overwrite=cfg.replaces_output) as out:
        verdicts = _grade(cfg, rows)
        for verdict in verdicts:
            out.write(verdict.plain())
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


def _input(cfg: GradeConfig) -> list[GradeRow]:
    if not cfg.input:
        raise ConjointError("input is not given; name the file of rows to grade: input=FILE")
    cfg.check_judge()
    return read_rows(cfg.input)


def _grade(cfg: GradeConfig, rows: Sequence[GradeRow]) -> list[Verdict]:
    check = reference_check([cfg.name], cfg.sandbox, answers_known=True)
    verdicts = {row.line: v for row in rows if (v := _ungradable(cfg, row, check)) is not None}
    left = [row for row in rows if row.line not in verdicts]
    groups = grouped(left, pairwise=cfg.pairwise, path=cfg.input)
    if groups:
        graded = asyncio.run(_score(cfg, groups, make_grader(cfg, {r.task.kind for r in left})))
        verdicts |= {verdict.row.line: verdict for verdict in graded}
    return [verdicts[row.line] for row in rows]


def make_grader(cfg: GradeConfig, kinds: Collection[str]) -> Grader:
    """The reward of the config for these kinds, not started. Raises ConjointError."""
    reward = replace(cfg.reward, kinds={kind: [cfg.name] for kind in kinds})
    own = {cfg.name: load_own_reward(cfg.reward, cfg.name, "reward")} if cfg.own else {}
    return Grader(sorted(kinds), cfg, reward, cfg.judge, OwnRewards(own))


async def _score(
    cfg: GradeConfig, groups: Sequence[list[GradeRow]], grader: Grader
) -> list[Verdict]:
    """Some groups at once. If it is stopped, so is what runs."""
    gate, console = asyncio.Semaphore(cfg.concurrency), RunConsole(1)
    total, done = sum(map(len, groups)), 0

    async def one(members: list[GradeRow]) -> list[Verdict]:
        nonlocal done
        async with gate:
            group = await grader.score(_group(members), cfg.seed)
        done += len(members)
        console.phase(f"graded {done:,} of {total:,} rows")
        return [
            _verdict(cfg, row, trajectory.scores[0])
            for row, trajectory in zip(members, group.trajectories, strict=True)
        ]

    try:
        await grader.start()
        lists = await asyncio.gather(*map(one, groups))
    finally:
        console.finish()
        await grader.close()
    return [verdict for verdicts in lists for verdict in verdicts]


def _group(members: Sequence[GradeRow]) -> Group:
    """The rows as finished trajectories without tokens."""
    task = members[0].task
    answers = [
        Trajectory(
            messages=[*task.messages, Message(role="assistant", content=row.response)],
            status=Status.COMPLETED,
        )
        for row in members
    ]
    return Group(task, answers)


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


def _verdict(cfg: GradeConfig, row: GradeRow, score: Score) -> Verdict:
    """A pass by the threshold; below it the reward's own word, but for a pass."""
    status = score.outcome
    if score.value is not None:
        passed = score.value >= cfg.pass_threshold
        status = Outcome.PASS if passed else Outcome.FAIL if status is Outcome.PASS else status
    return Verdict(row, score.value, status, score.reasons)


# -- in words ----------------------------------------------------------------------------------

_SHOWN = 600


def summary_words(cfg: GradeConfig, verdicts: Sequence[Verdict]) -> list[str]:
    """How many of each status, and the mean of what was scored."""
    counts = Counter(v.status.value for v in verdicts)
    scores = [v.score for v in verdicts if v.score is not None]
    bad = sum(BAD_REFERENCE in v.reasons for v in verdicts)
    parts = [f"{counts[status]:,} {status}" for status in Outcome if counts[status]]
    lines = [f"{cfg.name}: {len(verdicts):,} rows: {', '.join(parts)} -> {cfg.output}"]
    if scores:
        lines.append(f"mean score {fmean(scores):.4f} of {len(scores):,} scored rows")
    if bad:
        lines.append(f"rows with a reference that no answer can be graded by: {bad:,}")
    if counts[Outcome.INFRA_ERROR]:
        lines.append(
            f"rows that our side failed to grade, with reasons in the output: "
            f"{counts[Outcome.INFRA_ERROR]:,}"
        )
    return lines


def verdict_words(cfg: GradeConfig, verdict: Verdict, others: Sequence[Verdict]) -> list[str]:
    row, score = verdict.row, verdict.score
    worth = "no score" if score is None else f"score {score:g}"
    lines = [
        printable(f"row {row.id} (line {row.line}), kind {row.task.kind}, graded by {cfg.name}"),
        *_block("prompt", row.task.prompt),
        *_block("reference", _as_text(row.task.reference)),
        *_block("response", row.response),
        f"verdict: {verdict.status.value}, {worth}: {_meaning(cfg, verdict)}",
        *(f"  because {printable(reason)}" for reason in verdict.reasons),
    ]
    if cfg.pairwise:
        scores = ", ".join("none" if v.score is None else f"{v.score:g}" for v in others)
        lines.append(
            f"compared with {len(others)} answers of its group, whose scores are: {scores}"
        )
    return lines


def _meaning(cfg: GradeConfig, verdict: Verdict) -> str:
    if BAD_REFERENCE in verdict.reasons:
        return "its reference cannot be graded by; `conjoint train` refuses the row"
    if verdict.score is None:
        return "our machinery failed; a run masks the answer"
    at = "at least" if verdict.score >= cfg.pass_threshold else "below"
    words = {
        Outcome.TIMEOUT: ", and the response's own program or formula took too long",
        Outcome.ERROR: ", and the response's own program or formula broke",
    }
    return f"{at} pass_threshold {cfg.pass_threshold:g}{words.get(verdict.status, '')}"


def _block(title: str, text: str) -> list[str]:
    shown = printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ...")
    more = f" ({len(text):,} characters)" if len(text) > _SHOWN else ""
    return [f"{title}{more}:", *(f"  | {line}" for line in shown.split("\n"))]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
