"""Settings of the judge (`judge.*`): the prompt, the mode, and the weights that judge."""

from dataclasses import dataclass

from conjoint.envs.types import ConjointError
from conjoint.rewards.judge.prompt import TEMPLATES
from conjoint.rollouts.endpoint import EndpointConfig

MODES = ("pairs", "criteria", "points")


POLICIES = ("live", "frozen", "promoted")


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """Settings of the judge, which is the policy itself or a model behind an endpoint."""

    template: str = "full"
    """Prompt and form of the reply; one of `TEMPLATES` in `rewards/judge/prompt.py`."""
    pairs_per_answer: int = 0
    """Comparisons of each answer with others of its group. 0 compares every pair (round robin)."""
    max_tokens: int = 256
    """Most tokens of a reply."""
    temperature: float = 0.0
    max_answer_chars: int = 4000
    """Most characters of an answer that are quoted in the prompt."""
    endpoint: str = ""
    """URL of an OpenAI-compatible server whose model judges instead of the policy; "" for none."""
    endpoint_model: str = ""
    """Name of the model that judges at `endpoint`."""
    api_key_env: str = ""
    """Environment variable with the key of `endpoint`."""
    mode: str = "pairs"
    """Question of the rubric reward. pairs: compare two answers. criteria: does an answer meet a
    criterion? points: one level for an answer as a whole (rewards/judge/pointwise.py)."""
    policy: str = "live"
    """Weights that judge. live: the weights being trained. frozen: the weights of the start.
    promoted: a snapshot, which an evaluation may replace by the live weights."""
    promotion_margin: float = 0.0
    """promoted: the live weights replace the snapshot if they judge this share more of the held-out
    verifiable pairs correctly; 0 asks them to be at least as good."""

    def validate(self) -> None:
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
        self._validate_combinations()

    def _validate_combinations(self) -> None:
        """Refuse keys that contradict each other, and an endpoint that could not be called."""
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

    def validate_outside_run(self) -> None:
        """Refuse the key that only a training run has."""
        if self.policy != "live":
            raise ConjointError(
                f"judge.policy={self.policy} has no effect outside a training run; leave it out"
            )

    @property
    def has_own_engine(self) -> bool:
        """Whether other weights than those being trained judge; they need an engine."""
        return self.policy != "live"

    def endpoint_config(self) -> EndpointConfig:
        return EndpointConfig(self.endpoint, self.endpoint_model, self.api_key_env)
