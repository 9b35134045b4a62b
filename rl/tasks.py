"""Task sets of a run: the training mixture, the held-out tasks, and the judge's fixed pairs."""

from typing import Any

from conjoint.envs.mixture import CRITIC, Mixture, MixtureConfig, Source, TaskSets, split_rows
from conjoint.envs.nano.sources import SOURCES, VERIFIABLE, verifiable_pairs
from conjoint.envs.sources.dataset import DatasetSource
from conjoint.envs.task_config import TaskConfig
from conjoint.envs.types import ConjointError, Task
from conjoint.rewards.logic.source import GymSource
from conjoint.rewards.registry import OwnRewards, reference_check
from conjoint.rewards.rubrics.find import task_rubrics
from conjoint.rl.config.tree import Config
from conjoint.rl.nano.preferences import read_pairs
from conjoint.rl.nano.sft import ptx_conversations
from conjoint.rl.prompts import Prompts


def build_tasks(
    cfg: Config, own: OwnRewards | None = None, prompts: Prompts | None = None
) -> TaskSets:
    """Open every source. Raises ConjointError for a file or row that cannot be used, also for one
    that lacks a column which a reward of `own` asks for, or that `prompts` refuses."""
    sources: dict[str, Source] = {}
    heldout: dict[str, list[Task]] = {}
    unverified: list[Task] = []
    for kind, task in cfg.kinds.items():
        sources[kind], apart = _split(cfg, kind, task, own or OwnRewards({}), prompts)
        judged = cfg.reward.only_rubric(kind)
        count = cfg.eval.open_tasks if judged else cfg.eval.tasks
        if apart is None or not count:
            continue
        count = count if task.path is None else min(count, task.heldout)
        found = [apart.task(i) for i in range(count)]
        if judged:
            unverified += found
        else:
            heldout[kind] = found
    mixture = Mixture(sources, MixtureConfig(mixture_weights(cfg)), cfg.seed)
    first = {kind: source.task(0) for kind, source in sources.items()}
    notes = tuple(prompts.notes) if prompts else ()
    return TaskSets(mixture, heldout, unverified, _judge_pairs(cfg), first, notes)


def mixture_weights(cfg: Config) -> dict[str, float]:
    """Relative shares of the groups of a step, the critic's queue included."""
    critic = {CRITIC: cfg.critic.weight} if cfg.critic.refine else {}
    return {kind: task.weight for kind, task in cfg.kinds.items()} | critic


def _split(
    cfg: Config, kind: str, task: TaskConfig, own: OwnRewards, prompts: Prompts | None
) -> tuple[Source, Source | None]:
    """(training source, held-out source) of one kind, disjoint by the hash of their content."""
    rewards = cfg.reward.kinds[kind]
    if task.path is not None:
        check = reference_check(rewards, cfg.sandbox)
        rows = DatasetSource(task.path, kind, suffix=task.prompt_suffix, validate=check)
        if "rubric" in rewards:
            _check_rubrics(rows)
        own.fit(rewards, map(rows.task, range(len(rows))), task.path)
        return split_rows(prompts.fitting(rows) if prompts else rows, task.heldout, cfg.eval.seed)
    train, heldout = _made(cfg, kind, task)
    if prompts:
        prompts.check_made(train)
    own.fit(rewards, [train.task(0)], f"tasks.{kind}")
    return train, heldout


def _made(cfg: Config, kind: str, task: TaskConfig) -> tuple[Source, Source]:
    """(training source, held-out source) of a kind whose tasks are made on demand."""
    if task.datasets:
        return _gym(cfg, kind, task, "train"), _gym(cfg, kind, task, "heldout")
    if kind not in SOURCES:
        raise ConjointError(
            f"tasks.{kind} has neither path nor datasets, and there is no procedural source of "
            f"kind {kind}; known are {', '.join(SOURCES)}"
        )
    return SOURCES[kind]("train", cfg.seed), SOURCES[kind]("heldout", cfg.eval.seed)


def _check_rubrics(rows: DatasetSource) -> None:
    """Raises ConjointError for a row whose own rubrics are missing or malformed."""
    for i in range(len(rows)):
        try:
            task_rubrics(rows.task(i))
        except ConjointError as error:
            raise ConjointError(f"{rows.path}, row {i + 1}: {error}") from error


def _gym(cfg: Config, kind: str, task: TaskConfig, split: str) -> GymSource:
    return GymSource(
        task.datasets,
        split,
        cfg.seed if split == "train" else cfg.eval.seed,
        kind=kind,
        suffix=task.prompt_suffix,
        partial=cfg.reward.logic_partial,
        # One look is enough: both splits come from the same dataset.
        allow_gameable=task.allow_gameable or split == "heldout",
        isolation=cfg.sandbox.isolation,
    )


def _judge_pairs(cfg: Config) -> list[tuple[Task, str, str]]:
    if cfg.eval.pairs:
        return read_pairs(cfg.eval.pairs, "eval.pairs")[: cfg.eval.judge_pairs]
    kinds = [kind for kind in VERIFIABLE if kind in cfg.kinds and cfg.tasks[kind].path is None]
    each = cfg.eval.judge_pairs // max(1, len(kinds))
    return [p for kind in kinds for p in verifiable_pairs[kind]("heldout", each, cfg.eval.seed)]


def nano_ptx_rows(count: int = 512) -> list[tuple[str, Any]]:
    """PTX rows of the built-in source, as (place, row): they keep nano's judge and its voice, and
    teach none of the verifiable kinds."""
    rows = ptx_conversations(count)
    return [(f"ptx row {i}", {"messages": row}) for i, row in enumerate(rows, 1)]
