"""DeBERTa-v2's forward pass."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from .activations import Floats
from .base import Bert, Integers


class DebertaV2(Bert):
    name = "deberta"
    parts = (
        *("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.config = config
        self.epsilon = np.float32(config.get("layer_norm_eps", 1e-7))
        self.head = ("pooler.dense", config.get("pooler_hidden_act", "gelu"), "classifier")
        terms = config.get("pos_att_type") or []
        self.terms = [term.strip().lower() for term in (terms.split("|") if isinstance(terms, str) else terms)]
        farthest = config.get("max_relative_positions", -1)
        self.farthest = config.get("max_position_embeddings", 512) if farthest < 1 else farthest
        self.buckets = config.get("position_buckets", -1)

    def embed(self, ids: Integers, types: Integers) -> Floats:
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        if self.config.get("position_biased_input", True):
            x = x + self.tensor("embeddings.position_embeddings.weight")[: ids.shape[1]]
        if self.config.get("type_vocab_size", 0):
            x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        if "embeddings.embed_proj.weight" in self.tensors:
            x = x @ self.tensor("embeddings.embed_proj.weight").T
        return self.norm(x, "embeddings.LayerNorm")

    def attend(self, x: Floats, mask: Integers, *names: str) -> Floats:
        batch, length, hidden = x.shape
        size = hidden // self.heads

        def heads(projected: Floats) -> Floats:  # [..., tokens, hidden] -> [..., heads, tokens, size]
            return projected.reshape(*projected.shape[:-1], self.heads, size).swapaxes(-2, -3)

        query, key, value = (heads(self.linear(x, name)) for name in names)
        scores = query @ key.swapaxes(-1, -2)
        if self.config.get("relative_attention", False):
            rows = self.tensor("encoder.rel_embeddings.weight")
            if "layer_norm" in str(self.config.get("norm_rel_ebd", "none")).lower():
                rows = self.norm(rows, "encoder.LayerNorm")
            own = names[0].removesuffix("query_proj")
            of_keys, of_queries = names[1], names[0]
            if not self.config.get("share_att_key", False):
                of_keys, of_queries = f"{own}pos_key_proj", f"{own}pos_query_proj"
            found = self.rows(length)[None, None]
            if "c2p" in self.terms:
                products = query @ heads(self.linear(rows, of_keys)).swapaxes(-1, -2)
                scores = scores + np.take_along_axis(products, found, axis=-1)
            if "p2c" in self.terms:
                products = heads(self.linear(rows, of_queries)) @ key.swapaxes(-1, -2)  # [.., rows, keys]
                scores = scores + np.take_along_axis(products, found, axis=-2)
        scores = scores / np.float32(math.sqrt(size * (1 + len({"c2p", "p2c"} & set(self.terms)))))
        scores = np.where(mask[:, None, None, :] == 1, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(batch, length, hidden)
        return merged

    def rows(self, length: int) -> Integers:
        """The row of rel_embeddings for query i and key j, int64 [length, length]."""
        distance = np.arange(length)[:, None] - np.arange(length)
        span = self.farthest
        if self.buckets > 0:
            span, half = self.buckets, self.buckets // 2
            portion = np.log(np.maximum(np.abs(distance), half).astype(np.float32) / np.float32(half))
            portion = portion / np.log(np.float32((self.farthest - 1) / half)) * np.float32(half - 1)
            signed = np.sign(distance) * (np.ceil(portion) + half)
            distance = np.where(np.abs(distance) <= half, distance, signed).astype(np.int64)
        rows: Integers = np.clip(distance + span, 0, 2 * span - 1)
        return rows


PASSES = {"deberta-v2": DebertaV2}
