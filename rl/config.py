"""Hydra composes configs/ into one dataclass tree, which is checked once, before anything loads.

Each part's dataclass sits beside what it configures and holds the defaults; YAML only picks other
values. Below this file nobody sees a DictConfig.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from envs.agent import AgentConfig
from rewards.judge import JudgeConfig
from rewards.sandbox.base import SandboxConfig
from rl.advantages import AdvantageConfig
from rl.bench.config import BenchConfig
from rl.checkpoint import CheckpointConfig
from rl.critic import CriticConfig
from rl.deepspeed_config import deepspeed_config
from rl.evaluate import EvalConfig
from rl.guard import GuardConfig
from rl.learner import LearnerConfig
from rl.losses import LossConfig
from rl.metrics import TrackingConfig
from rl.mismatch import MismatchConfig
from rl.optim.schedules import OptimConfig
from rl.overrides import checked, one_line, refuse_unknown, suggest, type_error, unreadable
from rl.ptx import PtxConfig
from rl.scoring import RewardConfig
from rl.sft import SftConfig
from rl.types import ConjointError
from rl.weight_sync import WeightSyncConfig
from rollouts.budget import BudgetConfig
from rollouts.engine import RolloutConfig
from rollouts.schedule import progress_of

T = TypeVar("T")
CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"

_PARALLEL = {
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "data_parallel_size_local",
}
"""Raw vLLM keys that would change how many processes an engine has."""


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """One task kind of the mixture. The key in `tasks` is the kind."""

    weight: float = 1.0
    """Share of the groups of a step, relative to the other kinds; 0 leaves the kind out."""
    path: str | None = None
    """A .jsonl or .parquet file of rows; null draws from the procedural source of this kind, ""
    is left to the user by an experiment."""
    prompt_suffix: str = ""
    """Added to each prompt of the file, such as how to write the final answer."""
    heldout: int = 0
    """Rows of the file kept apart for evaluation, chosen by the hash of their content."""
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """reasoning-gym dataset -> its difficulty keys ({} for its defaults), drawn from in turn
    instead of a file; the kind's reward is `logic`."""
    allow_gameable: bool = False
    """Take datasets that pay for junk answers too."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """A program that plays this kind's tasks by itself (docs/gateway.md)."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    address: str | None = None
    """null starts Ray on this machine; "auto" or an address joins a cluster."""
    num_cpus: int = 2
    """CPUs that a local Ray advertises."""
    measured: bool = False
    """Whether this configuration has been run on such hardware; printed at start if not."""


@dataclass(frozen=True, slots=True)
class Config:
    name: str = "joint"
    """Name of the run and of its default folder."""
    model: str = "nano"
    """nano, smollm2-135m, a folder that from_pretrained opens, or a hub id."""
    num_steps: int = 40
    seed: int = 0
    run_dir: str | None = None
    """Default: runs/NAME-TIME."""
    resume: str | None = None
    """Folder of an interrupted run, to go on from its last checkpoint, or one of its checkpoints
    (RUN_DIR/checkpoints/step-000010)."""
    resume_allow: list[str] = field(default_factory=list)
    """Keys that a resumed run may change although they change what is trained; see rl/resume.py."""
    replay: str | None = None
    """Folder of a stored batch (RUN_DIR/dumps/step-000012), to run the learner alone on it."""
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mismatch: MismatchConfig = field(default_factory=MismatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    ptx: PtxConfig = field(default_factory=PtxConfig)
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)

    @property
    def kinds(self) -> dict[str, TaskConfig]:
        """Task kinds that take part: a weight above 0, and a reward that is on."""
        return {
            kind: task
            for kind, task in self.tasks.items()
            if task.weight > 0 and (self.reward.rubrics or not self.reward.only_rubric(kind))
        }

    @property
    def scheduled(self) -> bool:
        """Whether a schedule runs over `num_steps`."""
        temperature = self.rollout.temperature
        return (
            self.optim.schedule != "constant"
            or self.ptx.schedule != "constant"
            or self.budget.schedule != "constant"
            or temperature.start != temperature.end
        )

    def budget_of(self, kind: str, step: int = 0) -> int:
        """Sampled tokens that one answer of this kind may have in the step that `step` others come
        before."""
        progress = progress_of(step, self.num_steps)
        return self.budget.of(kind, self.rollout.max_tokens, progress)

    def largest_budget_of(self, kind: str) -> int:
        """The most it may have in any step, and in every evaluation."""
        return self.budget.largest(kind, self.rollout.max_tokens)


def load_config(overrides: Sequence[str]) -> Config:
    """Compose `configs/train.yaml` with Hydra overrides and validate. Raises ConjointError."""
    return from_dict(compose(overrides))


