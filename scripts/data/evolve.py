"""`conjoint data evolve`: attack prompts from seed behaviours, by attack, target and judge.

What broke the target is written as tasks of kind `safety`; scripts/data/attacks.py says how it is
found. Each role is the policy of `model` or a model behind an endpoint.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conjoint.envs.sources.dataset import rows_and_tasks
from conjoint.envs.types import ConjointError, StopRun
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rl.cluster.config import ClusterConfig
from conjoint.rl.nano.start_policy import check_model
from conjoint.rl.run.interrupt import Interrupt
from conjoint.rollouts.chat import ChatPolicy
from conjoint.rollouts.endpoint import EndpointConfig, EndpointPolicy
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.scripts.data.attacks import (
    BROKE,
    DIRECT,
    HELD,
    STYLES,
    Attempt,
    Effort,
    Evolution,
    Role,
    RoleConfig,
)
from conjoint.scripts.data.rows import check_files
from conjoint.scripts.eval.config import SampleConfig, load_sampled
from conjoint.scripts.new_file import new_file
from conjoint.scripts.until_signal import say, supervised


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolveConfig:
    """`conjoint data evolve`."""

    input: str = ""
    """A file of seeds; the prompt of each is a behaviour in plain words."""
    output: str = ""
    """A .jsonl file that does not exist yet: the prompts that broke the target."""
    model: str = ""
    """The policy, for roles without an endpoint, as in `conjoint eval`."""
    attack: RoleConfig = field(default_factory=RoleConfig)
    target: RoleConfig = field(default_factory=RoleConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rubric: str = "safety"
    """A shipped rubric or the path of one."""
    rounds: int = 4
    variants: int = 3
    """New prompts of a seed in a round."""
    parents: int = 2
    """Prompts that a round starts from: those that broke the target, then the latest."""
    keep: int = 4
    """Prompts of a seed after which it is done."""
    seed: int = 0
    max_model_len: int = 4096
    """Context of the policy's engine in tokens."""
    concurrency: int = 16
    """Seeds in work."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def policy(self) -> SampleConfig:
        """The policy as `conjoint.scripts.eval.open_policy.opened` takes it."""
        return SampleConfig(
            model=self.model,
            max_model_len=self.max_model_len,
            seed=self.seed,
            rollout=self.rollout,
            cluster=self.cluster,
        )

    @property
    def effort(self) -> Effort:
        return Effort(self.rounds, self.variants, self.parents, self.keep)

    @property
    def needs_policy(self) -> bool:
        return not (self.attack.endpoint and self.target.endpoint and self.judge.endpoint)

    def validate(self) -> None:
        """Raises ConjointError for what cannot be run."""
        check_files(self.input, self.output)
        for key in ("rounds", "variants", "parents", "keep", "concurrency"):
            if getattr(self, key) < 1:
                raise ConjointError(f"{key}={getattr(self, key)} must be at least 1")
        for key, role in (("attack", self.attack), ("target", self.target)):
            if role.temperature < 0 or role.max_tokens < 1:
                raise ConjointError(f"{key} needs temperature 0 or more and max_tokens 1 or more")
            _as_judge(key, role)
        self.judge.validate_outside_run()
        if self.needs_policy and not self.model:
            raise ConjointError(
                "give model=PATH, the policy that plays the roles without an endpoint, or "
                "attack.endpoint, target.endpoint and judge.endpoint"
            )
        if self.model and not self.needs_policy:
            raise ConjointError(f"model={self.model} plays no role: each has an endpoint")
        if self.needs_policy:
            self.policy().validate()


def _as_judge(key: str, role: RoleConfig) -> None:
    """The judge's checks of an endpoint, for another role."""
    try:
        JudgeConfig(
            endpoint=role.endpoint,
            endpoint_model=role.endpoint_model,
            api_key_env=role.api_key_env,
        ).validate()
    except ConjointError as error:
        raise ConjointError(str(error).replace("judge.", f"{key}.")) from error


def run(overrides: list[str]) -> int:
    """Print what broke the target and write it; 0, or 128 + the signal that ended it."""
    cfg = load_sampled(EvolveConfig, overrides)
    cfg.validate()
    (rubric,) = load_rubrics([cfg.rubric], key="rubric")
    seeds, model = read_seeds(cfg.input), None
    if cfg.needs_policy:
        model = check_model(cfg.model)

    async def work(interrupt: Interrupt) -> None:
        async with _roles(cfg, model, interrupt) as (attack, target, judge):
            evolution = Evolution(cfg.effort, attack, target, judge, cfg.judge, rubric, cfg.seed)
            print("\n".join(await evolve(cfg, seeds, evolution)))

    return supervised(work)


