"""The plan of a run: data, rubrics and rewards, read and checked before anything heavy loads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conjoint.envs.agent import Agent, load_agent
from conjoint.envs.mixture import TaskSets
from conjoint.envs.nano.sources import VERIFIABLE
from conjoint.envs.types import CALIBRATION, ConjointError, Task
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.registry import OwnRewards, load_own_rewards
from conjoint.rewards.rubrics.find import Rubric, load_rubrics
from conjoint.rl.algo.ptx import PtxStream, read_rows
from conjoint.rl.config.tree import Config
from conjoint.rl.evaluate import check_pairs
from conjoint.rl.learner.memory import memory_words
from conjoint.rl.models.shape import ModelShape
from conjoint.rl.nano.cache import nano_folder
from conjoint.rl.nano.preferences import read_preferences
from conjoint.rl.nano.start_policy import check_model
from conjoint.rl.prompts import Prompts
from conjoint.rl.run.console import batch_words
from conjoint.rl.tasks import build_tasks, mixture_weights, nano_ptx_rows


@dataclass(frozen=True, slots=True)
class Plan:
    """Inputs of a run that have passed every check that needs no engine and no model."""

    cfg: Config
    tasks: TaskSets
    rubrics: list[Rubric]
    own_rewards: OwnRewards
    ptx_rows: list[tuple[str, Any]]
    model: Path | None
    """Folder of the start policy; None if nano must still be built."""
    agents: dict[str, Agent] = field(default_factory=dict)
    """Task kind -> the user's program that plays its tasks, for kinds that have one."""
    ptx: PtxStream | None = None
    """The PTX rows as tokens; None if PTX is off, or nano's own rows wait for nano."""

    @property
    def words(self) -> list[str]:
        """Sentences that describe the run, with the memory that its model needs, if it exists."""
        cfg, words = self.cfg, [*plan_words(self.cfg), *self.tasks.notes]
        if self.model is not None:
            shape, reference = ModelShape.from_folder(self.model), cfg.loss.kl_weight > 0
            words.append(memory_words(shape, cfg.learner, cfg.optim, reference=reference))
        return words


def prepare(cfg: Config) -> Plan:
    """Read the data, the rubrics, the user's own rewards and agents, and the tokenizer.

    Raises ConjointError for a missing or malformed file, a rubric that applies to no task, a judge
    that cannot be tested, and prompts or PTX rows that the tokenizer or the context refuses.
    """
    model = check_model(cfg.model)
    if model is None and (nano := nano_folder(cfg.nano, cfg.asked)).is_dir():
        model = nano
    elif model is None and cfg.sft.preferences.path:
        read_preferences(cfg.sft.preferences.path, cfg.asked, cfg.sft.seed)
    rubrics = load_rubrics(cfg.reward.rubrics)
    for rubric in rubrics:
        if rubric.kind == "task":
            raise ConjointError(
                f"reward.rubrics: '{rubric.name}' is of kind task, so it belongs to single tasks; "
                "name it in the field 'rubrics' of their rows, or make it of kind core"
            )
    judged = [k for k in cfg.kinds if "rubric" in cfg.reward.kinds[k]]
    for kind in judged if rubrics else ():
        if not any(rubric.applies(kind) for rubric in rubrics):
            raise ConjointError(
                f"no rubric of reward.rubrics={cfg.reward.rubrics} applies to kind {kind}; "
                "add the kind to applies_to of one of them"
            )
    if any("safety" in cfg.reward.kinds[kind] for kind in cfg.kinds):
        load_rubrics([cfg.reward.safety_rubric], key="reward.safety_rubric")
    own, prompts = load_own_rewards(cfg.reward), Prompts(cfg, model)
    tasks, ptx_rows = build_tasks(cfg, own, prompts), read_ptx(cfg)
    if cfg.judge.policy == "promoted" and not tasks.judge_pairs:
        raise ConjointError(
            "judge.policy=promoted compares critics on held-out verifiable pairs, and there are "
            "none: eval.judge_pairs come from the built-in sources of "
            f"{', '.join(VERIFIABLE)}; add one of these kinds, name eval.pairs=FILE, or take "
            "judge.policy=frozen"
        )
    agents = {
        kind: load_agent(task.agent, f"tasks.{kind}.agent")
        for kind, task in cfg.kinds.items()
        if task.agent.run
    }
    for kind in agents:
        _check_columns(kind, cfg.kinds[kind].agent.columns, tasks.first[kind])
    if cfg.eval.pairs:
        context = cfg.rollout.max_model_len
        check_pairs(tasks.judge_pairs, cfg.judge, prompts.renderer.prompt, context)
    ptx = None
    if ptx_rows and (model is not None or cfg.ptx.source != "nano"):
        ptx = PtxStream(ptx_rows, prompts.renderer, cfg.ptx, cfg.seed)
    return Plan(cfg, tasks, rubrics, own, ptx_rows, model, agents, ptx)