def compose(
    overrides: Sequence[str],
    base: Mapping[str, Any] | None = None,
    root: type = Config,
    file: str = "train",
) -> dict[str, Any]:
    """The plain dict that Hydra makes of `configs/FILE.yaml` (of `base` instead, if given) and
    overrides; `root` is the dataclass that it is for."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    mine = {f.name for f in fields(root)} | ({"experiment"} if root is Config else set())
    groups = {name: files for name, files in config_groups().items() if name in mine}
    ready = [checked(override, root, groups) for override in overrides]
    GlobalHydra.instance().clear()
    # Every key exists with its default, so that Hydra knows which ones a user may set.
    ConfigStore.instance().store(name="defaults_of_code", node=asdict(root()))
    ConfigStore.instance().store(name="stored", node=dict(base or {}))
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = hydra_compose(file if base is None else "stored", overrides=ready)
        plain = OmegaConf.to_container(composed, resolve=True)
    except OverrideParseException as error:
        raise ConjointError(unreadable(error.override)) from error
    except YAMLError as error:
        raise ConjointError(f"a file in configs/ is not YAML: {one_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConjointError(_explain(error, overrides)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def config_groups() -> dict[str, list[str]]:
    """The folders of configs/ that a user picks one file of."""
    folders = [f for f in CONFIG_DIR.iterdir() if f.is_dir() and f.name != "rubrics"]
    found = {f.name: sorted(p.stem for p in f.glob("*.yaml")) for f in folders}
    return {name: files for name, files in found.items() if files}


def from_dict(data: Mapping[str, Any]) -> Config:
    """A validated Config; unknown keys and wrong types are named with their path."""
    config = typed(Config, data)
    validate(config)
    return config


def typed(root: type[T], data: Mapping[str, Any]) -> T:
    """The dataclass with its values. Raises ConjointError naming an unknown key or a wrong type."""
    from pydantic import TypeAdapter, ValidationError

    refuse_unknown(root, data)
    try:
        return TypeAdapter(root).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConjointError):
            raise cause from error
        where = ".".join(map(str, first["loc"]))
        raise ConjointError(
            type_error(where, first["input"], first["type"], first["msg"].lower())
        ) from error


def validate(cfg: Config) -> None:
    """Checks of each part, then of what concerns several."""
    for part in fields(Config):
        check = getattr(getattr(cfg, part.name), "validate", None)
        if check is not None:
            check()
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
    _validate_tasks(cfg)
    _validate_files(cfg)
    _validate_sizes(cfg)
    _validate_nucleus(cfg)
    _validate_devices(cfg)


def _validate_tasks(cfg: Config) -> None:
    for kind, task in cfg.tasks.items():
        if kind == "critic":
            raise ConjointError(
                "tasks.critic: critic tasks come from critic.refine, not from tasks"
            )
        if task.weight < 0 or task.heldout < 0:
            raise ConjointError(f"tasks.{kind}.weight and tasks.{kind}.heldout must be 0 or more")
        task.agent.check(f"tasks.{kind}.agent")
        if task.agent.run and cfg.rollout.max_turns < 2:
            raise ConjointError(
                f"tasks.{kind}.agent.run asks the policy again and again; allow it more than "
                f"rollout.max_turns={cfg.rollout.max_turns} turn"
            )
        if task.agent.run and cfg.rollout.segment_tokens:
            # Held back, the agents of a later wave would keep the places that the due one needs.
            raise ConjointError(
                f"tasks.{kind}.agent.run cannot be held back by rollout.segment_tokens="
                f"{cfg.rollout.segment_tokens}; set it to 0"
            )
        if task.datasets and task.path is not None:
            raise ConjointError(f"give tasks.{kind}.path or tasks.{kind}.datasets, not both")
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
    if not cfg.kinds:
        raise ConjointError("no task kind is left: give some tasks.KIND.weight above 0")


def _validate_files(cfg: Config) -> None:
    """Experiments leave a path empty where only the user has the file."""
    missing = [f"tasks.{kind}.path" for kind, task in cfg.kinds.items() if task.path == ""]
    if cfg.ptx.enabled and not cfg.ptx.source:
        missing.append("ptx.source")
    if missing:
        weight = missing[-1].rpartition(".")[0] + ".weight=0"
        raise ConjointError(
            f"{' and '.join(missing)} must name your files, such as {missing[0]}=rows.jsonl; "
            f"{weight} leaves a part out"
        )


def _validate_sizes(cfg: Config) -> None:
    rollout, learner = cfg.rollout, cfg.learner
    if rollout.groups_per_step % learner.updates_per_batch:
        raise ConjointError(
            f"rollout.groups_per_step={rollout.groups_per_step} prompts cannot be split into "
            f"learner.updates_per_batch={learner.updates_per_batch} equal updates"
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


def _validate_nucleus(cfg: Config) -> None:
    """The ratio of learner and engine holds a token's share of its nucleus, which must be kept."""
    for kind, top_p in cfg.rollout.top_p.items():
        if top_p == 1:
            continue
        if cfg.mismatch.correction == "none" or cfg.mismatch.level != "token":
            raise ConjointError(
                f"rollout.top_p.{kind}={top_p} draws from fewer tokens than the learner trains on; "
                "it needs mismatch.correction=truncate or band and mismatch.level=token, which "
                "weigh each token for it"
            )
        if cfg.mismatch.correction == "band" and cfg.mismatch.low > top_p:
            raise ConjointError(
                f"mismatch.low={cfg.mismatch.low} would drop tokens of rollout.top_p.{kind}="
                f"{top_p}, whose ratio may be as low as that; lower it or raise top_p"
            )


def _validate_devices(cfg: Config) -> None:
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
    gpu = rollout.gpus_per_engine * rollout.engines + learner.gpus_per_rank
    shared = 0 < rollout.gpus_per_engine < 1 and 0 < learner.gpus_per_rank < 1 and gpu <= 1
    asked = ["rollout.sleep=true"] if rollout.sleep else []
    asked += ["weight_sync.backend=ipc"] if cfg.weight_sync.backend == "ipc" else []
    if asked and not shared:
        raise ConjointError(
            f"{asked[0]} is for one GPU that engines and learner share; give both a fraction of "
            "it, such as rollout.gpus_per_engine=0.4 and learner.gpus_per_rank=0.6"
        )


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One sentence for what Hydra says in several lines."""
    for override in overrides:
        if override.startswith("~"):
            return f"{override} removes nothing: the key is not set"
        key, _, value = override.lstrip("+").partition("=")
        if "," in value and value[:1] not in "[{'\"":
            return f"{key}={value}: expected one value; a list is written [{value}]"
    return f"the configuration cannot be composed: {one_line(error)}"
