"""The shape of a decoder from its config.json: parameters and FLOPs by arithmetic. Pure.

Knows Llama, Mistral, Qwen2 and Qwen3; of another type nothing is worked out rather than guessed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STRETCHED = ("linear", "dynamic", "yarn")
"""Rules of rotary positions by which a context grows beyond `max_position_embeddings`."""
_KNOWN = ("llama", "mistral", "qwen2", "qwen3")


def positions(folder: Path) -> int | None:
    """Tokens of context that the model in `folder` has; None if its config.json does not say, or
    stretches them by a rule."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    text = config.get("text_config") or {}
    for part in (config, text):
        rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type")) in _STRETCHED:
            return None
    found = config.get("max_position_embeddings") or text.get("max_position_embeddings")
    return found if isinstance(found, int) else None


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What a forward pass over packed pieces costs, in any unit. The default counts tokens."""

    token: float = 1.0
    """The layers' matrices, for one token."""
    pair: float = 0.0
    """Attention, for one query and one key that it sees."""
    trained: float = 0.0
    """The output matrix, for one token with a log-prob."""

    def of(self, length: int, prefix: int, trained: int) -> float:
        """A piece of `length` tokens that also attends to `prefix` tokens computed elsewhere."""
        pairs = length * prefix + length * (length + 1) / 2
        return self.token * length + self.pair * pairs + self.trained * trained


BY_TOKENS = TokenCost()


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense decoder with a gated MLP."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "ModelShape | None":
        """From the content of config.json; None for a type that this file does not know."""
        kind = config.get("model_type")
        if kind not in _KNOWN:
            return None
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        bias = bool(config.get("attention_bias", False))
        return ModelShape(
            vocab=config["vocab_size"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or kind == "qwen2",
            output_bias=bias and kind != "qwen2",
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=kind == "qwen3",
        )

    @staticmethod
    def from_folder(folder: Path) -> "ModelShape | None":
        return ModelShape.from_config(json.loads((folder / "config.json").read_text("utf-8")))

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys in one layer; its values have as many again."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Elements of one layer's weight matrices."""
        attention = 2 * self.query_width + 2 * self.kv_width
        return self.hidden * (attention + 3 * self.intermediate)

    def adapter(self, rank: int) -> int:
        """Elements of LoRA's A and B on every linear layer but the head."""
        inputs_and_outputs = 2 * (self.hidden + self.query_width) + 2 * (
            self.hidden + self.kv_width
        )
        inputs_and_outputs += 3 * (self.hidden + self.intermediate)
        return rank * self.layers * inputs_and_outputs

    @property
    def layer_vectors(self) -> int:
        """Norms and biases of one layer."""
        count = 2 * self.hidden
        count += self.qkv_bias * (self.query_width + 2 * self.kv_width)
        count += self.output_bias * self.hidden
        count += self.mlp_bias * (2 * self.intermediate + self.hidden)
        return count + self.qk_norm * 2 * self.head_dim

    @property
    def embeddings(self) -> int:
        """Input and output matrices; one if they are tied."""
        return (1 if self.tied else 2) * self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        layers = self.layers * (self.layer_matrices + self.layer_vectors)
        return self.embeddings + layers + self.hidden

    @staticmethod
    def cost_of(folder: Path) -> TokenCost:
        """The cost in a model folder; tokens alone count for a type that is not known."""
        shape = ModelShape.from_folder(folder)
        return BY_TOKENS if shape is None else shape.cost

    @property
    def cost(self) -> TokenCost:
        """Forward FLOPs: 2 a multiply-add; a pair has a score and a weighted value in each head."""
        return TokenCost(
            token=2.0 * self.layers * self.layer_matrices,
            pair=4.0 * self.layers * self.query_width,
            trained=2.0 * self.vocab * self.hidden,
        )
