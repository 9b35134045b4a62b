"""What a user types after `conjoint grade`: which reward, which rows, where the verdicts go."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conjoint.envs.types import ConjointError
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.registry import (
    REWARDS,
    RewardConfig,
    always_judged,
    check_names,
    check_weights,
    score_name,
)
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rl.config.compose import compose, typed
from conjoint.rl.config.overrides import suggest

_PLAIN = ("input", "output", "row")
"""Keys whose value is text as it stands: a path is no Hydra grammar, nor is a reward's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeConfig:
    """`conjoint grade`. The reward's own settings are reward.KEY, sandbox.KEY and judge.KEY, as in
    a run."""

    rewards: list[str] = field(default_factory=list)
    """The rewards, given as reward=NAME or reward=[NAME,NAME]; reward.weights weighs several."""
    input: str = ""
    """A file of rows to grade (docs/rewards.md)."""
    kinds: list[str] = field(default_factory=list)
    """Kinds of the rows that are graded, the others are skipped; []: all."""
    output: str = ""
    """A file for the verdicts, one JSON object a row. It grows as rows are graded."""
    overwrite: bool = False
    """Whether an `output` that exists is replaced."""
    row: str = ""
    """Id of the row that --explain prints; "": the first."""
    pass_threshold: float = 1.0
    """The lowest score that is a pass."""
    seed: int = 0
    """Seed of a judge's draws."""
    concurrency: int = 64
    """Groups in work at a time."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    @property
    def name(self) -> str:
        """The one reward. Raises ConjointError if there are several."""
        if len(self.rewards) != 1:
            raise ConjointError(
                f"reward=[{','.join(self.rewards)}] names {len(self.rewards)} rewards; expected "
                "one: a reward is examined by itself"
            )
        return self.rewards[0]

    @property
    def title(self) -> str:
        """The names of the rewards, for a reader."""
        return " + ".join(self.rewards)

    @property
    def pairwise(self) -> bool:
        """Whether a reward compares the answers of a group."""
        return "rubric" in self.rewards and self.judge.mode == "pairs"

    @property
    def own(self) -> list[str]:
        """The rewards that are the user's own, not conjoint's."""
        return [name for name in self.rewards if name not in REWARDS]

    def validate(self) -> None:
        """Raises ConjointError for a reward or a number that cannot be."""
        if not any(self.rewards):
            raise ConjointError(
                f"reward is not given; name one of {', '.join(REWARDS)}, or module:function or "
                "path/to/file.py:function for one of your own"
            )
        for name in self.own:
            if ":" not in name:
                raise ConjointError(
                    f"reward={name} is not known; known are {', '.join(REWARDS)}, and "
                    "module:function or path/to/file.py:function for one of your own"
                )
        check_names(self.rewards, "reward")
        check_weights(self.reward.weights, self.rewards, "reward")
        names = [score_name(name) for name in self.rewards]
        for name in self.reward.weights:
            if name not in names:
                raise ConjointError(
                    f"reward.weights.{name} names no reward of reward=[{','.join(self.rewards)}]; "
                    f"{suggest(name, names)}"
                )
        if not 0 < self.pass_threshold <= 1:
            raise ConjointError(
                f"pass_threshold={self.pass_threshold} must be above 0 and at most 1"
            )
        if self.concurrency < 1:
            raise ConjointError(f"concurrency={self.concurrency} must be at least 1")
        if "rubric" in self.rewards and not self.reward.rubrics:
            raise ConjointError("reward=rubric needs a rubric; reward.rubrics is empty")
        self.judge.validate_outside_run()

    def check_judge(self) -> None:
        """Raises ConjointError if a reward asks a judge and there is none."""
        for name in self.rewards:
            if always_judged(name) and not self.judge.endpoint:
                raise ConjointError(
                    f"reward={name} asks a judge; give judge.endpoint=URL and "
                    "judge.endpoint_model=NAME of an OpenAI-compatible server"
                )

    @property
    def replaces_output(self) -> bool:
        """Whether an output that exists is replaced: it may be, or nothing is in it."""
        path = Path(self.output)
        return self.overwrite or (path.is_file() and not path.stat().st_size)

    def check_output(self) -> None:
        """Raises ConjointError unless `output` can be written without losing anything."""
        if not self.output:
            raise ConjointError("output is not given; name a file for the verdicts: output=FILE")
        path = Path(self.output)
        if path.is_dir():
            raise ConjointError(f"output={path} is a folder; name a file")
        if self.input and path.exists() and path.samefile(Path(self.input)):
            raise ConjointError(f"output={path} is the input; name another file")
        if path.exists() and not self.replaces_output:
            raise ConjointError(
                f"output={path} exists already and is not overwritten; name another file, or give "
                "overwrite=true"
            )
        if not path.absolute().parent.is_dir():
            raise ConjointError(
                f"output={path}: there is no folder {path.absolute().parent}; make it first"
            )


def load_grade(overrides: Sequence[str]) -> GradeConfig:
    """The checked config. Raises ConjointError."""
    plain: dict[str, str | list[str]] = {}
    composed: list[str] = []
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        if key == "reward" and equals:
            plain["rewards"] = _listed(value)
        elif key in _PLAIN and equals:
            plain[key] = value
        elif key in ("name", "rewards"):
            raise ConjointError(f"unknown config key {key}; did you mean reward?")
        elif key.startswith("reward.kinds"):
            raise ConjointError(f"{key} has no effect here; use reward=NAME")
        else:
            composed.append(override)
    found = compose(composed, base=asdict(GradeConfig()), root=GradeConfig)
    cfg = typed(GradeConfig, {**found, **plain})
    cfg.validate()
    return cfg


def _listed(value: str) -> list[str]:
    """The names of reward=NAME or reward=[NAME,NAME]."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    return [name.strip().strip("'\"") for name in value[1:-1].split(",")]
