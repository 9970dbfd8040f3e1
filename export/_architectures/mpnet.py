"""MPNet: BERT without token types, with a learned bias of all attention scores by the distance of two tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from crossrank.export._graphs.encoder import EncoderConfig
from crossrank.export._graphs.layers import Floats

from .base import Family, Tensors

# transformers takes these whatever config.json says.
_BUCKETS, _PAD_ID = 32, 1
# The distances at which a new bucket begins: one bucket each up to 8, then two for every doubling, up to 128.
_STARTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """What is added to all scaled scores: float32 [buckets, heads]."""

    table: Floats
    name: str = "relative_bias"

    def by_distance(self, distances: NDArray[np.int64]) -> Floats:
        """As `DistanceBias.by_distance`."""
        return self.table[distance_buckets(distances)]


def distance_buckets(distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of the bias table for each distance, key's position minus query's.

    >>> distance_buckets(np.array([0, -1, 1, -11, -12, 90, 91, 500])).tolist()
    [0, 1, 17, 8, 9, 30, 31, 31]
    """
    return np.searchsorted(_STARTS, np.abs(distances), side="right") + (distances > 0) * (len(_STARTS) + 1)


class MPNet(Family):
    """MPNet."""

    types = ("mpnet",)
    prefix = "mpnet."
    fields: ClassVar[Mapping[str, str]] = {
        ours: theirs for ours, theirs in Family.fields.items() if ours != "token_types"
    }
    defaults: ClassVar[Mapping[str, Any]] = {"activation": "gelu", "epsilon": 1e-12}
    parts = (
        *("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    head = ("classifier.dense", "tanh", "classifier.out_proj")

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """Other buckets or padding than those that transformers computes with."""
        required = {"relative_attention_num_buckets": _BUCKETS, "pad_token_id": _PAD_ID}
        return [
            f"{name} is {config[name]!r}; transformers' MPNet computes with {value} whatever it says"
            for name, value in required.items()
            if config.get(name) not in (None, value)
        ]

    def read_bias(self, tensors: Tensors, config: EncoderConfig) -> RelativeBias:
        """One for all layers."""
        return RelativeBias(tensors.tensor("encoder.relative_attention_bias.weight", _BUCKETS, config.heads))


FAMILIES = (MPNet(),)
