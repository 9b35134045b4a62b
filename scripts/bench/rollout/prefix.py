"""Prefix-cache hits: what could be hit, by arithmetic, and the requests that are counted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conjoint.envs.types import Completion, Group, Sampler, Status, Task, Trajectory
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.judge import Judge, rubric_reward
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rollouts.renderer import Renderer
from conjoint.scripts.bench.config import BenchRun

_JUDGED_WORDS = 60
_QUESTION = "Describe a walk through a small town on market day to somebody who has never seen it."
_WORDS = (
    *("the", "a", "market", "square", "bread", "cheese", "old", "bells", "narrow", "street"),
    *("morning", "people", "talk", "slowly", "under", "red", "roofs", "while", "children", "run"),
    *("between", "wooden", "tables", "of", "apples", "flowers", "and", "honey"),
)


def cacheable_tokens(prompts: Sequence[Sequence[int]], block: int) -> int:
    """Tokens of full blocks that an earlier prompt begins with too. The last token of a prompt is
    always computed, because the first answer token is read off it."""
    seen: set[int] = set()
    found = 0
    for prompt in prompts:
        missed, key = False, 0
        for end in range(block, len(prompt) + 1, block):
            key = hash((key, *prompt[end - block : end]))
            missed = missed or key not in seen
            if not missed and end < len(prompt):
                found += block
            seen.add(key)
    return found


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens before the first that no earlier prompt has at that place, in a block or not."""
    root: dict[int, Any] = {}
    found = 0
    for prompt in prompts:
        node, known = root, True
        for token in prompt:
            known = known and token in node
            found += known
            node = node.setdefault(token, {})
    return found


@dataclass(slots=True)
class Recorder:
    """A sampler that notes the prompts it passes on."""

    sampler: Sampler
    prompts: list[list[int]] = field(default_factory=list)

    async def __call__(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        session: str = "",
        top_p: float = 1.0,
    ) -> Completion:
        self.prompts.append(list(tokens))
        return await self.sampler(
            tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            session=session,
        )


async def judge_group(sampler: Sampler, renderer: Renderer, cfg: BenchRun) -> None:
    """Ask the judge of a run about one open group of `bench.group_size` answers, which differ from
    their first word on: every pair that `judge` asks for, in both orders."""
    members = []
    for k in range(cfg.bench.group_size):
        words = (_WORDS[(k + n * (k + 1)) % len(_WORDS)] for n in range(_JUDGED_WORDS))
        t = Trajectory(status=Status.COMPLETED)
        t.messages.append({"role": "assistant", "content": " ".join(words).capitalize()})
        members.append(t)
    judge = Judge(replace(cfg.judge, endpoint="", endpoint_model="", api_key_env="", max_tokens=1))
    reward = rubric_reward(judge, load_rubrics(cfg.reward.rubrics))
    group = Group(Task.make("open", _QUESTION), members)
    await reward(group, RewardContext(sampler, renderer, cfg.seed))


async def longest_judge_prompt(renderer: Renderer, cfg: BenchRun) -> int:
    """In tokens; no engine is asked."""

    async def mute(tokens: Sequence[int], **_: object) -> Completion:
        return Completion([0], [0.0], "length", version=0)

    recorder = Recorder(mute)
    await judge_group(recorder, renderer, cfg)
    return max(map(len, recorder.prompts))
