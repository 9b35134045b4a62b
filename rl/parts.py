"""The parts of one run: sampling, scoring, learning, and the record of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from conjoint.envs.mixture import Mixture
from conjoint.envs.types import Group
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.sandbox.base import Sandbox
from conjoint.rewards.scoring import Scorer
from conjoint.rl.algo.ptx import PtxStream
from conjoint.rl.algo.staleness import newest_only
from conjoint.rl.config.tree import Config
from conjoint.rl.critic.snapshot import CriticSnapshot
from conjoint.rl.learner.base import Learner
from conjoint.rl.learner.batch import Batch, heldout_batch, make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.models.shape import BY_TOKENS, TokenCost
from conjoint.rl.run.console import RunConsole, Stopwatch
from conjoint.rl.run.folder import RunFolder
from conjoint.rl.run.metrics import Trackers
from conjoint.rl.weight_sync import PausedSync
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.engine.base import RolloutEngine


@dataclass(slots=True)
class Sampling:
    """The parts that turn tasks into groups of answers."""

    mixture: Mixture
    engine: RolloutEngine
    collector: Collector


@dataclass(slots=True)
class Scoring:
    """The parts that turn answers into scores."""

    scorer: Scorer
    judge: Judge
    snapshot: CriticSnapshot | None = None
    """The judge's own weights; None if the live policy judges."""
    sandbox: Sandbox | None = None

    def drain_metrics(self) -> dict[str, float]:
        """Figures of the judge and of the jail since the last call."""
        parts = (self.judge, self.snapshot, self.sandbox)
        return {k: v for part in parts if part for k, v in part.drain_metrics().items()}


@dataclass(slots=True)
class Learning:
    """The parts that turn scored groups into new weights, and bring these to the engines."""

    learner: Learner
    weight_sync: PausedSync
    ptx: PtxStream | None = None
    cost: TokenCost = BY_TOKENS
    """The estimate of work that micro-batches are balanced by."""

    def batch(self, cfg: Config, groups: Sequence[Group], ptx_weight: float) -> Batch:
        """One step's batch: the groups, and the next PTX rows."""
        trained = newest_only(groups) if cfg.rollout.mask_stale else groups
        rows = self.ptx.next() if self.ptx else []
        return make_batch(trained, rows, cfg.learner, ptx_weight, self.cost)

    async def heldout_ptx_loss(self, cfg: LearnerConfig) -> dict[str, float]:
        """Mean cross-entropy (nats a token) of PTX rows that are never trained on: it rises as the
        policy forgets."""
        if not (self.ptx and self.ptx.heldout):
            return {}
        loss = await self.learner.ptx_loss(heldout_batch(self.ptx.heldout, cfg))
        return {"ptx/heldout_loss": loss}


@dataclass(slots=True)
class Record:
    """The run folder, the trackers, the console and the clock."""

    folder: RunFolder
    trackers: Trackers
    console: RunConsole
    clock: Stopwatch

    @staticmethod
    def of(cfg: Config, folder: RunFolder, console: RunConsole) -> "Record":
        clock = Stopwatch(on_phase=console.phase)
        return Record(folder, Trackers.open(cfg.tracking, folder), console, clock)


@dataclass(slots=True)
class Progress:
    """How far the run is; a checkpoint holds it."""

    step: int = 0
    """Steps done; also the version of the weights."""
    time_split: dict[str, float] = field(default_factory=dict)
    """Seconds by phase over the steps done."""
    scores: dict[int, float] = field(default_factory=dict)
    """Step -> held-out mean of its evaluation, for `checkpoint.keep_best`."""
    wall_s: float = 0.0
    """Seconds of earlier sittings of a resumed run."""
