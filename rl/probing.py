"""The probes of a run's rewards, tried while its engines load: which cheats it would teach."""

import asyncio
from collections.abc import Mapping

from rewards.base import Example, RewardContext, RewardFn
from rewards.plugins import PluginReward
from rewards.probes import ProbeReport, run_probes
from rl.reward_table import RewardTable, examples_of
from rl.types import Task

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
        if (name := _score_name(spec)) in table[kind]
    }
    reports = await asyncio.gather(
        *(_probe(spec, reward, first.get(kind)) for spec, (reward, kind) in chosen.items())
    )
    return probe_words(reports)


def _score_name(spec: str) -> str:
    return spec.rpartition(":")[2]


async def _probe(spec: str, reward: RewardFn, task: Task | None) -> ProbeReport:
    if isinstance(reward, PluginReward):
        given = [Example(task, "")] if task is not None else []
        examples = await reward.examples() or given
    else:
        examples = examples_of(spec)
    return await run_probes(
        spec,
        reward,
        examples,
        RewardContext(),
        deadline_s=_DEADLINE_S,
        pairwise=spec == "rubric",
    )


def probe_words(reports: list[ProbeReport]) -> list[str]:
    """One sentence on the rewards that pay no cheat, one on each that does."""
    words = []
    sound = [r for r in reports if r.probed and not r.paid]
    if sound:
        count = sum(len(r.probed) - len(r.unscored) for r in sound)
        words.append(
            f"Probes: none of {count} cheats is paid by {', '.join(r.reward for r in sound)}."
        )
    for report in reports:
        if report.paid:
            scored = len(report.probed) - len(report.unscored)
            paid = ", ".join(sorted({p.probe.category for p in report.paid}))
            words.append(
                f"Probes: {len(report.paid)} of {scored} cheats are PAID by {report.reward} "
                f"({paid}), which will teach them; see: conjoint grade --probe "
                f"reward={report.reward}"
            )
    unscored = sum(len(r.unscored) for r in reports)
    if unscored:
        words.append(f"Probes: {unscored} more got no score (no judge is asked at start).")
    return words
