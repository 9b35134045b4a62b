"""Hydra composes configs/ into one dataclass tree, which is checked once, before anything loads.

Each part's dataclass sits beside what it configures and holds the defaults; YAML only picks other
values. Below this file nobody sees a DictConfig.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from envs.agent import AgentConfig
from rewards.judge import JudgeConfig
from rewards.sandbox.base import SandboxConfig
from rl.advantages import AdvantageConfig
from rl.bench.config import BenchConfig
from rl.checkpoint import CheckpointConfig
from rl.config_checks import validate
from rl.critic import CriticConfig
from rl.evaluate import EvalConfig
from rl.guard import GuardConfig
from rl.learner import LearnerConfig
from rl.losses import LossConfig
from rl.metrics import TrackingConfig
from rl.mismatch import MismatchConfig
from rl.optim.schedules import OptimConfig
from rl.overrides import checked, one_line, refuse_unknown, type_error, unreadable
from rl.preferences import Asked
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
    confidence: bool = False
    """Ask for the chance that the answer is right, in a last line of it, and pay it (RLCR; see
    docs/self-critique.md). For kinds that a verifier grades."""
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
    def confident(self) -> list[str]:
        """The task kinds that take part and state a confidence."""
        return [kind for kind, task in self.kinds.items() if task.confidence]

    @property
    def nano(self) -> SftConfig:
        """How nano is made for this run: its demonstrations state what the tasks ask for."""
        stated = {kind for kind in self.confident if kind in self.sft.rows}
        return replace(self.sft, confidence=sorted(stated.union(self.sft.confidence)))

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

    @property
    def asked(self) -> Asked:
        """How the run asks its judge."""
        return Asked(self.judge, tuple(self.reward.rubrics))

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


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One sentence for what Hydra says in several lines."""
    for override in overrides:
        if override.startswith("~"):
            return f"{override} removes nothing: the key is not set"
        key, _, value = override.lstrip("+").partition("=")
        if "," in value and value[:1] not in "[{'\"":
            return f"{key}={value}: expected one value; a list is written [{value}]"
    return f"the configuration cannot be composed: {one_line(error)}"
