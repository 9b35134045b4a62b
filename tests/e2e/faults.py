"""Faults that a test plants in vLLM's worker by naming one of these as its extension."""

from conjoint.rollouts.weights.shm_receiver import ShmTransferEngine, WorkerExtension


class NoRepack(WorkerExtension):
    """Loads weights but leaves the packed copy of a tied head as it was."""


def _keep_old_head(self: ShmTransferEngine) -> None:
    return None


ShmTransferEngine._repack_tied_head = _keep_old_head
