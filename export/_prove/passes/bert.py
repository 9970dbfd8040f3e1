"""BERT, and what is BERT but for names, embeddings and head."""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .activations import Floats
from .base import Bert, Integers


class Electra(Bert):
    name = "electra"
    head = ("classifier.dense", "gelu", "classifier.out_proj")

    def embed(self, ids: Integers, types: Integers) -> Floats:
        x = super().embed(ids, types)
        return self.linear(x, "embeddings_project") if "embeddings_project.weight" in self.tensors else x


class Ernie(Bert):
    name = "ernie"


class Roberta(Bert):
    name = "roberta"
    head = ("classifier.dense", "tanh", "classifier.out_proj")
    pad_id = 1
    # Parts of a layer in the names of flash-attention's BERT, query, key and value in one.
    flash = ("mixer.Wqkv", "mixer.out_proj", "norm1", "mlp.fc1", "mlp.fc2", "norm2")

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        if "emb_ln.weight" in self.tensors:
            for kind in ("weight", "bias"):
                self.tensors[f"embeddings.LayerNorm.{kind}"] = self.tensors[f"emb_ln.{kind}"]
                for i in range(self.depth):
                    read, *others = (self.tensors[f"encoder.layers.{i}.{part}.{kind}"] for part in self.flash)
                    whole: Any = np.split(read(), 3)
                    thirds = [partial(whole.__getitem__, third) for third in range(3)]
                    names = (f"{self.layers}.{i}.{part}.{kind}" for part in self.parts)
                    self.tensors |= zip(names, [*thirds, *others], strict=True)

    @classmethod
    def in_transformers(cls, config: dict[str, Any], names: Collection[str]) -> bool:
        return not any(".mixer." in name for name in names)

    def positions(self, ids: Integers) -> Integers:
        counted = ids != self.pad_id
        positions: Integers = np.cumsum(counted, axis=1) * counted + self.pad_id
        return positions


class Data2Vec(Roberta):
    name = "data2vec_text"


PASSES = {
    **{"bert": Bert, "ernie": Ernie, "electra": Electra, "data2vec-text": Data2Vec},
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), Roberta),
}
