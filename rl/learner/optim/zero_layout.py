"""How DeepSpeed's ZeRO optimizers lay parameters out in the flat tensors that they hand down.

Read from DeepSpeed 0.19's own tables, which its checkpoints rely on too. Heavy: torch.
"""

from typing import Any

import torch
from torch import nn

from conjoint.envs.types import ConjointError
from conjoint.rl.learner.optim.muon import Layout, Muon, Piece


def attach(muon: Muon, wrapper: Any) -> None:
    """Tell `muon` where its parameters lie in what `wrapper` (DeepSpeed's optimizer) hands it.

    Raises ConjointError for a wrapper whose layout is not known.
    """
    if wrapper is muon:
        return
    kind = type(wrapper).__name__
    if kind == "DeepSpeedZeroOptimizer":
        muon.layouts = _flat_groups(wrapper)
    elif kind == "DeepSpeedZeroOptimizer_Stage3":
        muon.layouts = _sub_groups(wrapper)
    else:
        raise ConjointError(
            f"the DeepSpeed keys of this run choose {kind}, under which Muon would not see whole "
            "matrices; take learner.deepspeed back or use optim.name=adamw"
        )


def _flat_groups(wrapper: Any) -> dict[int, Layout]:
    """ZeRO 1 and 2: a group's parameters stand end to end and are cut into one range a rank."""
    layouts = {}
    for i, held in enumerate(wrapper.single_partition_of_fp32_groups):
        group = wrapper.real_dp_process_group[i]
        size = held.numel()
        first = torch.distributed.get_rank(group) * size
        pieces, split = [], set()
        for parameter, begin in zip(
            wrapper.round_robin_bit16_groups[i], wrapper.round_robin_bit16_offsets[i], strict=True
        ):
            end = begin + parameter.numel()
            low, high = max(begin, first), min(end, first + size)
            if begin // size != (end - 1) // size:
                split.add(len(pieces))
            length = max(high - low, 0)
            offset, start = (low - first, low - begin) if length else (0, 0)
            pieces.append(Piece(parameter, tuple(parameter.shape), offset, start, length))
        layouts[id(held)] = Layout(held, tuple(pieces), frozenset(split))
    return layouts


def _sub_groups(wrapper: Any) -> dict[int, Layout]:
    """ZeRO 3: each parameter is cut into one equal range a rank, the last one padded."""
    layouts = {}
    for i, held in enumerate(wrapper.fp32_partitioned_groups_flat):
        group = wrapper.sub_group_process_groups[i]
        me, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
        pieces, offset = [], 0
        for parameter in wrapper.fp16_groups[i]:
            size = parameter.partition_numel()
            start = min(me * size, parameter.ds_numel)
            length = min(size, parameter.ds_numel - start)
            pieces.append(Piece(parameter, _shape(parameter), offset, start, length))
            offset += size
        split = frozenset(range(len(pieces))) if world > 1 else frozenset()
        layouts[id(held)] = Layout(held, tuple(pieces), split)
    return layouts


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
