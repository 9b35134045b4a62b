"""Ray for this process: one of its own on this machine, or the cluster that the config names."""

import logging
import os
from typing import TYPE_CHECKING, Any

import ray

from conjoint.envs.marks import DRIVER_MARK
from conjoint.envs.types import StopRun
from conjoint.rollouts.engine.belongings import Belongings, marked_children

if TYPE_CHECKING:
    from conjoint.rl.cluster.config import ClusterConfig

LOG = logging.getLogger("conjoint")
_ATTEMPTS = 3
"""A raylet gives its own helper processes 15 s to import, and ends where they take longer. They
are in the page cache after that, so that another attempt is quicker."""


def start_ray(cluster: "ClusterConfig") -> None:
    """Blocks until Ray is up. It takes the signals for itself: see `Interrupt.install`. A Ray of
    its own does not outlive this process, even if this process is killed.

    Raises StopRun where a Ray of its own does not come up.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own 15 is for background work: anything else on the machine would starve the engines.
    os.environ.setdefault("RAY_worker_niceness", "0")
    keys: dict[str, Any] = {"address": cluster.address}
    if not cluster.address:
        keys |= {"num_cpus": cluster.num_cpus, "include_dashboard": False}
    for attempt in range(1, _ATTEMPTS + 1):
        started = Belongings(f"{DRIVER_MARK}-ray{attempt}")
        try:
            with marked_children(started.mark):
                ray.init(**keys, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray has no class of its own for it
            if cluster.address:
                raise
            if attempt == _ATTEMPTS:
                raise StopRun(
                    f"Ray did not start on this machine in {_ATTEMPTS} attempts ({error}); its own "
                    "deadlines pass where other work holds the cores: try again when there is less "
                    "of it"
                ) from error
            LOG.warning("Ray did not start: %s. Trying again.", error)
            started.reap()