def _check_columns(kind: str, columns: Sequence[str], first: Task) -> None:
    """Raises ConjointError for a column that the first row of the kind does not have."""
    for name in columns:
        if name not in first.meta:
            there = ", ".join(sorted(first.meta)) or "none"
            raise ConjointError(
                f"tasks.{kind}.agent.columns names {name!r}, and the first row has no further "
                f"column of that name; there are: {there}"
            )


def read_ptx(cfg: Config) -> list[tuple[str, Any]]:
    """Rows of the PTX loss as (place for error messages, fields); none if PTX is off."""
    if not cfg.ptx.enabled:
        return []
    if cfg.ptx.source == "nano":
        return nano_ptx_rows()
    return list(read_rows(Path(cfg.ptx.source)))


def plan_words(cfg: Config) -> list[str]:
    """Sentences that describe the settings of the run, for the console."""
    words = batch_words(
        prompts=cfg.rollout.groups_per_step,
        group_size=cfg.rollout.group_size,
        updates=cfg.learner.updates_per_batch,
        ptx_rows=cfg.ptx.rows_per_step // cfg.learner.updates_per_batch if cfg.ptx.enabled else 0,
        weights=mixture_weights(cfg),
        budgets={
            kind: (cfg.budget_of(kind), cfg.budget_of(kind, cfg.num_steps - 1))
            for kind in (cfg.kinds if cfg.budget.enabled else ())
        },
    )
    words.append(objective_words(cfg))
    words += length_words(cfg.budget)
    words += confidence_words(cfg)
    words += judge_words(cfg)
    dropped = [kind for kind in cfg.tasks if kind not in cfg.kinds and cfg.tasks[kind].weight]
    if dropped:
        words.append(f"Left out, because reward.rubrics is empty: {', '.join(dropped)}.")
    words += [
        f"Tasks of kind {kind} are played by {task.agent.run}, {task.agent.concurrency} at a time."
        for kind, task in cfg.kinds.items()
        if task.agent.run
    ]
    if not cfg.cluster.measured:
        words.append("This configuration has not been measured yet on its hardware.")
    return words


def objective_words(cfg: Config) -> str:
    """A sentence on the objective and on what its log-ratio is taken to."""
    if cfg.loss.old_policy == "sampler":
        return f"Objective {cfg.loss.name}: the old policy is the one that sampled."
    correction = cfg.mismatch.given("learner").correction
    return (
        f"Objective {cfg.loss.name}: the old policy is the learner's before each step; "
        f"mismatch.correction={correction} for what lies between it and the sampler."
    )


def length_words(budget: BudgetConfig) -> list[str]:
    """Sentences on the length rules beside the budgets: Toggle and the length reward."""
    toggle, length, words = budget.toggle, budget.length, []
    if toggle.every:
        words.append(
            f"Toggle on {', '.join(toggle.kinds)}: after {toggle.estimate_steps} steps, length "
            f"limits bind for {toggle.every} steps and rest for {toggle.every}, in turn."
        )
    if weights := {kind: weight for kind, weight in length.weight.items() if weight}:
        listed = ", ".join(f"{kind} {weight:g}" for kind, weight in weights.items())
        words.append(f"Length reward: {listed}, from step {length.warmup_steps + 1} on.")
    return words


def confidence_words(cfg: Config) -> list[str]:
    """A sentence on the kinds that state a confidence and on its weight, if there are any."""
    weight = cfg.reward.weights.get(CALIBRATION, 1.0)
    paid = f"paid with weight {weight:g} (RLCR)" if weight else "measured and not paid"
    kinds = ", ".join(cfg.confident)
    return [f"Answers of kind {kinds} state a confidence, which is {paid}."] if kinds else []


def judge_words(cfg: Config) -> list[str]:
    """A sentence on the weights that judge; none if they are the weights being trained."""
    of = {
        "frozen": "the weights of the start, for the whole run",
        "promoted": "a snapshot, which the live critic replaces where an evaluation allows it",
    }
    if cfg.judge.policy not in of:
        return []
    return [f"The judge has an engine of its own and judges with {of[cfg.judge.policy]}."]


def next_command(cfg: Config) -> str:
    """A command to try after this run. File names in upper case are for the user to fill in."""
    if cfg.model == "nano":
        return "make smollm2 && conjoint train experiment=smollm2_cpu tasks.math.path=GSM8K.jsonl"
    files = "tasks.math.path=MATH.jsonl ptx.source=CHAT.jsonl"
    return f"conjoint train experiment=gpu_1 model={cfg.model} {files}"
