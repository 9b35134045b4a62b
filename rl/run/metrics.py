"""Numbers of a step, and where they go.

`step_metrics` turns groups into one flat dict (`NAME/KIND`); `Trackers` hands that dict to the run
folder's metrics.jsonl and to wandb. A tracker that fails warns once and never ends a run.
"""

import logging
import netrc
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Protocol
from urllib.parse import urlparse

from conjoint.envs.text import escaped, to_json
from conjoint.envs.types import ConjointError, Group, Status, Trajectory
from conjoint.rewards.lengths import percentile
from conjoint.rl.run.folder import RunFolder
from conjoint.rl.stats.calibration import confidence_metrics

LOG = logging.getLogger("conjoint")


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """Where metrics go besides metrics.jsonl, which is always written."""

    wandb: bool = True
    """Offline unless the user is logged in or WANDB_MODE says otherwise."""
    project: str = "conjoint"
    """The wandb project."""

    def validate(self) -> None:
        if not self.project:
            raise ConjointError("tracking.project is empty; name the wandb project.")


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def summarise(self, outcome: Mapping[str, float]) -> None:
        """Take the figures of the whole run."""
        ...

    def finish(self) -> None: ...


class JsonlTracker:
    """Appends {step, time, ...metrics} to a file and flushes, so a killed run keeps its lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _end_torn_line(path)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_json({"step": step, "time": time.time(), **metrics}) + "\n")

    def summarise(self, outcome: Mapping[str, float]) -> None:
        """summary.json holds them already."""

    def finish(self) -> None:
        return None


class WandbTracker:
    """The same metrics in wandb; its files lie in the run folder; a resume continues its run."""

    def __init__(self, run: RunFolder, project: str) -> None:
        import wandb

        run.wandb.mkdir(exist_ok=True)
        self._teardown = wandb.teardown
        self._run: Any = wandb.init(
            project=project,
            name=escaped(run.path.name),
            id=_wandb_id(run.wandb / "run-id"),
            resume="allow",
            mode=wandb_mode(),  # pyright: ignore[reportArgumentType]  # wandb checks it
            dir=str(run.path),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(_shown(metrics), step=step)

    def summarise(self, outcome: Mapping[str, float]) -> None:
        self._run.summary.update(_shown(outcome))

    def finish(self) -> None:
        """Ends the run and wandb's own process."""
        self._run.finish()
        self._teardown()


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    return {escaped(name): value for name, value in metrics.items()}