def read_seeds(path: str) -> list[str]:
    """The distinct behaviours of a file: `reference.behavior` where a row has one, else its prompt.

    Raises ConjointError for a row that is malformed, or says that it is harmless.
    """
    seeds: dict[str, None] = {}
    for number, (_, task) in enumerate(rows_and_tasks(Path(path), "open"), 1):
        reference = task.reference if isinstance(task.reference, Mapping) else {}
        if reference.get("harmful") is False:
            raise ConjointError(
                f"{path}: row {number} is harmless by its reference; seeds are harmful behaviours"
            )
        seeds[str(reference.get("behavior") or task.prompt).strip()] = None
    if not seeds:
        raise ConjointError(f"{path} holds no seeds")
    return list(seeds)


async def evolve(cfg: EvolveConfig, seeds: Sequence[str], evolution: Evolution) -> list[str]:
    """Evolve all seeds, write what was kept, and return the summary.

    Raises StopRun if not one verdict could be had.
    """
    gate = asyncio.Semaphore(cfg.concurrency)

    async def one(behavior: str) -> list[Attempt]:
        async with gate:
            return await evolution.attacks(behavior)

    found = await asyncio.gather(*map(one, seeds))
    counts = evolution.counts
    if not counts[BROKE] + counts[HELD]:
        raise StopRun(
            "no verdict on any answer could be had; look at the judge: its template "
            f"(judge.template={cfg.judge.template}), its endpoint"
        )
    with new_file(cfg.output) as out:
        for behavior, attempts in zip(seeds, found, strict=True):
            for attempt in attempts:
                out.write(_row(behavior, attempt))
    return _summary(cfg, found, counts)


def _row(behavior: str, attempt: Attempt) -> dict[str, Any]:
    """A task row of kind `safety`."""
    return {
        "prompt": attempt.prompt,
        "reference": {"harmful": True, "behavior": behavior},
        "style": attempt.style,
        "round": attempt.round,
        "parent": attempt.parent,
    }


def _summary(
    cfg: EvolveConfig, found: Sequence[Sequence[Attempt]], counts: Counter[str]
) -> list[str]:
    kept = sum(map(len, found))
    lines = [
        f"seeds: {len(found):,}, of which the target broke on {sum(map(bool, found)):,}",
        f"prompts tried: {counts[BROKE] + counts[HELD] + counts['no verdict']:,}",
        f"  broke the target: {counts[BROKE]:,}",
        f"  did not: {counts[HELD]:,}",
    ]
    for style in (DIRECT, *STYLES):
        tried = counts[f"{BROKE} {style}"] + counts[f"{HELD} {style}"]
        if tried:
            lines.append(f"    {style}: {counts[f'{BROKE} {style}']:,} of {tried:,} broke it")
    for words in ("no verdict", "no new prompt", "failed calls"):
        if counts[words]:
            lines.append(f"  {words}: {counts[words]:,}")
    return [*lines, f"kept: {kept:,} -> {cfg.output}"]


@asynccontextmanager
async def _roles(
    cfg: EvolveConfig, model: Path | None, interrupt: Interrupt
) -> AsyncIterator[tuple[Role, Role, ChatPolicy]]:
    """(attack, target, judge); what is started ends with the block."""
    async with AsyncExitStack() as stack:
        configs = (cfg.attack, cfg.target, cfg.judge)
        chats: list[ChatPolicy | None] = []
        for role in configs:
            chats.append(await _endpoint(role, stack) if role.endpoint else None)
        if cfg.needs_policy:
            # Loads Ray and the engine: only now, when nothing can be refused any more.
            from conjoint.scripts.eval.open_policy import opened

            policy = await stack.enter_async_context(
                opened(cfg.policy(), model, [], say, interrupt.install)
            )
            chats = [chat or policy for chat in chats]
        attack, target, judge = chats
        assert attack is not None and target is not None and judge is not None
        yield Role(attack, cfg.attack), Role(target, cfg.target), judge


async def _endpoint(role: RoleConfig | JudgeConfig, stack: AsyncExitStack) -> ChatPolicy:
    policy = EndpointPolicy(EndpointConfig(role.endpoint, role.endpoint_model, role.api_key_env))
    stack.push_async_callback(policy.close)
    await policy.check()
    return policy
