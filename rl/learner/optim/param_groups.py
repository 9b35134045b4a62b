"""Which parameters the optimizer treats alike."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Parameter


def adamw_groups(parameters: Iterable["Parameter"], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (norms, biases) do not. Frozen and empty sets are left out.

    Call it before DeepSpeed partitions the parameters: ZeRO-3 empties their shapes.
    """
    decay: list[Parameter] = []
    keep: list[Parameter] = []
    for parameter in parameters:
        if parameter.requires_grad:
            (decay if parameter.ndim >= 2 else keep).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
