"""GTE's forward pass."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from .activations import Floats, activate
from .base import Bert, Integers


def _scaling(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


class Gte(Bert):
    """As transformers 5 computes "gte", and for stretched positions as the authors' code computes "new"."""

    token_types = False

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.tensors = {name.removeprefix("gte.").removeprefix("new."): read for name, read in self.tensors.items()}
        scaling = _scaling(config)
        default = 160_000.0 if config["model_type"] == "gte" else 10_000.0
        self.theta = scaling.get("rope_theta", config.get("rope_theta", default))
        self.factor = scaling.get("factor", 1.0) if "ntk" in (scaling.get("type"), scaling.get("rope_type")) else 1.0

    @classmethod
    def in_transformers(cls, config: dict[str, Any], names: Collection[str]) -> bool:
        """Not "new", nor "ntk", at which transformers 5 stops."""
        scaling = _scaling(config)
        return config["model_type"] == "gte" and "ntk" not in (scaling.get("type"), scaling.get("rope_type"))

    def embed(self, ids: Integers, types: Integers) -> Floats:
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        if "embeddings.token_type_embeddings.weight" in self.tensors:
            x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        return self.norm(x, "embeddings.LayerNorm")

    def hidden(self, ids: Integers, types: Integers, mask: Integers) -> Floats:
        x, batch, length = self.embed(ids, types), *ids.shape
        size = x.shape[-1] // self.heads
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        inverse = 1 / np.power(np.float32(self.theta * self.factor), exponents) / np.float32(self.factor ** (2 / size))
        angles = np.arange(length, dtype=np.float32)[:, None] * np.concatenate([inverse, inverse])

        def turned(y: Floats) -> Floats:
            half = np.concatenate([-y[..., size // 2 :], y[..., : size // 2]], axis=-1)
            found: Floats = y * np.cos(angles) + half * np.sin(angles)
            return found

        for i in range(self.depth):
            hub, own = f"encoder.layer.{i}", f"layers.{i}"
            published = f"{hub}.attn_ln.weight" in self.tensors
            if f"{hub}.attention.qkv_proj.weight" in self.tensors:
                parts = np.split(self.linear(x, f"{hub}.attention.qkv_proj"), 3, axis=-1)
            else:
                at = f"{hub}.attention" if published else f"{own}.self_attn"
                parts = [self.linear(x, f"{at}.{part}_proj") for part in "qkv"]
            query, key, value = (y.reshape(batch, length, self.heads, size).transpose(0, 2, 1, 3) for y in parts)
            scores = turned(query) @ turned(key).transpose(0, 1, 3, 2) / np.float32(math.sqrt(size))
            scores = np.where(mask[:, None, None, :] == 1, scores, np.float32(-np.inf))
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
            context = context.transpose(0, 2, 1, 3).reshape(x.shape)
            output, norm, last = (
                (f"{hub}.attention.o_proj", f"{hub}.attn_ln", f"{hub}.mlp_ln")
                if published
                else (f"{own}.self_attn.o_proj", f"{own}.post_attention_layernorm", f"{own}.post_mlp_layernorm")
            )
            x = self.norm(x + self.linear(context, output), norm)
            mlp = f"{hub if published else own}.mlp"
            if published:
                up, gate = np.split(x @ self.tensor(f"{mlp}.up_gate_proj.weight").T, 2, axis=-1)
            else:
                up, gate = (x @ self.tensor(f"{mlp}.{part}_proj.weight").T for part in ("up", "gate"))
            inner = activate(self.activation, np.ascontiguousarray(gate)) * up
            x = self.norm(x + self.linear(inner, f"{mlp}.down_proj"), last)
        return x


PASSES = {"gte": Gte, "new": Gte}
