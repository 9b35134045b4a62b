"""What a run's config says about one kind of task (`tasks.KIND`)."""

from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.agent import AgentConfig
from conjoint.envs.types import ConjointError


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """One task kind of the mixture. The key in `tasks` is the kind."""

    weight: float = 1.0
    """Share of the groups of a step, relative to the other kinds; 0 leaves the kind out."""
    path: str | None = None
    """A file of rows (.jsonl, .json, .csv or .parquet); null draws from the procedural source of
    this kind, "" is left to the user by an experiment."""
    prompt_suffix: str = ""
    """Added to each prompt of the file, such as how to write the final answer."""
    too_long: str = "refuse"
    """What becomes of rows whose prompts leave no room for an answer in the context: refuse ends
    the run before it starts, drop leaves them out and counts them."""
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

    def validate(self, key: str) -> None:
        """Raises ConjointError naming a key under `key`, which is tasks.KIND."""
        if self.weight < 0 or self.heldout < 0:
            raise ConjointError(f"{key}.weight and {key}.heldout must be 0 or more")
        if self.datasets and self.path is not None:
            raise ConjointError(f"give {key}.path or {key}.datasets, not both")
        if self.too_long not in ("refuse", "drop"):
            raise ConjointError(f"{key}.too_long={self.too_long} must be refuse or drop")
        self.agent.validate(f"{key}.agent")
