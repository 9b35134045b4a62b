"""Memory of one learner rank by part, by arithmetic from the model's shape and LearnerConfig. Pure.

Not counted: the framework itself (CUDA context, about 0.5 GB), DeepSpeed's communication buckets,
what an allocator loses to fragments, and the rollout engine.
"""

from dataclasses import dataclass, fields

from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.models.shape import ModelShape

_BYTES = {"fp32": 4, "bf16": 2}
_MASTER, _MOMENT = 4, 4
"""Bytes of one parameter in fp32, and of one moment; AdamW keeps two, Muon one."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of each part on one rank at the fullest moment of an update."""

    weights: int
    gradients: int
    optimizer: int
    """Its moments, and ZeRO's fp32 copy of what is trained."""
    activations: int
    """Activations of one full micro-batch. It counts policy and PTX tokens alike: PTX rows are
    packed into the same micro-batches and add none of their own."""
    logits: int
    """What the loss head holds at once if every token is trained."""
    reference: int
    """A whole copy of the weights, if there is one."""

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))


def estimate(
    shape: ModelShape, learner: LearnerConfig, optim: OptimConfig, *, reference: bool = False
) -> MemoryEstimate:
    """ZeRO divides the optimizer's part by the ranks from stage 1 on, gradients from stage 2 on,
    and weights at stage 3, where the largest layer is whole while it is used."""
    stage, ranks, size = learner.zero_stage, learner.ranks, _BYTES[learner.dtype]
    adapter = shape.adapter(learner.lora.rank)
    trained = adapter or shape.parameters
    p = shape.parameters + adapter
    optimizer = trained * (2 * _MOMENT + (_MASTER if stage else 0))
    if optim.name != "adamw":  # never with an adapter
        optimizer -= _MOMENT * shape.layers * shape.layer_matrices
    whole = max(shape.vocab * shape.hidden, shape.layer_matrices) if stage == 3 else 0
    copy = size * (p // ranks + whole if stage == 3 and ranks > 1 else p)
    return MemoryEstimate(
        weights=copy,
        gradients=size * trained // (ranks if stage >= 2 else 1),
        optimizer=optimizer // (ranks if stage else 1),
        activations=_activations(shape, learner),
        logits=_logits(shape, learner),
        reference=size * shape.parameters if reference else 0,
    )


def _activations(shape: ModelShape, learner: LearnerConfig) -> int:
    """What autograd keeps of a micro-batch, as transformers writes these layers.

    A layer keeps, for each token: each norm's input, normalised input and output (6 hidden), q, the
    attention's output twice (3 query widths), k and v, and gate, its activation, up and their
    product (4 intermediate). Checkpointing keeps a layer's input, and one whole layer at a time.
    """
    tokens, size = learner.tokens_per_microbatch, _BYTES[learner.dtype]
    layer = 6 * shape.hidden + 3 * shape.query_width + 2 * shape.kv_width
    layer = tokens * (layer + 4 * shape.intermediate) * size
    if shape.qk_norm:
        layer += 2 * tokens * (shape.query_width + shape.kv_width) * size
    if learner.attention == "eager":  # scores after softmax, in fp32 and in the model's type
        layer += shape.heads * tokens**2 * (4 + size if size != 4 else 4)
    inputs = tokens * shape.hidden * size
    layers = layer * shape.layers
    if learner.gradient_checkpointing:
        layers = shape.layers * inputs + layer
    return layers + 3 * inputs  # the last norm is a layer's without its matrices


def _logits(shape: ModelShape, learner: LearnerConfig) -> int:
    """The kept table or none, two tables of a chunk, and the fp32 gradient of the output matrix."""
    table = 4 * shape.vocab * learner.tokens_per_microbatch
    kept = table if table <= learner.logits_bytes else 0
    chunk = min(table, max(learner.logits_bytes // 4, 4 * shape.vocab))
    return kept + 2 * chunk + 4 * shape.vocab * shape.hidden


def memory_words(
    shape: ModelShape | None,
    learner: LearnerConfig,
    optim: OptimConfig,
    *,
    reference: bool = False,
) -> str:
    """One sentence for the plan."""
    if shape is None:
        return "Memory is not estimated for a model of this type."
    found = estimate(shape, learner, optim, reference=reference)
    parts = {part.name: getattr(found, part.name) for part in fields(found)}
    named = ", ".join(f"{name} {_gigabytes(n)}" for name, n in parts.items() if n)
    where = " (optimizer in CPU memory)" if learner.offload else ""
    total = found.total - (found.optimizer if learner.offload else 0)
    return f"Memory of a learner rank, estimated: {named}; {_gigabytes(total)} in all{where}."


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
