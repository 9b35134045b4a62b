"""The configuration of a run: one tree of dataclasses, checked once, before anything loads.

The dataclass of each part stands beside the code that it configures and holds the defaults. YAML
files in configs/ only pick other values. `compose.py` builds the tree; no other module sees Hydra's
DictConfig.
"""

from dataclasses import dataclass, field, replace

from conjoint.envs.task_config import TaskConfig
from conjoint.rewards.budget import BudgetConfig
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.registry import RewardConfig
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rl.algo.advantages import AdvantageConfig
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.algo.mismatch import MismatchConfig
from conjoint.rl.algo.ptx import PtxConfig
from conjoint.rl.cluster.config import ClusterConfig
from conjoint.rl.critic.tasks import CriticConfig
from conjoint.rl.evaluate import EvalConfig
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.nano.preferences import Asked
from conjoint.rl.nano.sft import SftConfig
from conjoint.rl.run.checkpoint import CheckpointConfig
from conjoint.rl.run.guard import GuardConfig
from conjoint.rl.run.metrics import TrackingConfig
from conjoint.rl.weight_sync import WeightSyncConfig
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.schedule import progress_of


@dataclass(frozen=True, slots=True)
class Config:
    """Root of the tree; `conjoint train` takes its fields as keys."""

    name: str = "joint"
    """Name of the run and of its default folder."""
    model: str = "nano"
    """Start policy: nano, smollm2-135m, a folder that from_pretrained opens, or a hub id."""
    num_steps: int = 40
    """Steps of the run. Each trains on one batch and syncs the weights once."""
    seed: int = 0
    """Seed of the run's random draws. Held-out tasks have eval.seed, nano's SFT has sft.seed."""
    run_dir: str | None = None
    """Folder of the run. Default: runs/NAME-TIME."""
    resume: str | None = None
    """Folder of an interrupted run, which continues from its newest checkpoint, or one of its
    checkpoints (RUN_DIR/checkpoints/step-000010)."""
    resume_allow: list[str] = field(default_factory=list)
    """Keys that a resumed run may change although they affect what is trained; see
    rl/resume/resume.py."""
    replay: str | None = None
    """Folder of a stored batch (RUN_DIR/dumps/step-000012); the learner alone runs on it."""
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

    @property
    def kinds(self) -> dict[str, TaskConfig]:
        """Task kinds of the mixture: those with a weight above 0 and a reward that is on."""
        return {
            kind: task
            for kind, task in self.tasks.items()
            if task.weight > 0 and (self.reward.rubrics or not self.reward.only_rubric(kind))
        }

    @property
    def confident(self) -> list[str]:
        """Task kinds of the mixture whose answers state a confidence."""
        return [kind for kind, task in self.kinds.items() if task.confidence]

    @property
    def nano(self) -> SftConfig:
        """SFT settings of the nano policy for this run.

        Its demonstrations state a confidence for each kind whose tasks ask for a confidence.
        """
        stated = {kind for kind in self.confident if kind in self.sft.rows}
        return replace(self.sft, confidence=sorted(stated.union(self.sft.confidence)))

    @property
    def scheduled(self) -> bool:
        """Whether a schedule runs over `num_steps`, so that changing `num_steps` moves it."""
        temperature = self.rollout.temperature
        return (
            self.optim.schedule != "constant"
            or self.ptx.schedule != "constant"
            or self.budget.schedule != "constant"
            or temperature.start != temperature.end
        )

    @property
    def asked(self) -> Asked:
        """Judge settings and rubrics of this run."""
        return Asked(self.judge, tuple(self.reward.rubrics))

    def budget_of(self, kind: str, step: int = 0) -> int:
        """Token budget of one answer of `kind` at 0-based `step`."""
        progress = progress_of(step, self.num_steps)
        return self.budget.of(kind, self.rollout.max_tokens, progress)

    def largest_budget_of(self, kind: str) -> int:
        """Largest token budget of `kind` over all steps. Evaluations use this budget."""
        return self.budget.largest(kind, self.rollout.max_tokens)