class Trackers:
    """Hands every call to all trackers; a failing one warns once and the others go on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._warned: set[int] = set()

    @staticmethod
    def open(config: TrackingConfig, run: RunFolder) -> "Trackers":
        """metrics.jsonl, and wandb unless it is turned off or cannot start."""
        trackers: list[Tracker] = [JsonlTracker(run.metrics)]
        if config.wandb:
            try:
                trackers.append(WandbTracker(run, config.project))
            except Exception as error:
                LOG.warning("wandb did not start (%s); metrics go to %s only.", error, run.metrics)
        return Trackers(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._all(lambda tracker: tracker.log(step, metrics))

    def summarise(self, outcome: Mapping[str, float]) -> None:
        self._all(lambda tracker: tracker.summarise(outcome))

    def finish(self) -> None:
        self._all(lambda tracker: tracker.finish())

    def _all(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:
                self._warn(tracker, error)

    def _warn(self, tracker: Tracker, error: Exception) -> None:
        if id(tracker) not in self._warned:
            self._warned.add(id(tracker))
            name = type(tracker).__name__
            LOG.warning("%s failed (%s); the run goes on, its figures may lack.", name, error)


def wandb_mode() -> str:
    """WANDB_MODE if set, else online with a key in WANDB_API_KEY or netrc, else offline."""
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def step_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """The figures of one batch by kind: shares in [0, 1], lengths in sampled tokens.

    A figure without any answer behind it is left out. Over all kinds: `graded_share`,
    `masked_share` and `groups`.
    """
    metrics: dict[str, float] = {}
    for kind in sorted({g.task.kind for g in groups}):
        of_kind = [g for g in groups if g.task.kind == kind]
        figures = _kind_metrics(of_kind)
        metrics.update({f"{name}/{kind}": value for name, value in figures.items()})
    answers = [t for g in groups for t in g.trajectories]
    if answers:
        metrics["masked_share"] = _share(t.reward is None for t in answers)
        metrics["graded_share"] = 1.0 - metrics["masked_share"]
    metrics["groups"] = float(len(groups))
    return metrics


def plain_words(groups: Sequence[Group]) -> list[str]:
    """One sentence for each kind that teaches nothing this step: in each of its groups all rewards
    are equal, so every advantage is 0. Says what the answers got and how many were cut off."""
    lines = []
    for kind in sorted({g.task.kind for g in groups}):
        of_kind = [g for g in groups if g.task.kind == kind and len(g.graded) > 1]
        if of_kind and all(is_flat(g) for g in of_kind):
            lines.append(_flat_line(kind, of_kind))
    return lines


def _kind_metrics(groups: Sequence[Group]) -> dict[str, float]:
    answers = [t for g in groups for t in g.trajectories]
    done = [t for t in answers if t.status is not Status.FAILED]
    rewards = [t.reward for t in answers if t.reward is not None]
    scores = [s for t in done if (s := answer_score(t)) is not None]
    compared = [g for g in groups if len(g.graded) > 1]
    figures = {"groups": float(len(groups))}
    if answers:
        figures["masked"] = _share(t.reward is None for t in answers)
    if rewards:
        figures["reward"] = fmean(rewards)
    if scores:
        figures["score"] = fmean(scores)
    figures |= confidence_metrics(done)
    if done:
        figures["truncated"] = _share(t.status is Status.TRUNCATED for t in done)
        figures |= _length_metrics(done)
    if compared:
        figures["reward_std"] = fmean(pstdev(_rewards(g)) for g in compared)
        figures["zero_variance"] = _share(is_flat(g) for g in compared)
    return figures


def _length_metrics(answers: Sequence[Trajectory]) -> dict[str, float]:
    """Lengths in tokens and as shares of the answers' own budgets, which may differ where a
    schedule moves and answers are carried over; and what length cost them or paid."""
    lengths = [t.num_sampled for t in answers]
    figures = {
        "length": fmean(lengths),
        "length_p50": percentile(lengths, 50),
        "length_p90": percentile(lengths, 90),
    }
    if all(t.budget for t in answers):
        shares = [t.num_sampled / t.budget for t in answers]
        figures["budget"] = fmean(t.budget for t in answers)
        figures["length_over_budget"] = fmean(shares)
        figures |= {f"length_over_budget_p{q}": percentile(shares, q) for q in (10, 50, 90)}
    for key in ("above_limit", "length_reward"):
        if values := [t.metrics[key] for t in answers if key in t.metrics]:
            figures[key] = fmean(values)
    return figures


def answer_score(trajectory: Trajectory) -> float | None:
    """What the checks alone say, in [0, 1]: their mean, 0 if truncated, None if ungraded.

    Unlike the reward it knows no weights, no budget penalty and no confidence, so runs with and
    without them can be compared by it.
    """
    values = [s.value for s in trajectory.checks if s.value is not None]
    if not values or len(values) < len(trajectory.checks):
        return None
    return 0.0 if trajectory.status is Status.TRUNCATED else fmean(values)


def _flat_line(kind: str, groups: Sequence[Group]) -> str:
    answers = [t for g in groups for t in g.graded]
    sizes = {len(g.graded) for g in groups}
    rewards = {_rewards(g)[0] for g in groups}
    who = f"all {max(sizes)} answers" if len(sizes) == 1 else "all answers"
    what = f"got reward {min(rewards):g}" if len(rewards) == 1 else "got the same reward"
    cut = [t for t in answers if t.status is Status.TRUNCATED]
    share, caps = 100 * len(cut) / len(answers), {t.budget for t in cut if t.budget}
    at = f" at {max(caps)} tokens" if caps else ""
    return f"{who} of every {kind} group {what}; {share:.0f} % truncated{at}"


def _rewards(group: Group) -> list[float]:
    return [t.reward for t in group.trajectories if t.reward is not None]


def is_flat(group: Group) -> bool:
    """Whether all rewards of a group with any are equal."""
    rewards = _rewards(group)
    return max(rewards) - min(rewards) < 1e-9


def _share(flags: Any) -> float:
    return fmean(map(float, flags))


def _end_torn_line(path: Path) -> None:
    """A line torn by an interruption is closed, so that the next one does not join it."""
    if not path.is_file():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def _in_netrc() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb_id(path: Path) -> str:
    """The wandb run id of this folder, drawn once; random, as two machines may share a path."""
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()
