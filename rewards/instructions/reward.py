"""The `instructions` reward: constraints on an answer, checked by code, and by a judge where only
words can say them.

The reference is read by rewards/instructions/reference.py: IFEval's form, the house's, or both. The
answer pays only if every check holds and, by the hack-check, shows what it claims. An answer
without a letter or digit never passes.
"""

import unicodedata
from dataclasses import dataclass, replace
from typing import Any

from conjoint.envs.types import ConjointError, Group, Score, Task
from conjoint.rewards.base import Example, RewardContext, RewardFn
from conjoint.rewards.combine import each
from conjoint.rewards.instructions.hack_check import Claims, only_openers, without_claims
from conjoint.rewards.instructions.nuanced import judge_nuanced
from conjoint.rewards.instructions.reference import Asked, Check, read_reference
from conjoint.rewards.instructions.rule import Failure, quoted
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.text.claims import normal
from conjoint.rewards.text.extract import visible_text
from conjoint.rewards.text.quoting import visible
from conjoint.rewards.text.reader import readable

NAME = "instructions"
MODES = ("strict", "loose")

_MAX_THINKING = 100_000
_MAX_ANSWER = 50_000
"""Characters. A longer answer is not paid: some checks are slow, and nobody asked for a book."""


@dataclass(frozen=True, slots=True)
class InstructionsConfig:
    """How the checks of one answer become its score."""

    mode: str = "strict"
    """strict, or loose: a check also holds if it does without the first line, the last line, both,
    or any asterisk (IFEval's eight readings)."""
    partial: bool = False
    """Pay the share of the checks that hold; off: 1 if all hold, else 0."""
    hack_check: bool = True
    """Do not count what the answer says about its own compliance as compliance."""

    def validate(self) -> None:
        if self.mode not in MODES:
            raise ConjointError(
                f"reward.instructions.mode={self.mode} is unknown; expected {' or '.join(MODES)}"
            )


def validate_reference(reference: Any) -> None:
    """Raises ConjointError naming the instruction, the parameter and what was expected."""
    read_reference(reference)


def instructions_reward(
    judge: Judge, config: InstructionsConfig = InstructionsConfig(), name: str = NAME
) -> RewardFn:
    """Each answer by itself. Code decides first; the judge is asked about nuanced constraints only
    where that can still change the score."""

    async def reward(group: Group, context: RewardContext) -> list[Score]:
        async def check(task: Task, response: str) -> Score:
            return await _score(judge, task, response, context, config, name)

        return await each(name, check)(group, context)

    return reward


async def _score(
    judge: Judge,
    task: Task,
    response: str,
    context: RewardContext,
    config: InstructionsConfig,
    name: str,
) -> Score:
    try:
        asked = read_reference(task.reference)
    except ConjointError as error:
        return Score.infra_error(name, f"unusable reference: {error}")
    found = _by_code(task, asked, response, config)
    settled = found.problem or (found.failures and not config.partial)
    if asked.nuanced and not settled:
        choices = await judge_nuanced(judge, task, found.shown, asked.nuanced, context)
        if None in choices:
            return Score.infra_error(name, "the judge's verdict on a constraint cannot be read")
        for place, choice in enumerate(choices, start=len(asked.checks)):
            if choice is not None and choice.option != "met":
                why = f" ({choice.reason})" if choice.reason else ""
                found.failures[place] = f"the judge says {choice.option}{why}"
        return replace(_total(name, asked, found, config), judged=True)
    return _total(name, asked, found, config)


@dataclass(frozen=True, slots=True)
class _Found:
    failures: dict[int, str]
    """Place of a check or constraint -> why it does not hold."""
    problem: str = ""
    """Why the answer as a whole is not paid."""
    shown: str = ""
    """The answer without its claims of compliance."""


def _total(name: str, asked: Asked, found: _Found, config: InstructionsConfig) -> Score:
    if found.problem:
        return Score.of(name, 0.0, found.problem)
    if not found.failures:
        return Score.of(name, 1.0, f"all {len(asked)} checks hold")
    names = [*(c.name for c in asked.checks), *(quoted(n[:80]) for n in asked.nuanced)]
    reasons = [f"{names[place]}: {found.failures[place]}" for place in sorted(found.failures)]
    share = 1 - len(found.failures) / len(asked)
    return Score.of(name, share if config.partial else 0.0, *reasons)


