"""One question with a few named answers: how a prompt ends that asks it, how the reply is read.

Like the pairwise verdicts of rewards/judge/prompt.py, a reply counts only if it is, as a whole,
exactly in the form asked for: nothing that is quoted in a prompt, or said around a verdict, is one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from conjoint.rewards.judge.prompt import json_object

_KEYS = frozenset(("reason", "verdict"))


@dataclass(frozen=True, slots=True)
class Choice:
    """What the judge chose, and why if it said so."""

    option: str
    reason: str = ""


def choice_request(options: Mapping[str, str], template: str) -> str:
    """The end of a prompt: the options (name -> what it means) and the form of the reply.

    `full` asks for JSON with a reason, the other templates for one word.
    """
    names = _listed(list(options))
    lines = [f"- {name}: {meaning}" for name, meaning in options.items()]
    if template == "full":
        form = '{"reason": "one sentence", "verdict": "' + names + '"}'
        return "\n".join([*lines, "Reply with one JSON object and nothing else:", form])
    return "\n".join([*lines, f"Reply with one word and nothing else: {names}."])


def parse_choice(text: str, options: Mapping[str, str], template: str) -> Choice | None:
    """The option in the judge's own reply; None unless it is exactly in the form asked for."""
    if template != "full":
        # Small models end the word like a sentence, or begin it like one.
        word = re.fullmatch(r"[\"'*]*(\w+)[\"'*]*\.?", text.strip())
        option = word[1].lower() if word else ""
        return Choice(option) if option in options else None
    data = json_object(text)
    if data is None or not data.keys() <= _KEYS:
        return None
    option, reason = data.get("verdict"), data.get("reason", "")
    if not isinstance(option, str) or option not in options or not isinstance(reason, str):
        return None
    return Choice(option, reason)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
