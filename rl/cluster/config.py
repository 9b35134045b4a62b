"""Where Ray runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    address: str | None = None
    """null starts Ray on this machine; "auto" or an address joins a cluster."""
    num_cpus: int = 2
    """CPUs that a local Ray advertises."""
    measured: bool = False
    """Whether this configuration has been run on such hardware; printed at start if not."""