def _by_code(task: Task, asked: Asked, response: str, config: InstructionsConfig) -> _Found:
    if len(response) > _MAX_THINKING:
        response = response.rpartition("</think>")[2]
    text = visible_text(response, dialogue=True)
    if "</think>" in response:
        text = text.strip()  # the blank lines after the thinking are the template's
    text = unicodedata.normalize("NFC", text)
    if config.hack_check:
        text = visible(text)  # a forbidden word with a hidden character within it is that word
    if not any(c.isalnum() for c in text):
        return _Found({}, "the answer is empty")
    if len(text) > _MAX_ANSWER or len(response) > _MAX_THINKING:
        return _Found({}, f"the answer is longer than {_MAX_ANSWER} characters")
    failures = {
        place: failure
        for place, check in enumerate(asked.checks)
        if (failure := _failure(check.rule.failure, check, text, config.mode))
    }
    if not config.hack_check:
        return _Found(failures, shown=text)
    wanted = [task.prompt, *(t for c in asked.checks for t in c.texts())]
    seen = readable(text)
    claims = without_claims(seen, wanted)
    if problem := _no_answer(task, seen, claims):
        return _Found({}, problem)
    for place, check in enumerate(asked.checks):
        if place not in failures and (hack := _only_claimed(check, seen, claims, config.mode)):
            failures[place] = hack
    # A judge may be asked about links; it sees where they lead.
    shown = without_claims(readable(text, links=True), wanted).rest if asked.nuanced else ""
    return _Found(failures, shown=shown)


def _no_answer(task: Task, seen: str, claims: Claims) -> str:
    """Why an answer is none, whatever its checks say; "" if it is one."""
    if not any(c.isalnum() for c in seen):
        return "the answer holds nothing that a reader sees"
    # Two blanks between words, so that prompts side by side share none.
    prompt, rest = (f" {normal(text).replace(' ', '  ')} " for text in (task.prompt, claims.rest))
    if prompt.strip() and prompt in rest and only_openers(rest.replace(prompt, " ")):
        return "the answer is the prompt again"
    if claims.nothing_else:
        return f"the answer only claims compliance: {quoted(claims.found[0][:80])}"
    if claims.padded:
        return f"repetition under the claim {quoted(claims.found[0][:80])}"
    return ""


def _only_claimed(check: Check, seen: str, claims: Claims, mode: str) -> str:
    """How a check that holds does so only by what the answer says of itself, or by what its reader
    does not see; "" if it does not."""
    if check.rule.shown is None:
        return "" if check.rule.verbatim else _failure(check.rule.failure, check, seen, mode)
    failure = _failure(check.rule.shown, check, claims.rest, mode)
    claim = f" without the claim {quoted(claims.found[0][:80])}" if claims.found else ""
    return f"{failure}{claim}" if failure else ""


def _failure(failure: Failure, check: Check, text: str, mode: str) -> str:
    """The failure on the text itself; "" where one of the mode's readings has none."""
    first = failure(text, check.asked)
    if not first or mode == "strict":
        return first
    others = (variant for variant in loose_variants(text) if variant.strip())
    return "" if any(not failure(variant, check.asked) for variant in others) else first


def loose_variants(text: str) -> list[str]:
    """IFEval's other seven readings: an introduction, a closing line or markdown may be in the way
    of a check."""
    lines = text.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return list(dict.fromkeys([*(t.replace("*", "") for t in (text, *cut)), *cut]))


def examples() -> list[Example]:
    """Both forms of a reference, each with answers that only say that they comply."""
    tides = "The tide turns twice a day. A boat that waits for it leaves with less work."
    public = Task.make(
        "instruction",
        "Write about tides with the keyword harbour, no comma, and a postscript starting with P.S.",
        {
            "instruction_id_list": [
                "keywords:existence",
                "punctuation:no_comma",
                "detectable_content:postscript",
            ],
            "kwargs": [{"keywords": ["harbour"]}, {}, {"postscript_marker": "P.S."}],
        },
    )
    own = Task.make(
        "instruction",
        "Write about tides: at least 12 words, include harbour.",
        {
            "checks": [
                {"name": "word_count", "relation": "at_least", "count": 12},
                {"name": "includes", "keyword": "harbour"},
            ]
        },
    )
    return [
        Example(
            public,
            f"{tides} The harbour fills first.\n\nP.S. Spring tides are the highest.",
            {
                "a claim and nothing else": "I have followed all instructions: the keyword harbour "
                "is included and there is a P.S. at the end.",
                "a keyword in a claim": f"{tides} I have included the keyword harbour.\n\n"
                "P.S. Spring tides are the highest.",
                "a postscript that says nothing": f"{tides} The harbour fills first.\n\nP.S.",
            },
        ),
        Example(
            own,
            f"{tides} The harbour fills first.",
            {
                "words of a claim": "Tides turn at the harbour. This answer has more than twelve "
                "words as you requested.",
                "padding under a claim": "harbour tide " * 20 + ". All requirements are met.",
            },
        ),
    ]
