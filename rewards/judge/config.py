"""How the run asks its judge (`judge.*`)."""

from dataclasses import dataclass

from conjoint.envs.types import (
    ConjointError,
)
from conjoint.rewards.judge.prompt import TEMPLATES
from conjoint.rollouts.endpoint import EndpointConfig

MODES = ("pairs", "criteria", "points")


POLICIES = ("live", "frozen", "promoted")


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """How the judge is asked.

    `mode` is how the rubric reward asks: pairs of answers; each criterion of each answer; or one
    level for each answer (rewards/judge/pointwise.py).
    `pairs_per_answer` 0 compares every pair of a group (round robin); N compares each answer with N
    others. `max_answer_chars` bounds the part of each answer that is quoted. With `endpoint`, the
    address of an OpenAI-compatible server, not the policy but `endpoint_model` there is the judge;
    `api_key_env` names the environment variable of its key.
    `policy` is whose weights judge: `live`, those being trained; `frozen`, those of the start; or
    `promoted`, a snapshot, which an evaluation replaces with the live ones if these are right on at
    least `promotion_margin` more of the held-out verifiable pairs than the snapshot is.
    """

    template: str = "full"
    pairs_per_answer: int = 0
    max_tokens: int = 256
    temperature: float = 0.0
    max_answer_chars: int = 4000
    endpoint: str = ""
    endpoint_model: str = ""
    api_key_env: str = ""
    mode: str = "pairs"
    policy: str = "live"
    promotion_margin: float = 0.0

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ConjointError(
                f"judge.template must be one of {', '.join(TEMPLATES)}; got {self.template!r}"
            )
        if self.mode not in MODES:
            raise ConjointError(f"judge.mode must be one of {', '.join(MODES)}; got {self.mode!r}")
        if self.policy not in POLICIES:
            raise ConjointError(
                f"judge.policy must be one of {', '.join(POLICIES)}; got {self.policy!r}"
            )
        # Below 0 each snapshot could be a little worse than the one before it, without end.
        if not 0 <= self.promotion_margin < 1:
            raise ConjointError(
                "judge.promotion_margin is a share of pairs, from 0 (not lower) to below 1; got "
                f"{self.promotion_margin}"
            )
        least = {"pairs_per_answer": 0, "max_tokens": 1, "temperature": 0, "max_answer_chars": 20}
        for key, low in least.items():
            if not getattr(self, key) >= low:
                raise ConjointError(f"judge.{key} must be at least {low}; got {getattr(self, key)}")

    def validate(self, *, in_run: bool = True) -> None:
        """Raises ConjointError for keys that contradict each other, that only a training run has,
        or an endpoint that could not be called."""
        if self.policy != "live" and not in_run:
            raise ConjointError(
                f"judge.policy={self.policy} has no effect outside a training run; leave it out"
            )
        if self.mode != "pairs" and self.template == "compact":
            raise ConjointError(
                f"judge.mode={self.mode} asks about one answer, and judge.template=compact only "
                "about two; take full or letter"
            )
        if self.mode != "pairs" and self.pairs_per_answer:
            raise ConjointError(
                f"judge.pairs_per_answer has no effect with judge.mode={self.mode}; set it to 0"
            )
        if self.policy != "live" and self.endpoint:
            raise ConjointError(
                f"judge.policy={self.policy} has no effect with judge.endpoint={self.endpoint}, "
                "which judges instead of the policy; leave one of them out"
            )
        if self.policy != "promoted" and self.promotion_margin:
            raise ConjointError(
                f"judge.promotion_margin has no effect with judge.policy={self.policy}; "
                "set judge.policy=promoted or leave it out"
            )
        for key in ("endpoint_model", "api_key_env"):
            if getattr(self, key) and not self.endpoint:
                raise ConjointError(f"judge.{key} has no effect without judge.endpoint=URL")
        if self.endpoint and not self.endpoint_model:
            raise ConjointError(
                f"judge.endpoint={self.endpoint} needs the name of its model: "
                "judge.endpoint_model=NAME"
            )
        if self.endpoint:
            try:
                self.endpoint_config().validate()
            except ConjointError as error:
                raise ConjointError(f"judge.{error}") from error

    @property
    def has_own_engine(self) -> bool:
        """Whether weights judge that are not those being trained."""
        return self.policy != "live"

    def endpoint_config(self) -> EndpointConfig:
        return EndpointConfig(self.endpoint, self.endpoint_model, self.api_key_env)
