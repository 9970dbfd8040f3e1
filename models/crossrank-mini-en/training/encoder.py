"""A BERT cross-encoder in torch for training on a CPU: bfloat16 products, float32 weights, batches of one length.

Pairs of a batch have one length, so that nothing is padded and no mask is needed, and the last layer computes the [CLS]
row alone. Linear layers and attention run in bfloat16; the weights that are trained, their gradients and the norms'
statistics are float32. Weights are read and written under transformers' names.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = Mapping[str, Tensor]

_EPSILON = 1e-12
_PARTS = {
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}
_PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class States:
    """What a forward pass gives.

    Attributes:
        logits: float32 [pairs].
        row: The [CLS] row behind the last layer, [pairs, hidden].
        hidden: Per layer that was asked for, its output [pairs, tokens, hidden].
    """

    logits: Tensor
    row: Tensor
    hidden: dict[int, Tensor]


class Layer(nn.Module):
    """One layer of the encoder."""

    def __init__(self, hidden: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.Linear(hidden, 3 * hidden)  # query, key and value as one product
        self.output, self.attention_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden, _EPSILON)
        self.up, self.down = nn.Linear(hidden, intermediate), nn.Linear(intermediate, hidden)
        self.output_norm = nn.LayerNorm(hidden, _EPSILON)

    def forward(self, hidden: Tensor, *, first_row: bool) -> Tensor:
        """bfloat16 [pairs, tokens, hidden] -> the same, or [pairs, 1, hidden] for the first row alone."""
        size = hidden.shape[-1]
        weight, bias = self.projections.weight.bfloat16(), self.projections.bias.bfloat16()
        residual = hidden[:, :1] if first_row else hidden
        query = F.linear(residual, weight[:size], bias[:size])
        key, value = F.linear(hidden, weight[size:], bias[size:]).chunk(2, -1)
        mixed = _linear(_attend(query, key, value, self.heads), self.output)
        hidden = _norm(residual + mixed, self.attention_norm)
        return _norm(hidden + _linear(F.gelu(_linear(hidden, self.up)), self.down), self.output_norm)


class Encoder(nn.Module):
    """A cross-encoder with one label.

    Args:
        weights: A checkpoint's, under transformers' names.
        layers: Which of the checkpoint's layers to take.
        heads: Attention heads.
    """

    def __init__(self, weights: Weights, layers: Sequence[int], heads: int) -> None:
        super().__init__()
        # The embeddings stay as they are: the teacher's, which has seen far more text.
        for name in ("word", "position", "token_type"):
            self.register_buffer(name, weights[f"bert.embeddings.{name}_embeddings.weight"].clone())
        hidden = self.word.shape[1]
        intermediate = len(weights["bert.encoder.layer.0.intermediate.dense.bias"])
        self.norm = nn.LayerNorm(hidden, _EPSILON)
        self.layers = nn.ModuleList(Layer(hidden, heads, intermediate) for _ in layers)
        self.pooler, self.classifier = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        self.load_state_dict(self.state_dict() | _from_transformers(weights, layers))

    def forward(self, ids: Tensor, types: Tensor, keep: Collection[int] = ()) -> States:
        """Score pairs of one length.

        Args:
            ids: int64 [pairs, tokens].
            types: int64 [pairs, tokens], 0 for the query and 1 for the passage.
            keep: Layers whose outputs are wanted.
        """
        embedded = F.embedding(ids, self.word) + self.position[: ids.shape[1]] + F.embedding(types, self.token_type)
        hidden = _norm(embedded, self.norm).bfloat16()
        kept = {}
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, first_row=i == len(self.layers) - 1)
            if i in keep:
                kept[i] = hidden
        row = hidden[:, 0].float()
        return States(self.classifier(torch.tanh(self.pooler(row)))[:, 0], row, kept)

    def weights(self) -> dict[str, Tensor]:
        """The weights under transformers' names."""
        state = self.state_dict()
        named = {
            f"bert.embeddings.{name}_embeddings.weight": state[name] for name in ("word", "position", "token_type")
        }
        for kind in ("weight", "bias"):
            named[f"bert.embeddings.LayerNorm.{kind}"] = state[f"norm.{kind}"]
            named[f"bert.pooler.dense.{kind}"] = state[f"pooler.{kind}"]
            named[f"classifier.{kind}"] = state[f"classifier.{kind}"]
            for i in range(len(self.layers)):
                for name, part in zip(_PROJECTIONS, state[f"layers.{i}.projections.{kind}"].chunk(3), strict=True):
                    named[f"bert.encoder.layer.{i}.attention.self.{name}.{kind}"] = part
                for theirs, ours in _PARTS.items():
                    named[f"bert.encoder.layer.{i}.{theirs}.{kind}"] = state[f"layers.{i}.{ours}.{kind}"]
        return {name: tensor.contiguous() for name, tensor in named.items()}


def _from_transformers(weights: Weights, layers: Sequence[int]) -> dict[str, Tensor]:
    state = {}
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = weights[f"bert.embeddings.LayerNorm.{kind}"]
        state[f"pooler.{kind}"] = weights[f"bert.pooler.dense.{kind}"]
        state[f"classifier.{kind}"] = weights[f"classifier.{kind}"]
        for i, layer in enumerate(layers):
            prefix = f"bert.encoder.layer.{layer}"
            parts = [weights[f"{prefix}.attention.self.{name}.{kind}"] for name in _PROJECTIONS]
            state[f"layers.{i}.projections.{kind}"] = torch.cat(parts)
            for theirs, ours in _PARTS.items():
                state[f"layers.{i}.{ours}.{kind}"] = weights[f"{prefix}.{theirs}.{kind}"]
    return state


def _linear(hidden: Tensor, linear: nn.Linear) -> Tensor:
    return F.linear(hidden, linear.weight.bfloat16(), linear.bias.bfloat16())


def _norm(hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention, [pairs, rows, hidden].

    Written out: torch's fused one takes twice as long on a CPU, most of it in the backward pass.
    """
    pairs, _, hidden = query.shape
    query, key, value = (  # [pairs * heads, rows, head size]
        part.unflatten(-1, (heads, hidden // heads)).transpose(1, 2).flatten(0, 1) for part in (query, key, value)
    )
    scores = query @ key.transpose(1, 2) * (hidden // heads) ** -0.5
    mixed = torch.softmax(scores, -1) @ value
    return mixed.unflatten(0, (pairs, heads)).transpose(1, 2).flatten(2)
