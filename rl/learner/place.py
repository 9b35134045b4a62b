"""Where a learner rank stands among the others, and how they meet."""

import os
from dataclasses import dataclass

import torch
from torch._C._distributed_c10d import HashStore
from torch.distributed.constants import default_pg_timeout

from conjoint.rollouts.engine.process_environment import ONE_MACHINE


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Number of this rank, number of ranks (`world`), and where they meet."""

    rank: int = 0
    world: int = 1
    meeting: str = ""
    """torch's `init_method`: tcp://ADDRESS:PORT of rank 0, or file://PATH on one machine. "" is for
    a single rank, which meets nobody."""

    def meet(self, backend: str) -> None:
        """Open torch's process group of all ranks, "gloo" or "nccl"; DeepSpeed takes it over."""
        if self.world == 1:
            os.environ.update(ONE_MACHINE)
        store = None if self.meeting else HashStore()
        torch.distributed.init_process_group(
            backend,
            init_method=self.meeting or None,
            store=store,
            rank=self.rank,
            world_size=self.world,
            timeout=default_pg_timeout,
        )


ALONE = RankPlace()
