"""Refuses configurations whose values contradict each other or whose sizes do not fit.

Rules within one part stand in that part's own `validate`. This file holds the rules that join
several parts. Each refusal is a ConjointError of one sentence that names the keys. All of them come
before anything loads.
"""

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from conjoint.envs.types import CALIBRATION, ConjointError
from conjoint.rewards.registry import (
    REWARDS,
    always_judged,
    check_weights,
    default_kinds,
    may_ask_judge,
    score_name,
)
from conjoint.rl.config.overrides import suggest
from conjoint.rl.learner.deepspeed_config import deepspeed_config

if TYPE_CHECKING:
    from conjoint.rl.config.tree import Config

_PARALLEL = {
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "data_parallel_size_local",
}
"""Raw vLLM keys that would change how many processes an engine has."""


def validate_parts(config: Any) -> None:
    """Call `validate()` of every part inside a config, of inner parts first; a part without rules
    has none.

    A part in a dict is validated by its owner, which knows its key (tasks.KIND).
    """
    for field in fields(config):
        part = getattr(config, field.name)
        if is_dataclass(part):
            validate_parts(part)
            getattr(part, "validate", lambda: None)()


def validate(cfg: "Config") -> None:
    """Check the parts, which are valid each by itself, against each other. Raises ConjointError."""
    if cfg.num_steps < 1:
        raise ConjointError(f"num_steps={cfg.num_steps} must be at least 1")
    if not cfg.model:
        raise ConjointError("model is empty; give nano, smollm2-135m, a folder or a hub id")
    if cfg.resume and cfg.run_dir:
        raise ConjointError(
            "give resume=RUN_DIR or run_dir=DIR, not both: a resumed run stays in its folder"
        )
    if cfg.resume and cfg.replay:
        raise ConjointError("give resume=RUN_DIR or replay=DUMP, not both")
    if cfg.resume_allow and not cfg.resume:
        raise ConjointError("resume_allow has no effect without resume=RUN_DIR")
    if cfg.checkpoint.keep_best and not (cfg.eval.every and cfg.eval.tasks):
        raise ConjointError(
            "checkpoint.keep_best needs evaluations to compare; set eval.every and eval.tasks"
        )
    if cfg.sft.preferences.path and cfg.model != "nano":
        raise ConjointError(
            f"sft.preferences.path has no effect on model={cfg.model}, which is not made by SFT "
            "here; set model=nano"
        )
    _validate_tasks(cfg)
    _validate_judge(cfg)
    _validate_files(cfg)
    _validate_sizes(cfg)
    _validate_nucleus(cfg)
    _validate_devices(cfg)


def _validate_tasks(cfg: "Config") -> None:
    """Rules on task kinds; each must have a reward, and keys by kind must name a known kind."""
    for kind, task in cfg.tasks.items():
        if kind == "critic":
            raise ConjointError(
                "tasks.critic: critic tasks come from critic.refine, not from tasks"
            )
        task.validate(f"tasks.{kind}")
        if task.agent.run and cfg.rollout.max_turns < 2:
            raise ConjointError(
                f"tasks.{kind}.agent.run asks the policy again and again; allow it more than "
                f"rollout.max_turns={cfg.rollout.max_turns} turn"
            )
        if task.agent.run and cfg.rollout.segment_tokens:
            # Agents of a later wave, held back, would keep places that the due wave needs.
            raise ConjointError(
                f"tasks.{kind}.agent.run cannot be held back by rollout.segment_tokens="
                f"{cfg.rollout.segment_tokens}; set it to 0"
            )
        if task.datasets and "logic" not in cfg.reward.kinds.get(kind, ()):
            raise ConjointError(
                f"tasks.{kind}.datasets is verified by the logic reward; set "
                f"reward.kinds.{kind}=[logic]"
            )
        if not cfg.reward.kinds.get(kind):
            raise ConjointError(
                f"tasks.{kind} has no reward; {suggest(kind, cfg.reward.kinds)} (a kind of your "
                f"own needs reward.kinds.{kind}=[NAME])"
            )
    for key, kinds in (
        ("budget.tokens", cfg.budget.tokens),
        ("budget.end_tokens", cfg.budget.end_tokens),
        ("budget.length.weight", cfg.budget.length.weight),
        ("budget.toggle.kinds", cfg.budget.toggle.kinds),
        ("advantage.scale", cfg.advantage.scale),
        ("rollout.top_p", cfg.rollout.top_p),
    ):
        for kind in kinds:
            if kind not in (*cfg.tasks, "critic"):
                raise ConjointError(
                    f"{key}.{kind} names no task kind; {suggest(kind, [*cfg.tasks, 'critic'])}"
                )
    for kind in cfg.budget.toggle.kinds:
        if cfg.reward.only_rubric(kind):
            raise ConjointError(
                f"budget.toggle.kinds: {kind} is judged by rubrics alone, so no answer of it is "
                "correct and no length limit could be set; leave it out"
            )
    _validate_confidence(cfg)
    _validate_rewards(cfg)
    if not cfg.kinds:
        raise ConjointError("no task kind is left: give some tasks.KIND.weight above 0")


