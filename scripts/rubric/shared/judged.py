"""Pairs of stored answers, judged by the code that judges in a run, with what each call said.

Owns the record of one comparison (`Judged`), and the start of a policy or an endpoint to ask.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from conjoint.envs.types import ConjointError, StopRun, Task, derive_seed
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.judge.pairs import PairVerdict, choose_pairs
from conjoint.rewards.judge.prompt import Verdict, judge_messages
from conjoint.rewards.rubrics.find import DEFAULT_RUBRICS, load_rubrics, rubrics_for
from conjoint.rewards.rubrics.rubric import Rubric
from conjoint.rl.critic.context import check_judge, judge_endpoint
from conjoint.rl.nano.start_policy import check_model
from conjoint.rl.run.interrupt import Interrupt
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.rubric.shared.config import JudgedConfig, is_nano
from conjoint.scripts.rubric.shared.meter import Meter
from conjoint.scripts.rubric.shared.rows import Answers
from conjoint.scripts.until_signal import say

_SWAP = {"A": "B", "B": "A", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class Judged:
    """One comparison of answers `i` and `j` of a group."""

    group: Answers
    i: int
    j: int
    rubrics: tuple[Rubric, ...]
    verdict: PairVerdict

    @property
    def a(self) -> str:
        return self.group.texts[self.i]

    @property
    def b(self) -> str:
        return self.group.texts[self.j]

    @property
    def how(self) -> str:
        """judged; code (settled without a judge); unreadable or failed (both masked)."""
        if self.verdict.verdicts is None:
            return "failed" if self.verdict.a is None else "code"
        return "unreadable" if self.verdict.a is None else "judged"

    @property
    def winner(self) -> str | None:
        """A, B or tie; None if masked. Two answers at fault, which both lose, are a tie."""
        a, b = self.verdict.a, self.verdict.b
        if a is None or b is None:
            return None
        return "A" if a > b else "B" if b > a else "tie"

    @property
    def orders(self) -> tuple[Verdict, Verdict] | None:
        """The verdicts with A shown first and with B shown first, where both can be read."""
        first, second = self.verdict.verdicts or (None, None)
        return None if first is None or second is None else (first, second)

    @property
    def consistent(self) -> bool | None:
        """Whether the winner stayed the same when the answers changed places."""
        if self.orders is None:
            return None
        first, second = self.orders
        return first.winner == _SWAP[second.winner]

    @property
    def key(self) -> tuple[str, str, str]:
        """What another judge's verdict on the same answers has too."""
        return self.group.task.id, self.a, self.b

    def plain(self) -> dict[str, Any]:
        """A row of verdicts.jsonl."""
        return {
            "task": self.group.task.id,
            "kind": self.group.task.kind,
            "prompt": self.group.task.prompt,
            "rubrics": [f"{r.name} v{r.version}" for r in self.rubrics],
            "a": self.group.ids[self.i],
            "b": self.group.ids[self.j],
            "response_a": self.a,
            "response_b": self.b,
            "winner": self.winner,
            "how": self.how,
            "consistent": self.consistent,
            "reason": self.verdict.reason,
        }


async def judge_pairs(
    judge: Judge,
    groups: Sequence[Answers],
    rubrics: Sequence[Rubric],
    policy: ChatPolicy,
    seed: int,
    *,
    correctness: bool = False,
) -> list[Judged]:
    """The pairs that a run would compare, in the order of the groups.

    With `correctness` no rubric is asked about: the judge is asked which answer is correct.
    """
    context = RewardContext(seed=seed, judge=policy)
    work = []
    for group in groups:
        asked = [] if correctness else rubrics_for(group.task, rubrics, seed)
        if not asked and not correctness:
            raise ConjointError(
                f"no rubric applies to tasks of kind '{group.task.kind}'; add the kind to a "
                "rubric's applies_to"
            )
        pairs = choose_pairs(
            range(len(group.texts)),
            judge.config.pairs_per_answer,
            derive_seed(seed, "pairs", group.task.id),
        )
        work += [(group, i, j, tuple(asked)) for i, j in pairs]

    async def one(group: Answers, i: int, j: int, asked: tuple[Rubric, ...]) -> Judged:
        verdict = await judge.prefer(group.task, group.texts[i], group.texts[j], asked, context)
        return Judged(group, i, j, asked, verdict)

    judged = list(await asyncio.gather(*(one(*item) for item in work)))
    refuse_nothing_judged(judged)
    return judged


