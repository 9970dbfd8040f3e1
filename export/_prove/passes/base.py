"""BERT's forward pass, which those of the other families are derived from."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank.export._read.adapter import open_weights

from .activations import Floats, activate

Integers = NDArray[np.int64]


class Bert:
    """BERT with a classification head; what an architecture does not say is as here.

    Args are those of `numpy_logits`.
    """

    name = "bert"  # before the encoder's tensors
    fields: tuple[str, ...] = ("num_hidden_layers", "num_attention_heads", "hidden_act")
    layers = "encoder.layer"
    parts: tuple[str, ...] = (
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    head = ("pooler.dense", "tanh", "classifier")
    token_types = True
    pad_id = 0

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        depth, heads, activation = self.fields
        self.depth, self.heads, self.activation = config[depth], config[heads], config.get(activation, "gelu")
        self.epsilon = np.float32(config.get("layer_norm_eps", 1e-12))
        if config.get("pad_token_id") is not None:
            self.pad_id = config["pad_token_id"]
        self.bare_projection = bare_projection
        self.tensors = {name.removeprefix(f"{self.name}."): read for name, read in open_weights(folder).items()}
        self.read: dict[str, Floats] = {}

    @classmethod
    def in_transformers(cls, config: dict[str, Any], names: Collection[str]) -> bool:
        """Whether a class of transformers reads such a config.json and tensors of these names as they are."""
        return True

    def logits(self, ids: Integers, types: Integers, mask: Integers) -> Floats:
        """Logits float32 [batch, labels] of padded inputs int64 [batch, tokens]."""
        return self.classify(self.hidden(ids, types, mask), mask)

    def hidden(self, ids: Integers, types: Integers, mask: Integers) -> Floats:
        """What is before the head, float32 [batch, tokens, hidden]."""
        x = self.embed(ids, types)
        for i in range(self.depth):
            x = self.layer(x, mask, [f"{self.layers}.{i}.{part}" for part in self.parts])
        return x

    def classify(self, x: Floats, mask: Integers) -> Floats:
        row, (dense, activation, classifier) = x[:, 0], self.head
        if not self.bare_projection:
            row = activate(activation, self.linear(row, dense))
        return self.linear(row, classifier)

    def embed(self, ids: Integers, types: Integers) -> Floats:
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        if self.token_types:
            x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        x = x + self.tensor("embeddings.position_embeddings.weight")[self.positions(ids)]
        return self.norm(x, "embeddings.LayerNorm")

    def positions(self, ids: Integers) -> Integers:
        return np.arange(ids.shape[1])[None, :]

    def layer(self, x: Floats, mask: Integers, names: list[str]) -> Floats:
        query, key, value, output, norm, up, down, last = names
        x = self.norm(x + self.linear(self.attend(x, mask, query, key, value), output), norm)
        inner = activate(self.activation, self.linear(x, up))
        return self.norm(x + self.linear(inner, down), last)

    def attend(self, x: Floats, mask: Integers, *names: str) -> Floats:
        batch, length, hidden = x.shape
        query, key, value = (
            self.linear(x, name).reshape(batch, length, self.heads, -1).transpose(0, 2, 1, 3) for name in names
        )  # [batch, heads, tokens, dim]
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(hidden // self.heads)) + self.bias(length)
        scores = np.where(mask[:, None, None, :] == 1, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(batch, length, hidden)
        return merged

    def bias(self, length: int) -> Floats:
        return np.zeros(1, np.float32)

    def tensor(self, name: str) -> Floats:
        if name not in self.read:
            self.read[name] = self.tensors[name]().astype(np.float32, copy=False)
        return self.read[name]

    def linear(self, x: Floats, name: str) -> Floats:
        weight = self.tensor(f"{name}.weight")  # [out, in]
        flat = x.reshape(-1, x.shape[-1]) @ weight.T  # one large product, not one a pair
        if f"{name}.bias" in self.tensors:
            flat += self.tensor(f"{name}.bias")
        return flat.reshape(*x.shape[:-1], len(weight))

    def norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: Floats = centred / np.sqrt(variance + self.epsilon) * self.tensor(f"{name}.weight")
        return scaled + self.tensor(f"{name}.bias") if f"{name}.bias" in self.tensors else scaled