def _validate_rewards(cfg: "Config") -> None:
    """A key by kind or by reward must name one that is there; else it would do nothing."""
    kinds = {*cfg.tasks, *default_kinds()}
    used = [name for kind in kinds for name in cfg.reward.kinds.get(kind, ())]
    own = [score_name(name) for name in used if name not in REWARDS]
    for key, names, known in (
        ("reward.kinds", cfg.reward.kinds, kinds),
        ("reward.weights", cfg.reward.weights, {*map(score_name, used), CALIBRATION}),
        ("reward.ranges", cfg.reward.ranges, own),
    ):
        for name in names:
            if name not in known:
                what = "task kind" if key == "reward.kinds" else "reward that a kind has"
                hint = suggest(name, known) if known else "there is no reward of your own"
                raise ConjointError(f"{key}.{name} names no {what}; {hint}")
    for kind in cfg.kinds:
        check_weights(cfg.reward.weights, cfg.reward.kinds[kind], f"tasks.{kind}")


def _validate_confidence(cfg: "Config") -> None:
    """A stated confidence needs a verifier to pay it, and a prompt of ours to ask for it."""
    for kind, task in cfg.tasks.items():
        rewards = cfg.reward.kinds.get(kind, [])
        if not task.confidence:
            continue
        if all(map(always_judged, rewards)):
            raise ConjointError(
                f"tasks.{kind}.confidence is paid by what a verifier proves, and {kind} is only "
                f"judged ({', '.join(rewards)}); add the rubric 'calibrated' to reward.rubrics for "
                "it instead"
            )
        if task.agent.run:
            raise ConjointError(
                f"tasks.{kind}.agent.run writes its own prompts, so nothing asks for "
                f"tasks.{kind}.confidence; turn one of them off"
            )
        weights = [cfg.reward.weights.get(score_name(name), 1.0) for name in rewards]
        if not sum(weights) > 0:
            raise ConjointError(
                f"tasks.{kind}.confidence would be all that pays {kind}, and a wrong answer with "
                "confidence 0 as much as a right one with 1; give one of its rewards a weight "
                "above 0 in reward.weights"
            )
    weight = cfg.reward.weights.get(CALIBRATION)
    if weight is not None and not 0 <= weight < float("inf"):
        raise ConjointError(f"reward.weights.{CALIBRATION}={weight} must be 0 or more")
    if weight is not None and not cfg.confident:
        raise ConjointError(
            f"reward.weights.{CALIBRATION} has no effect: no task kind states a confidence; set "
            "tasks.KIND.confidence=true"
        )
    cfg.nano.validate()  # with the kinds that state one


def _validate_judge(cfg: "Config") -> None:
    """Refuse keys whose evaluations never run, and an engine for a judge that cannot have one."""
    judge, evaluation = cfg.judge, cfg.eval
    # Evaluations at start and end are too early and too late to promote a judge or stop a run.
    between = 0 < evaluation.every < cfg.num_steps and evaluation.judge_pairs
    for key, asked in (
        ("judge.policy=promoted", judge.policy == "promoted"),
        (f"guard.max_judge_drop={cfg.guard.max_judge_drop}", cfg.guard.max_judge_drop < 1),
    ):
        if asked and not between:
            raise ConjointError(
                f"{key} looks at evaluations of the critic between start and end; set "
                "eval.judge_pairs above 0, and eval.every above 0 and below num_steps"
            )
    if not judge.has_own_engine:
        return
    if not any(may_ask_judge(name) for kind in cfg.kinds for name in cfg.reward.kinds[kind]):
        raise ConjointError(
            f"judge.policy={judge.policy} has no effect: no task kind has a reward that asks a "
            "judge; leave it out"
        )
    if cfg.weight_sync.backend != "shm" or cfg.rollout.sleep:
        raise ConjointError(
            f"judge.policy={judge.policy} gives the judge an engine of its own, which needs "
            "weight_sync.backend=shm and rollout.sleep=false"
        )


def _validate_files(cfg: "Config") -> None:
    """Refuse an empty path: an experiment leaves it to the user to name the file."""
    missing = [f"tasks.{kind}.path" for kind, task in cfg.kinds.items() if task.path == ""]
    if cfg.ptx.enabled and not cfg.ptx.source:
        missing.append("ptx.source")
    if missing:
        weight = missing[-1].rpartition(".")[0] + ".weight=0"
        raise ConjointError(
            f"{' and '.join(missing)} must name your files, such as {missing[0]}=rows.jsonl; "
            f"{weight} leaves a part out"
        )


