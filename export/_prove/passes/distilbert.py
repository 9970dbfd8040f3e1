"""DistilBERT's forward pass."""

from .base import Bert


class DistilBert(Bert):
    name = "distilbert"
    fields = ("n_layers", "n_heads", "activation")
    layers = "transformer.layer"
    parts = (
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
    )
    head = ("pre_classifier", "relu", "classifier")
    token_types = False


PASSES = {"distilbert": DistilBert}
