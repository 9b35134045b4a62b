"""Muon and QK-Clip as the learner runs them: built, proved at start, measured. Heavy: torch."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from conjoint.envs.types import StopRun
from conjoint.rl.learner.optim.muon import UPDATE_RMS, Muon, muon_groups
from conjoint.rl.learner.optim.qk_clip import QKClip
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.optim.zero_layout import attach

_TOLERANCE = (0.7, 1.3)
"""Bounds of update RMS / 0.2 for a full-rank gradient: Newton-Schulz is not exact."""


class MuonClip:
    """`optim.name` muon or muonclip of one rank. Every rank makes every call, in one order."""

    def __init__(self, model: nn.Module, config: OptimConfig, attention: str) -> None:
        """Before DeepSpeed has the model. Raises ConjointError for a model that does not fit."""
        groups = muon_groups(model, config.weight_decay)
        betas = (config.beta1, config.beta2)
        self.optimizer = Muon(groups, config.lr, config.momentum, betas, config.eps)
        self._clip: QKClip | None = None
        if config.name == "muonclip":
            self._clip = QKClip(model, attention, config.qk_clip_tau)
            if self._clip.normalised:
                logging.getLogger(__name__).warning(
                    "QK-Clip leaves %d of this model's layers alone: they normalise queries and "
                    "keys, which bounds their logits",
                    len(self._clip.normalised),
                )
        self._peaks: list[Tensor] = []
        self._metrics: dict[str, float] = {}
        self._updates = 0

    def start(self, wrapper: Any, device: torch.device, rank: int = 0, world: int = 1) -> None:
        """After DeepSpeed has wrapped the optimizer: find the matrices, prove the update.

        Every Muon tensor gets a direction of noise through the very exchange of a step; weights
        and momentum are not touched. Raises StopRun unless each matrix is orthogonalised once and
        the update has the length that it should.
        """
        optimizer = self.optimizer
        self._device, self._world = device, world
        # With ZeRO 0 every rank orthogonalises every matrix.
        self._expected_calls = optimizer.matrices * (world if wrapper is optimizer else 1)
        attach(optimizer, wrapper)
        noise = torch.Generator().manual_seed(rank)
        squares, elements = 0.0, 0
        for layout in optimizer.muon_layouts():
            direction = torch.randn(layout.held.shape, generator=noise).to(layout.held)
            for piece, update in optimizer.updates(direction, layout):
                squares += float(update.square().sum(dtype=torch.float64))
                elements += piece.length
        rms = self._update_rms(squares, elements)
        low, high = (UPDATE_RMS * bound for bound in _TOLERANCE)
        if not low <= rms <= high:
            raise StopRun(
                f"Muon's update of a full-rank gradient has a root mean square of {rms:.3g} times "
                f"the learning rate, expected {low:.2g} to {high:.2g}: it is not orthogonalised"
            )

    def before_step(self) -> None:
        """With the gradients of an update in place, before it: what to clip after it."""
        if self._clip is None:
            return
        self._peaks = self._clip.peaks(self._device, self._world)
        self._clip.reset()
        self.optimizer.row_scales = self._clip.row_scales(self._peaks)

    def after_step(self, applied: bool) -> None:
        """Note the update's metrics; `applied` is false if its gradients were not finite."""
        optimizer = self.optimizer
        optimizer.row_scales = {}
        if not applied:
            return
        self._updates += 1
        self._add("muon/update_rms", self._update_rms(optimizer.squares, optimizer.elements))
        if self._clip is not None:
            largest = max(float(peak.max()) for peak in self._peaks)
            known = self._metrics.get("qk/max_logit", largest)
            self._metrics["qk/max_logit"] = max(known, largest)
            self._add("qk/clipped_heads", self._clip.clipped(self._peaks))
            self._metrics["qk/normalised_layers"] = len(self._clip.normalised)

    def metrics(self) -> dict[str, float]:
        """Figures of the updates since the last call, equal on all ranks: the mean RMS of Muon's
        update over the learning rate, the largest logit, the number of heads clipped."""
        found, self._metrics = self._metrics, {}
        if self._updates:
            found["muon/update_rms"] /= self._updates
        self._updates = 0
        return found

    def _add(self, key: str, value: float) -> None:
        self._metrics[key] = self._metrics.get(key, 0.0) + value

    def _update_rms(self, squares: float, elements: int) -> float:
        """Over all ranks, of O since the last call. Collective.

        Raises StopRun unless each hidden matrix was orthogonalised just once: else something
        between the gradient and the optimizer took the matrices away.
        """
        optimizer = self.optimizer
        sums = torch.tensor([squares, elements, optimizer.calls], dtype=torch.float64)
        if self._world > 1:
            sums = sums.to(self._device)
            torch.distributed.all_reduce(sums)
        optimizer.squares, optimizer.elements, optimizer.calls = 0.0, 0, 0
        if int(sums[2]) != self._expected_calls:
            raise StopRun(
                f"Muon orthogonalised {int(sums[2])} matrices in one update, expected "
                f"{self._expected_calls}: its update is not what optim.name says"
            )
        return float(sums[0] / sums[1]) ** 0.5
