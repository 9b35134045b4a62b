"""A reward examined before a run: the cheats that it pays, and what hard inputs do to it."""

import asyncio
from collections.abc import Sequence

from conjoint.envs.types import ConjointError, Group, Score
from conjoint.rewards.base import Example, RewardContext
from conjoint.rewards.plugin_worker import FORMS
from conjoint.rewards.plugins import PluginReward
from conjoint.rewards.probes.cheats import CATEGORIES, ProbeReport, run_probes, stock_examples
from conjoint.rewards.probes.contract import Report, check
from conjoint.rewards.registry import REWARDS, always_judged, load_own_reward
from conjoint.rewards.text.quoting import printable
from conjoint.scripts.eval.grader import Grader
from conjoint.scripts.grade.config import GradeConfig
from conjoint.scripts.grade.rows import read_rows
from conjoint.scripts.grade.run import make_grader

_TASKS = 8
"""Different tasks of an input file that are tried."""
_PROBE_S = 300.0
_SHOWN = 100


def probe_words(cfg: GradeConfig) -> tuple[list[str], bool]:
    """What `--probe` prints, and whether a cheat was paid.

    Raises ConjointError if the reward could score none of them.
    """
    if cfg.own:
        report = asyncio.run(_probe_own(cfg, load_own_reward(cfg.reward, cfg.name, "reward")))
    else:
        examples = _given(cfg) or REWARDS[cfg.name].examples()
        grader = make_grader(cfg, {example.task.kind for example in examples})
        report = asyncio.run(_probe_shipped(cfg, grader, examples))
    return report_words(cfg, report), bool(report.paid)


def check_words(cfg: GradeConfig) -> tuple[list[str], bool]:
    """What `--check` prints, and whether there is a fault."""
    if not cfg.own:
        raise ConjointError(
            f"--check={cfg.name}: expected module:function or path/to/file.py:function of a reward "
            "of your own; conjoint's are tried with --probe"
        )
    plugin = load_own_reward(cfg.reward, cfg.name, "--check")
    report = asyncio.run(_check(cfg, plugin))
    tried, form = ", ".join(report.tried), FORMS[plugin.form].words
    lines = [f"{cfg.name} ({form}): {len(report.tried)} kinds of input: {tried}"]
    lines += [f"FAULT {printable(fault)}" for fault in report.faults]
    if report.untried:
        lines.append(f"{report.untried} inputs were left untried after the time-outs")
    count = len(report.faults)
    lines.append(f"faults found: {count}" if count else "no fault found")
    return lines, bool(count)


async def _check(cfg: GradeConfig, plugin: PluginReward) -> Report:
    try:
        return await check(plugin, await _examples(cfg, plugin))
    finally:
        plugin.close()


async def _probe_own(cfg: GradeConfig, plugin: PluginReward) -> ProbeReport:
    try:
        examples = await _examples(cfg, plugin)
        return await run_probes(cfg.name, plugin, examples, RewardContext(), deadline_s=_PROBE_S)
    finally:
        plugin.close()


async def _probe_shipped(
    cfg: GradeConfig, grader: Grader, examples: Sequence[Example]
) -> ProbeReport:
    async def reward(group: Group, context: RewardContext) -> list[Score]:
        scored = await grader.score(group, cfg.seed)
        return [trajectory.scores[0] for trajectory in scored.trajectories]

    try:
        await grader.start()
        return await run_probes(
            cfg.name,
            reward,
            examples,
            RewardContext(),
            deadline_s=_PROBE_S,
            pairwise=cfg.pairwise,
        )
    finally:
        await grader.close()


async def _examples(cfg: GradeConfig, plugin: PluginReward) -> Sequence[Example]:
    """Those of the input file, else of the function's own module, else tasks in stock."""
    examples = _given(cfg) or await plugin.examples() or stock_examples()
    where = cfg.input or "the examples (give input=FILE)"
    plugin.fit((example.task for example in examples), where)
    return examples


def _given(cfg: GradeConfig) -> list[Example]:
    """The first different tasks of the input, whose responses count as right answers."""
    found: dict[str, Example] = {}
    for row in read_rows(cfg.input, cfg.kinds) if cfg.input else ():
        if len(found) < _TASKS:
            found.setdefault(row.task.id, Example(row.task, row.response))
    return list(found.values())


def report_words(cfg: GradeConfig, report: ProbeReport) -> list[str]:
    if not report.scored:
        reasons = "; ".join(report.unscored[0].reasons)
        raise ConjointError(
            f"reward={cfg.name} scored none of the {len(report.probed)} probes ({reasons}); give "
            "input=FILE with rows that it can grade"
        )
    lines = [f"{cfg.name}: {len(report.probed)} cheating answers"]
    for category in CATEGORIES:
        of_it = [p for p in report.probed if p.probe.category == category]
        paid = sum(p.paid for p in of_it)
        if of_it:
            lines.append(f"  {category:<16} {len(of_it):>3} tried, {paid or 'none'} paid")
    for p in report.paid:
        lines.append(
            f"PAID {p.value:.2f} {p.probe.category}, {p.probe.name}: {_one_line(p.probe.response)}"
        )
    lines += _unscored_words(cfg, report)
    rights = [value for value in report.rights if value is not None]
    if rights:
        paid = sum(value > 0 for value in rights)
        lines.append(f"right answers: {paid} of {len(rights)} paid")
        if not paid:
            lines.append("a reward that pays no right answer proves nothing here: give input=FILE")
    if report.paid:
        return [*lines, f"{cfg.name} pays {len(report.paid)} of {report.scored} cheating answers"]
    return [*lines, f"{cfg.name} pays none of {report.scored} cheating answers"]


def _unscored_words(cfg: GradeConfig, report: ProbeReport) -> list[str]:
    count = len(report.unscored)
    if not count:
        return []
    if always_judged(cfg.name) and not cfg.judge.endpoint:
        return [
            f"{count} are for a judge to decide; give judge.endpoint=URL and "
            "judge.endpoint_model=NAME to try them"
        ]
    reasons = printable("; ".join(report.unscored[0].reasons))
    return [f"{count} got no score, which a run would mask: {reasons}"]


def _one_line(response: str) -> str:
    response = " ".join(response.split())
    shown = response if len(response) <= _SHOWN else f"{response[:_SHOWN]} ..."
    return printable(repr(shown))
