"""ModernBERT's forward pass."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activations import Floats, activate
from .base import Bert, Integers


class ModernBert(Bert):
    """As transformers 5 computes it, of configs that 4 or 5 wrote."""

    name = "model"
    fields = ("num_hidden_layers", "num_attention_heads", "hidden_activation")
    layers = "layers"
    parts = ("attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo")
    token_types = False

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.epsilon = np.float32(config.get("norm_eps", 1e-5))
        self.pooling = config.get("classifier_pooling", "cls")
        self.head_activation = config.get("classifier_activation", "gelu")
        kinds = config.get("layer_types")
        every = config.get("global_attn_every_n_layers", 3)
        self.is_local = [
            bool(i % every) if kinds is None else kinds[i] == "sliding_attention" for i in range(self.depth)
        ]
        self.reach = config.get("local_attention", 128) // 2
        ropes = config.get("rope_parameters") or {}
        self.thetas = [
            (ropes.get(kind) or {}).get("rope_theta", config.get(old, default))
            for kind, old, default in (
                ("full_attention", "global_rope_theta", 160_000.0),
                ("sliding_attention", "local_rope_theta", 10_000.0),
            )
        ]

    def hidden(self, ids: Integers, types: Integers, mask: Integers) -> Floats:
        x = self.norm(self.tensor("embeddings.tok_embeddings.weight")[ids], "embeddings.norm")
        for i, local in enumerate(self.is_local):
            norm, qkv, output, second, wide, down = (f"{self.layers}.{i}.{part}" for part in self.parts)
            seen = mask[:, None, None, :] == 1
            if local:
                places = np.arange(ids.shape[1])
                seen = seen & (np.abs(places[:, None] - places) <= self.reach)
            y = x if i == 0 else self.norm(x, norm)
            x = x + self.linear(self.turned(self.linear(y, qkv), seen, self.thetas[local]), output)
            active, gate = np.split(self.linear(self.norm(x, second), wide), 2, axis=-1)
            x = x + self.linear(activate(self.activation, np.ascontiguousarray(active)) * gate, down)
        return self.norm(x, "final_norm")

    def classify(self, x: Floats, mask: Integers) -> Floats:
        valid = mask[..., None].astype(np.float32)
        row = x[:, 0] if self.pooling == "cls" else (x * valid).sum(axis=1) / valid.sum(axis=1)
        return self.linear(
            self.norm(activate(self.head_activation, self.linear(row, "head.dense")), "head.norm"), "classifier"
        )

    def turned(self, qkv: Floats, seen: NDArray[np.bool_], theta: float) -> Floats:
        batch, length, _ = qkv.shape
        query, key, value = qkv.reshape(batch, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        size = query.shape[-1]
        inverse = 1 / np.power(np.float32(theta), np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
        angles = np.arange(length, dtype=np.float32)[:, None] * np.tile(inverse.astype(np.float32), 2)
        cos, sin = np.cos(angles), np.sin(angles)

        def turn(y: Floats) -> Floats:
            first, second = np.split(y, 2, axis=-1)
            turned: Floats = y * cos + np.concatenate([-second, first], axis=-1) * sin
            return turned

        scores = turn(query) @ turn(key).transpose(0, 1, 3, 2) / np.float32(math.sqrt(size))
        scores = np.where(seen, scores, np.float32(-1e30))  # finite: padding may see nothing
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        return merged


PASSES = {"modernbert": ModernBert}
