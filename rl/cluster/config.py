"""Where Ray runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    address: str | None = None
    """null or "local" starts a Ray of its own on this machine, whatever RAY_ADDRESS says; "auto" or
    an address joins a cluster."""
    num_cpus: int = 2
    """CPUs that a local Ray advertises."""
    measured: bool = False
    """Whether this configuration has been run on such hardware; printed at start if not."""

    @property
    def joins(self) -> bool:
        """Whether a run joins a cluster that it has not started."""
        return self.address not in (None, "", "local")