def refuse_nothing_judged(judged: Sequence[Judged]) -> None:
    """Raises StopRun if not one of some pairs has a verdict."""
    if judged and all(pair.winner is None for pair in judged):
        raise StopRun(
            f"none of {len(judged)} pairs could be judged (the first: {judged[0].verdict.reason}); "
            "look at judge.template, judge.max_tokens and the context"
        )


def by_group(judged: Sequence[Judged]) -> list[tuple[Answers, list[Judged]]]:
    """The pairs of each group, in the order of the groups."""
    found: dict[int, tuple[Answers, list[Judged]]] = {}
    for pair in judged:
        found.setdefault(id(pair.group), (pair.group, []))[1].append(pair)
    return list(found.values())


def win_rates(group: Answers, pairs: Sequence[Judged]) -> list[float | None]:
    """Each answer's mean over its unmasked pairs, which is its reward in a run."""
    points: list[list[float]] = [[] for _ in group.texts]
    for pair in pairs:
        if pair.verdict.a is not None and pair.verdict.b is not None:
            points[pair.i].append(pair.verdict.a)
            points[pair.j].append(pair.verdict.b)
    return [sum(p) / len(p) if p else None for p in points]


def load_named(cfg: JudgedConfig) -> list[Rubric]:
    """The rubrics of a config. Raises ConjointError."""
    return load_rubrics(cfg.rubrics, key="rubrics")


def unknown_to_nano(cfg: JudgedConfig, rubrics: Sequence[Rubric]) -> list[str]:
    """A warning where nano judges by rubrics that its SFT never showed it."""
    if cfg.judge.endpoint or not is_nano(cfg.model):
        return []
    known = {rubric.short for rubric in load_rubrics(DEFAULT_RUBRICS)}
    new = sorted({rubric.name for rubric in rubrics if rubric.short not in known})
    if not new:
        return []
    return [
        f"nano's critic knows only the rubrics of its SFT ({', '.join(DEFAULT_RUBRICS)}): what it "
        f"says of {', '.join(new)} is chance. Try them with model=smollm2-135m or judge.endpoint."
    ]


def unseen_mandatory(cfg: JudgedConfig, rubrics: Sequence[Rubric]) -> list[str]:
    """A warning where the template has no way to say that a mandatory criterion is broken."""
    named = sorted({r.name for r in rubrics for c in r.criteria if c.mandatory})
    if not named or cfg.judge.template == "full":
        return []
    return [
        f"judge.template={cfg.judge.template} shows no criteria, so the mandatory ones of "
        f"{', '.join(named)} act only through the judge's choice and the forbidden patterns."
    ]


@asynccontextmanager
async def asked(
    cfg: JudgedConfig, prompts: Sequence[tuple[Task, int]], interrupt: Interrupt
) -> AsyncIterator[tuple[Meter | None, Meter]]:
    """(the policy, the judge), ready, each with a meter of its own also where the policy judges.

    `prompts` are the longest of what will be asked, with the tokens of the answer. What is started
    ends with the block.
    """
    async with AsyncExitStack() as stack:
        policy = judge = None
        endpoint = judge_endpoint(cfg.judge)
        if endpoint is not None:
            stack.push_async_callback(endpoint.close)
            await check_judge(endpoint)
            judge = Meter(endpoint, cfg.concurrency)
        if cfg.needs_policy:
            model = None if cfg.endpoint else check_model(cfg.model)
            # Loads Ray and the engine: only now, when nothing can be refused any more.
            from conjoint.scripts.eval.open_policy import opened

            chat = await stack.enter_async_context(
                opened(cfg.policy(), model, prompts, say, interrupt.install)
            )
            policy = Meter(chat, cfg.concurrency)
            judge = judge or Meter(chat, cfg.concurrency)
        assert judge is not None, "validate() saw to it"
        yield policy, judge


def judge_prompts(
    cfg: JudgedConfig,
    groups: Sequence[Answers],
    rubrics: Sequence[Rubric],
) -> list[tuple[Task, int]]:
    """The judge's prompts on the two longest answers of every group, to size the context by."""
    found = []
    for group in groups:
        longest = sorted(group.texts, key=len)[-2:]
        if len(longest) == 2:
            messages = judge_messages(
                group.task,
                longest[0],
                longest[1],
                rubrics,
                cfg.judge.template,
                max_answer_chars=cfg.judge.max_answer_chars,
            )
            found.append((Task("judge", "judge", tuple(messages)), cfg.judge.max_tokens))
    return found