def _validate_sizes(cfg: "Config") -> None:
    """A prompt with its answer must fit in the engine, and any sequence in one micro-batch."""
    rollout, learner = cfg.rollout, cfg.learner
    if rollout.groups_per_step % learner.updates_per_batch:
        raise ConjointError(
            f"rollout.groups_per_step={rollout.groups_per_step} prompts cannot be split into "
            f"learner.updates_per_batch={learner.updates_per_batch} equal updates"
        )
    if cfg.ptx.enabled and cfg.ptx.rows_per_step < learner.updates_per_batch:
        raise ConjointError(
            f"ptx.rows_per_step={cfg.ptx.rows_per_step} leaves some of the "
            f"learner.updates_per_batch={learner.updates_per_batch} updates without PTX; give each "
            "at least one row"
        )
    if rollout.max_turns > 1 and not any(task.agent.run for task in cfg.kinds.values()):
        raise ConjointError(
            f"rollout.max_turns={rollout.max_turns} has no effect: every task is answered in one "
            "turn unless tasks.KIND.agent.run plays it; leave it at 1"
        )
    for kind in (*cfg.kinds, "critic"):
        if (largest := cfg.largest_budget_of(kind)) >= rollout.max_model_len:
            raise ConjointError(
                f"the budget of {kind} ({largest} tokens) leaves no room for a prompt "
                f"in rollout.max_model_len={rollout.max_model_len}"
            )
    if learner.tokens_per_microbatch < rollout.max_model_len:
        raise ConjointError(
            f"learner.tokens_per_microbatch={learner.tokens_per_microbatch} cannot hold one "
            f"sequence of rollout.max_model_len={rollout.max_model_len} tokens"
        )
    if cfg.ptx.enabled and cfg.ptx.max_tokens > learner.tokens_per_microbatch:
        raise ConjointError(
            f"learner.tokens_per_microbatch={learner.tokens_per_microbatch} cannot hold one row of "
            f"ptx.max_tokens={cfg.ptx.max_tokens} tokens"
        )


def _validate_nucleus(cfg: "Config") -> None:
    """Nucleus sampling needs per-token importance weights.

    The engine renormalises over the nucleus, so learner over engine probability is the mass of the
    nucleus, between top_p and 1, even without numerical error. The weights must contain this ratio.
    """
    mismatch = cfg.mismatch.given(cfg.loss.old_policy)
    for kind, top_p in cfg.rollout.top_p.items():
        if top_p == 1:
            continue
        if mismatch.correction == "none" or mismatch.level != "token":
            raise ConjointError(
                f"rollout.top_p.{kind}={top_p} draws from fewer tokens than the learner trains on; "
                "it needs loss.old=learner, mismatch.correction=truncate or band and "
                "mismatch.level=token, which weigh each token for it"
            )
        if mismatch.correction == "band" and mismatch.low > top_p:
            raise ConjointError(
                f"mismatch.low={mismatch.low} would drop tokens of rollout.top_p.{kind}="
                f"{top_p}, whose ratio may be as low as that; lower it or raise top_p"
            )


def _validate_devices(cfg: "Config") -> None:
    """Backends, transports and shares of GPUs must be able to work together."""
    rollout, learner = cfg.rollout, cfg.learner
    if parallel := sorted(set(rollout.vllm) & _PARALLEL):
        raise ConjointError(
            f"rollout.vllm.{parallel[0]} is not ours to place; use rollout.engines and "
            "rollout.tensor_parallel"
        )
    if rollout.backend != "vllm" and cfg.weight_sync.backend != "shm":
        raise ConjointError(
            f"weight_sync.backend={cfg.weight_sync.backend} is vLLM's; "
            f"rollout.backend={rollout.backend} takes shm"
        )
    if cfg.weight_sync.delta and rollout.dtype not in ("float32", "bfloat16", "float16"):
        raise ConjointError(
            f"weight_sync.delta needs the engines' type by its name; rollout.dtype={rollout.dtype} "
            "must be float32, bfloat16 or float16"
        )
    deepspeed_config(learner, cfg.optim)  # refuses raw keys that contradict typed ones
    if cfg.weight_sync.backend == "nccl" and (
        rollout.gpus_per_engine < 1 or learner.gpus_per_rank < 1
    ):
        raise ConjointError(
            "weight_sync.backend=nccl needs whole GPUs on both sides; set rollout.gpus_per_engine "
            "and learner.gpus_per_rank to 1, or use shm"
        )
    if rollout.sleep and rollout.max_staleness:
        raise ConjointError(
            "rollout.sleep drops the answers that are under way; it needs rollout.max_staleness=0"
        )
    # One GPU is shared if both sides ask for a fraction and the fractions add up to at most 1.
    gpu = rollout.gpus_per_engine * rollout.engines + learner.gpus_per_rank
    shared = 0 < rollout.gpus_per_engine < 1 and 0 < learner.gpus_per_rank < 1 and gpu <= 1
    asked = ["rollout.sleep=true"] if rollout.sleep else []
    asked += ["weight_sync.backend=ipc"] if cfg.weight_sync.backend == "ipc" else []
    if asked and not shared:
        raise ConjointError(
            f"{asked[0]} is for one GPU that engines and learner share; give both a fraction of "
            "it, such as rollout.gpus_per_engine=0.4 and learner.gpus_per_rank=0.6"
        )
