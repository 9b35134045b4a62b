"""Ray for this process: one of its own on this machine, or the cluster that the config names."""

import logging
import os
from typing import TYPE_CHECKING

import ray

from conjoint.envs.types import StopRun
from conjoint.rollouts.engine.belongings import marked_children

if TYPE_CHECKING:
    from conjoint.rl.cluster.config import ClusterConfig


def start_ray(cluster: "ClusterConfig") -> None:
    """Blocks until Ray is up. It takes the signals for itself: see `Interrupt.install`. A Ray of
    its own does not outlive this process, even if this process is killed.

    Raises StopRun where a Ray of its own does not come up.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own 15 is for background work: anything else on the machine would starve the engines.
    os.environ.setdefault("RAY_worker_niceness", "0")
    local = {"num_cpus": cluster.num_cpus, "include_dashboard": False}
    try:
        with marked_children():
            ray.init(
                address=cluster.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if cluster.address else local),
            )
    except Exception as error:  # Ray has no class of its own for it
        if cluster.address:
            raise
        raise StopRun(
            f"Ray did not start on this machine ({error}); its own deadline passes where other "
            "work holds the cores: try again when there is less of it"
        ) from error
