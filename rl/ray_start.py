"""Ray for this process: one of its own on this machine, or the cluster that the config names."""

import logging
import os
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from rl.config import ClusterConfig


def start_ray(cluster: "ClusterConfig") -> None:
    """Blocks until Ray is up. It takes the signals for itself: see `Interrupt.install`."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {"num_cpus": cluster.num_cpus, "include_dashboard": False}
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({} if cluster.address else local),
    )
