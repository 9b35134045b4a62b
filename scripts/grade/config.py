"""What a user types after `conjoint grade`: which reward, which rows, where the verdicts go."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conjoint.envs.types import ConjointError
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.registry import REWARDS, RewardConfig, always_judged
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rl.config.compose import compose, typed

_PLAIN = ("reward", "input", "output", "row")
"""Keys whose value is text as it stands: a path or a reward's name is no Hydra grammar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeConfig:
    """`conjoint grade`. The reward's own settings are reward.KEY, sandbox.KEY and judge.KEY, as in
    a run."""

    name: str = ""
    """The reward, given as reward=NAME."""
    input: str = ""
    """A .jsonl or .parquet file of rows to grade (docs/rewards.md)."""
    output: str = ""
    """A file for the verdicts, one JSON object a row."""
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
    def pairwise(self) -> bool:
        """Whether the reward compares the answers of a group."""
        return self.name == "rubric" and self.judge.mode == "pairs"

    @property
    def own(self) -> bool:
        """Whether the reward is the user's own, not one of conjoint's."""
        return self.name not in REWARDS

    def validate(self) -> None:
        """Raises ConjointError for a reward or a number that cannot be."""
        if not self.name:
            raise ConjointError(
                f"reward is not given; name one of {', '.join(REWARDS)}, or module:function or "
                "path/to/file.py:function for one of your own"
            )
        if self.own and ":" not in self.name:
            raise ConjointError(
                f"reward={self.name} is not known; known are {', '.join(REWARDS)}, and "
                "module:function or path/to/file.py:function for one of your own"
            )
        if not 0 < self.pass_threshold <= 1:
            raise ConjointError(
                f"pass_threshold={self.pass_threshold} must be above 0 and at most 1"
            )
        if self.concurrency < 1:
            raise ConjointError(f"concurrency={self.concurrency} must be at least 1")
        if self.name == "rubric" and not self.reward.rubrics:
            raise ConjointError("reward=rubric needs a rubric; reward.rubrics is empty")
        self.judge.validate_outside_run()

    def check_judge(self) -> None:
        """Raises ConjointError if the reward asks a judge and there is none."""
        if always_judged(self.name) and not self.judge.endpoint:
            raise ConjointError(
                f"reward={self.name} asks a judge; give judge.endpoint=URL and "
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
    plain: dict[str, str] = {}
    composed: list[str] = []
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        if key in _PLAIN and equals:
            plain["name" if key == "reward" else key] = value
        elif key == "name":
            raise ConjointError("unknown config key name; did you mean reward?")
        elif key.startswith("reward.kinds"):
            raise ConjointError(f"{key} has no effect here; use reward=NAME")
        else:
            composed.append(override)
    found = compose(composed, base=asdict(GradeConfig()), root=GradeConfig)
    cfg = typed(GradeConfig, {**found, **plain})
    cfg.validate()
    return cfg
