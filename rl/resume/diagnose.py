"""Where a loss or gradient stopped being finite: the first token, or the first parameter.

Heavy: torch. Hand `Diagnosis.inspect` to `LearnerRank.inspect` before a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from conjoint.rl.learner.batch import MicroBatch, Update


@dataclass(frozen=True, slots=True)
class Finding:
    """What was not finite first. Counts are from 0."""

    what: str
    """Such as "advantage", "log-prob" or "gradient of model.norm.weight"."""
    update: int
    microbatch: int
    piece: int | None = None
    """Index of the piece in its micro-batch: a whole sequence, or one answer where a group's prompt
    runs once. None where no single piece is to blame."""
    kind: str | None = None
    """Task kind of the piece, "ptx" for a PTX row."""
    position: int | None = None
    """Place of the token in its sequence, prompt included."""
    token: int | None = None

    def words(self) -> str:
        place = f"update {self.update}, micro-batch {self.microbatch}"
        if self.piece is None:
            return f"{self.what} ({place})"
        return (
            f"{self.what} ({place}, piece {self.piece} of kind {self.kind}, "
            f"position {self.position}, token id {self.token})"
        )


class Diagnosis:
    """Looks at every micro-batch of a step until something is not finite."""

    def __init__(self, module: torch.nn.Module, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._update: Update | None = None
        self._number, self._micro = -1, -1
        self.first: Finding | None = None
        self.losses: list[float] = []
        """The loss of each update, summed over its micro-batches."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(self._gradient, name))

    def inspect(
        self,
        update: Update,
        micro: MicroBatch,
        logprobs: Tensor,
        ptx_logprobs: Tensor,
        old_logprobs: Tensor,
        loss: Tensor,
    ) -> None:
        if update is not self._update:
            self._update, self._number, self._micro = update, self._number + 1, -1
            self.losses.append(0.0)
        self._micro += 1
        self.losses[-1] += float(loss.detach())
        if self.first is None:
            self.first = self._look(micro, logprobs, ptx_logprobs, old_logprobs, loss)

    def _look(
        self,
        micro: MicroBatch,
        logprobs: Tensor,
        ptx_logprobs: Tensor,
        old_logprobs: Tensor,
        loss: Tensor,
    ) -> Finding | None:
        """Inputs before what is computed from them, so that the cause is named and not its echo."""
        policy = {
            "advantage": torch.from_numpy(micro.advantages),
            "sampling temperature": torch.from_numpy(micro.temperatures),
            "engine log-prob": torch.from_numpy(micro.behavior_logprobs),
            "old log-prob": old_logprobs,
            "log-prob": logprobs,
        }
        for what, values in policy.items():
            if (finding := self._token(what, micro, values, micro.policy_targets)) is not None:
                return finding
        if (finding := self._token("log-prob", micro, ptx_logprobs, micro.ptx_targets)) is not None:
            return finding
        # A ratio that overflows shows in the gradient of its own token only.
        (share,) = torch.autograd.grad(loss, logprobs, retain_graph=True, materialize_grads=True)
        finding = self._token("share of the loss", micro, share, micro.policy_targets)
        if finding is None and not torch.isfinite(loss):
            return Finding("loss", self._number, self._micro)
        return finding

    def _token(
        self, what: str, micro: MicroBatch, values: Tensor, targets: np.ndarray
    ) -> Finding | None:
        bad = (~torch.isfinite(values.detach())).nonzero()
        if not len(bad):
            return None
        index = int(bad[0])
        place = int(targets[index])
        piece = int(np.searchsorted(np.cumsum(micro.lengths), place, side="right"))
        kind = "ptx" if targets is micro.ptx_targets else self._kinds[int(micro.kinds[index])]
        return Finding(
            what,
            self._number,
            self._micro,
            piece,
            kind,
            int(micro.positions[place]),
            int(micro.tokens[place]),
        )

    def _gradient(self, name: str, gradient: Tensor) -> None:
        """Called by the backward pass for each parameter, those nearest to the loss first."""
        if self.first is None and not torch.isfinite(gradient).all():
            self.first = Finding(f"gradient of {name}", self._number, self._micro)
