"""The reference policy of the KL term: a second copy of the model beside the trained one.

Each learner rank holds a whole copy, at every ZeRO stage; without a KL nothing is held. Heavy:
torch and safetensors.
"""

import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conjoint.envs.types import ConjointError
from conjoint.rl.algo.losses import LossConfig

_FILE = "reference.safetensors"


class Reference:
    """A model that is never trained: the start policy, or an average that follows the policy."""

    def __init__(self, model: torch.nn.Module, decay: float | None, device: torch.device) -> None:
        """Copies `model`, which must not be partitioned yet. `decay` None keeps it frozen."""
        self.model = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        self._decay = decay
        # An average of bf16 weights must be kept in fp32: a hundredth of a small change is below
        # bf16's resolution. Of fp32 weights these are the model's own tensors.
        self._weights = {
            name: p.data if decay is None else p.data.float()
            for name, p in self.model.named_parameters()
        }

    @staticmethod
    def held_by(
        config: LossConfig, model: torch.nn.Module, device: torch.device
    ) -> "Reference | None":
        """What the loss asks for: nothing where its KL is off."""
        if config.kl_weight == 0:
            return None
        return Reference(model, config.ema_decay if config.reference == "ema" else None, device)

    @property
    def follows(self) -> bool:
        return self._decay is not None

    @torch.no_grad()
    def follow(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """After an applied update: reference <- decay * reference + (1 - decay) * policy.

        `weights` are all of the policy's, by the names of the model.
        """
        assert self._decay is not None, "a frozen reference follows nothing"
        for name, tensor in weights:
            self._weights[name].lerp_(tensor.float(), 1 - self._decay)
        self._write()

    def save(self, folder: Path) -> None:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self._weights.items()}
        save_file(tensors, folder / _FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Raises ConjointError where the checkpoint has no reference."""
        if not (folder / _FILE).is_file():
            raise ConjointError(
                f"{folder} holds no {_FILE}: it was saved with loss.kl_weight=0; resume with that"
            )
        for name, tensor in load_file(folder / _FILE).items():
            self._weights[name].copy_(tensor)
        self._write()

    def _write(self) -> None:
        """The average into the model that reads it, in the model's type."""
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(self._weights[name])
