"""Ray for this process: one of its own on this machine, or the cluster that the config names."""

import logging
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import ray

from conjoint.envs.marks import DRIVER_MARK
from conjoint.envs.types import StopRun
from conjoint.rl.cluster.private_ray import LOOPBACK, kept_private, private_folder
from conjoint.rollouts.engine.belongings import Belongings, marked_children

if TYPE_CHECKING:
    from conjoint.rl.cluster.config import ClusterConfig

LOG = logging.getLogger("conjoint")
_ATTEMPTS = 3
"""A raylet gives its own helper processes 15 s to import, and ends where they take longer. They
are in the page cache after that, so that another attempt is quicker."""


def start_ray(cluster: "ClusterConfig") -> None:
    """Blocks until Ray is up. It takes the signals for itself: see `Interrupt.install`. A Ray of
    its own does not outlive this process, even if this process is killed, and nobody else can
    reach it (`rl/cluster/private_ray.py`).

    Raises StopRun where a Ray of its own does not come up.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own 15 is for background work: anything else on the machine would starve the engines.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if cluster.joins:
        with marked_children():
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        _start_own(cluster.num_cpus)


def _start_own(num_cpus: int) -> None:
    folder = private_folder()
    for attempt in range(1, _ATTEMPTS + 1):
        started = Belongings(f"{DRIVER_MARK}-{uuid4().hex}")
        try:
            with ExitStack() as during:
                during.enter_context(marked_children(started.mark, folder))
                keys = during.enter_context(kept_private(folder))
                ray.init(
                    **keys, num_cpus=num_cpus, log_to_driver=False, logging_level=logging.ERROR
                )
            break
        except Exception as error:  # Ray has no class of its own for it
            if attempt == _ATTEMPTS:
                raise StopRun(
                    f"Ray did not start on this machine in {_ATTEMPTS} attempts ({error}); its own "
                    "deadlines pass where other work holds the cores: try again when there is less "
                    "of it"
                ) from error
            LOG.warning("Ray did not start: %s. Trying again.", error)
            started.reap()
    if (address := ray.util.get_node_ip_address()) != LOOPBACK:
        ray.shutdown()
        raise StopRun(
            f"this version of Ray ({ray.__version__}) listens on {address} and not on {LOOPBACK}, "
            "where other machines could reach the run; install the version that conjoint asks for"
        )
