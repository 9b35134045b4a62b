"""The probes of a run's rewards, tried while its engines load: which cheats it would teach."""

import asyncio
from collections.abc import Mapping, Sequence

from conjoint.envs.types import Task
from conjoint.rewards.base import Example, RewardContext, RewardFn
from conjoint.rewards.plugins import PluginReward
from conjoint.rewards.probes.cheats import ProbeReport, run_probes
from conjoint.rewards.registry import REWARDS, RewardTable, always_judged, score_name
from conjoint.rewards.text.quoting import printable

_DEADLINE_S = 60.0
"""For all probes of one reward together: one of the user's own may take its time, or hang."""


async def probe_rewards(
    kinds: Mapping[str, list[str]], table: RewardTable, first: Mapping[str, Task]
) -> list[str]:
    """Sentences on what the rewards of these kinds pay. Nobody is asked to judge.

    A reward of the user's own is tried on its own examples, else on the first task of its kind.
    """
    chosen = {
        spec: (table[kind][name], kind)
        for kind, specs in kinds.items()
        for spec in specs
        if (name := score_name(spec)) in table[kind]
    }
    reports = await asyncio.gather(
        *(_probe(spec, reward, first.get(kind)) for spec, (reward, kind) in chosen.items())
    )
    return probe_words(reports)


async def _probe(spec: str, reward: RewardFn, task: Task | None) -> ProbeReport:
    if isinstance(reward, PluginReward):
        given = [Example(task, "")] if task is not None else []
        examples = await reward.examples() or given
    else:
        examples = REWARDS[spec].examples()
    return await run_probes(
        spec,
        reward,
        examples,
        RewardContext(),
        deadline_s=_DEADLINE_S,
        pairwise=spec == "rubric",
    )


def probe_words(reports: Sequence[ProbeReport]) -> list[str]:
    """One sentence on the rewards that pay no cheat, one on each that does or gave no score."""
    words = []
    sound = [r for r in reports if r.scored and not r.paid]
    if sound:
        count, names = sum(r.scored for r in sound), ", ".join(r.reward for r in sound)
        words.append(f"Probes: none of {count} cheats is paid by {names}.")
    for report in reports:
        if report.paid:
            paid = ", ".join(sorted({p.probe.category for p in report.paid}))
            words.append(
                f"Probes: {len(report.paid)} of {report.scored} cheats are PAID by "
                f"{report.reward} ({paid}), which will teach them; see: conjoint grade --probe "
                f"reward={report.reward}"
            )
        if report.unscored and not always_judged(report.reward):
            why = "; ".join(report.unscored[0].reasons)
            words.append(
                f"Probes: {report.reward} gave no score to {len(report.unscored)} of "
                f"{len(report.probed)} cheats: {printable(why)}"
            )
    judged = sum(len(r.unscored) for r in reports if always_judged(r.reward))
    if judged:
        words.append(f"Probes: {judged} more are for a judge, who is not asked before the run.")
    return words
