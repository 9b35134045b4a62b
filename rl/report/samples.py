"""Chooses a few rollouts that show why answers got their rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conjoint.rl.report.load import Row, RunData

GROUPS_A_KIND = 2
MAX_CHARS = 6000
"""Longer texts are cut in the report; the rollouts file has all of it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One group of one step: its prompt, and its best and worst answer."""

    step: int
    kind: str
    prompt: list[dict[str, str]]
    size: int
    rewards: list[float]
    answers: list[dict[str, Any]]


def choose_samples(data: RunData) -> dict[str, list[Sample]]:
    """By kind: from the first and the last step with rollouts, the groups whose rewards differ
    most, as there the reasons say most."""
    chosen: dict[str, list[Sample]] = {}
    for kind in data.kinds:
        for step, rows in data.rollouts.items():
            groups = _groups([row for row in rows if row["kind"] == kind])
            groups.sort(key=_spread, reverse=True)
            count = GROUPS_A_KIND if len(data.rollouts) == 1 else GROUPS_A_KIND // 2
            chosen.setdefault(kind, []).extend(
                _sample(step, kind, group) for group in groups[:count]
            )
    return {kind: samples for kind, samples in chosen.items() if samples}


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault((row.get("group"), row["task_id"]), []).append(row)
    return list(found.values())


def _rewards(group: Sequence[Row]) -> list[float]:
    return sorted((r["reward"] for r in group if r.get("reward") is not None), reverse=True)


def _spread(group: Sequence[Row]) -> float:
    rewards = _rewards(group)
    return rewards[0] - rewards[-1] if rewards else -1.0


def _sample(step: int, kind: str, group: Sequence[Row]) -> Sample:
    """Best and worst answer; only the first if all are alike. Ungraded ones count as worst."""
    ranked = sorted(
        group, key=lambda r: r["reward"] if r.get("reward") is not None else -1e9, reverse=True
    )
    alike = ranked[0].get("reward") == ranked[-1].get("reward")
    picked = ranked[:1] if alike else [ranked[0], ranked[-1]]
    return Sample(
        step, kind, _prompt(ranked[0]), len(group), _rewards(group), [_answer(r) for r in picked]
    )


def _prompt(row: Row) -> list[dict[str, str]]:
    """What the policy was given: everything up to its first answer."""
    messages = row.get("messages") or []
    first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    return [_turn(message) for message in messages[:first]]


def _answer(row: Row) -> dict[str, Any]:
    """The turns from the first answer on, the figures, and each check with its reasons."""
    messages = row.get("messages") or []
    turns = messages[len(_prompt(row)) :] or [
        {"role": "assistant", "content": row.get("response") or ""}
    ]
    return {
        "turns": [_turn(message) for message in turns],
        "scores": row.get("scores") or [],
        **{key: row.get(key) for key in ("status", "reward", "advantage", "num_tokens", "budget")},
    }


def _turn(message: Row) -> dict[str, str]:
    """What it says, and the tools that it calls."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    lines = [f"{call['name']} {call['arguments']}" for call in calls]
    text = "\n".join(filter(None, [message["content"], *lines]))
    return {"role": message["role"], "content": _cut(text)}


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]} … ({len(text) - MAX_CHARS:,} more characters in the rollouts file)"
