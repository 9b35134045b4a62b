"""A fault that a test switches on in vLLM's worker, which names `Switched` as its extension."""

from conjoint.rollouts.weights.shm_receiver import ShmTransferEngine, WorkerExtension

_repack = ShmTransferEngine._repack_tied_head


class Switched(WorkerExtension):
    """Where it is told to, it loads weights and leaves the packed copy of a tied head as it was."""

    def keep_old_head(self, keep: bool) -> None:
        ShmTransferEngine._repack_tied_head = _do_nothing if keep else _repack


def _do_nothing(self: ShmTransferEngine) -> None:
    return None
