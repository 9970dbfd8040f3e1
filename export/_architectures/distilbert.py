"""DistilBERT: BERT without token types, in names of its own."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Family


class DistilBert(Family):
    """DistilBERT."""

    types = ("distilbert",)
    prefix = "distilbert."
    fields: ClassVar[Mapping[str, str]] = {
        "vocabulary": "vocab_size",
        "hidden": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "intermediate": "hidden_dim",
        "positions": "max_position_embeddings",
        "activation": "activation",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"positions": 512, "activation": "gelu", "epsilon": 1e-12}
    layers = "transformer.layer."
    parts = (
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
    )
    head = ("pre_classifier", "relu", "classifier")


FAMILIES = (DistilBert(),)
