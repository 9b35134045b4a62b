"""What a user types after `conjoint rubric SUBVERB`: rubrics, responses, a policy, a judge."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from conjoint.envs.types import ConjointError
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.sandbox.base import SandboxConfig
from conjoint.rl.cluster.config import ClusterConfig
from conjoint.rl.config.compose import compose, typed
from conjoint.rl.nano.model import NanoConfig
from conjoint.rl.run.checkpoint import model_folder
from conjoint.rl.run.folder import unused
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.scripts.eval.config import SampleConfig, load_sampled

_PLAIN = ("input", "output", "against", "model")
"""Keys whose value is text as it stands: a path is no Hydra grammar."""

JUDGE_OF = {
    "nano": ("judge.template=compact", "judge.max_tokens=4"),
    "smollm2-135m": ("judge.template=letter", "judge.max_tokens=12"),
}
"""What a policy needs of the judge's settings where none is given: nano learned the compact form,
and SmolLM2 writes no JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LintConfig:
    """`conjoint rubric lint RUBRIC...`"""

    rubrics: list[str] = field(default_factory=list)
    """Paths of YAML files or shipped names, as in reward.rubrics; words without an equals sign are
    rubrics too. None: the shipped ones."""
    output: str = ""
    """A folder that does not exist yet; "": rubric-reports/SUBVERB-TIME."""

    def validate(self) -> None:
        """Raises ConjointError for what cannot be done."""

    def folder(self, subverb: str) -> Path:
        """Where the page goes. Raises ConjointError if something is there already."""
        if not self.output:
            stamp = f"{subverb}-{datetime.now():%Y%m%d-%H%M%S}"
            return unused(Path("rubric-reports") / stamp)
        path = Path(self.output)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConjointError(
                f"output={path} holds something already and is not overwritten; name a new folder"
            )
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedConfig(LintConfig):
    """What asks a judge: the policy of `model`, or the model of `judge.endpoint`."""

    input: str = ""
    """A file of responses (docs/self-critique.md has the forms of its rows)."""
    limit: int | None = None
    """The first so many prompts; null: all."""
    model: str = ""
    """The policy, as in `conjoint eval`; it judges unless judge.endpoint does."""
    endpoint: str = ""
    """Address of an OpenAI-compatible server that has `model`; "" starts vLLM."""
    api_key_env: str = ""
    """Environment variable that holds the endpoint's key, if it wants one."""
    seed: int = 0
    concurrency: int = 64
    """Calls in flight."""
    max_model_len: int | None = None
    """Context of the engine in tokens; null: what the longest prompt needs, as far as the model
    goes. A pair that does not fit is masked."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def samples(self) -> bool:
        """Whether the policy answers prompts, beside judging."""
        return False

    @property
    def needs_policy(self) -> bool:
        return self.samples or not self.judge.endpoint

    @property
    def judge_name(self) -> str:
        """The judge in words."""
        if self.judge.endpoint:
            return f"{self.judge.endpoint_model} behind {self.judge.endpoint}"
        return self.model + (f" behind {self.endpoint}" if self.endpoint else "")

    def policy(self) -> SampleConfig:
        """The policy as `conjoint.scripts.eval.open_policy.opened` takes it."""
        return SampleConfig(
            model=self.model,
            endpoint=self.endpoint,
            api_key_env=self.api_key_env,
            max_model_len=self.max_model_len,
            seed=self.seed,
            concurrency=self.concurrency,
            rollout=self.rollout,
            cluster=self.cluster,
        )

    def validate(self) -> None:
        self.judge.validate_outside_run()
        if self.judge.mode != "pairs":
            raise ConjointError(
                "judge.mode has no effect here: pairs are compared, and preview asks about each "
                "criterion beside them"
            )
        if self.concurrency < 1:
            raise ConjointError(f"concurrency={self.concurrency} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ConjointError(f"limit={self.limit} must be at least 1")
        if self.needs_policy and not self.model:
            raise ConjointError(
                "there is nobody to ask: give model=nano, model=smollm2-135m, model=PATH, or "
                "judge.endpoint=URL and judge.endpoint_model=NAME"
            )
        if self.model and not self.needs_policy:
            raise ConjointError(
                f"model={self.model} has nothing to do: judge.endpoint judges, and the input holds "
                "the responses"
            )
        if self.needs_policy:
            self.policy().validate()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig(JudgedConfig):
    """`conjoint rubric preview RUBRIC...`"""

    k: int = 4
    """Fresh answers to a prompt, where the input holds none."""
    temperature: float = 0.8
    """Sampling temperature of fresh answers."""
    max_tokens: int = 128
    """Most tokens of a fresh answer."""
    fresh: bool = False
    """Answer the prompts of the input anew; without an input, the held-out open tasks of nano."""
    criteria: bool = True
    """Ask about each criterion of each answer by itself, beside the pairs."""

    @property
    def samples(self) -> bool:
        return self.fresh or not self.input

    def validate(self) -> None:
        JudgedConfig.validate(self)
        if self.k < 2:
            raise ConjointError(f"k={self.k} must be at least 2: answers are compared in pairs")
        if self.max_tokens < 1 or not self.temperature > 0:
            raise ConjointError("max_tokens must be at least 1 and temperature above 0")
        _some_rubric(self, "preview")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffConfig(PreviewConfig):
    """`conjoint rubric diff OLD NEW`"""

    def validate(self) -> None:
        PreviewConfig.validate(self)
        if len(self.rubrics) != 2:
            raise ConjointError(
                f"diff compares two versions of a rubric, the old and the new one; it got "
                f"{len(self.rubrics)}: conjoint rubric diff OLD.yaml NEW.yaml"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreeConfig(JudgedConfig):
    """`conjoint rubric agree RUBRIC...`; without a rubric the judge is asked which is correct."""

    label: str = "label"
    """Field of a row with its human label, a number; higher is better."""
    verifier: str = ""
    """A reward that labels the responses instead, such as math; rows hold its references."""
    against: str = ""
    """verdicts.jsonl of another judge on the same responses."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)

    def validate(self) -> None:
        JudgedConfig.validate(self)
        if not self.input:
            raise ConjointError("input is not given; name a file of responses: input=FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig(JudgedConfig):
    """`conjoint rubric probe RUBRIC...`; `input` is a YAML file of attacks, "": those shipped."""


C = TypeVar("C", bound=LintConfig)


def load_as(root: type[C], words: Sequence[str]) -> C:
    """The checked config of a subverb; a word without an equals sign is a rubric. Raises
    ConjointError."""
    rubrics = [word for word in words if "=" not in word]
    pairs = [word for word in words if "=" in word]
    plain = {k: v for k, _, v in (w.partition("=") for w in pairs) if k in _keys(root)}
    rest = [word for word in pairs if word.partition("=")[0] not in plain]
    if issubclass(root, JudgedConfig):
        spec = plain.get("model", "")
        found = load_sampled(root, [*JUDGE_OF.get("nano" if is_nano(spec) else spec, ()), *rest])
    else:
        found = typed(root, compose(rest, base=asdict(root()), root=root))
    cfg = replace(found, rubrics=[*found.rubrics, *rubrics], **plain)
    cfg.validate()
    return cfg


def is_nano(spec: str) -> bool:
    """Whether a model is nano, or a checkpoint of a run that began with it."""
    if spec in ("", "nano"):
        return bool(spec)
    folder = model_folder(Path(spec)) or Path(spec)
    try:
        shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = shape["hidden_size"], shape["vocab_size"]
    except (OSError, ValueError, KeyError):
        return False
    return size == (NanoConfig().hidden_size, NanoConfig().vocab_size)


def _keys(root: type[LintConfig]) -> list[str]:
    return [key for key in _PLAIN if key in root.__dataclass_fields__]


def _some_rubric(cfg: LintConfig, subverb: str) -> None:
    if not cfg.rubrics:
        raise ConjointError(
            f"name the rubrics, as in reward.rubrics: conjoint rubric {subverb} spanish.yaml"
        )
