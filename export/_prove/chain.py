"""The forward pass in numpy of sentence-transformers' modules behind a transformer, after its own code.

Shares nothing with the exporter's reading of them but reading tensors from files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from crossrank.export._read.tensors import open_tensors

from .passes.activations import Floats, activate
from .passes.base import Integers

# torch's modules by the names of `activate`, or what they compute.
_BY_NAME = {"GELU": "gelu", "ReLU": "relu", "SiLU": "silu", "Tanh": "tanh"}


def chain_logits(root: Path, hidden: Floats, mask: Integers) -> Floats:
    """What the modules make of a transformer's tokens.

    Args:
        root: A model's folder with a modules.json, as the exporter takes it.
        hidden: float32 [batch, tokens, hidden].
        mask: int64 [batch, tokens].

    Returns:
        float32 [batch, labels].
    """
    features: dict[str, Floats] = {}
    for module in json.loads((root / "modules.json").read_text("utf-8"))[1:]:
        folder, kind = root / module["path"], module["type"].split(".")[-1]
        if kind == "Dropout":
            continue
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if kind == "Pooling":
            features["sentence_embedding"] = _pool(config, hidden, mask)
            continue
        weights = {name: read().astype(np.float32) for name, read in open_tensors(folder).items()}
        if kind == "LayerNorm":
            x = features["sentence_embedding"]
            centred = x - x.mean(axis=-1, keepdims=True)
            scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-5))
            features["sentence_embedding"] = scaled * weights["norm.weight"] + weights["norm.bias"]
        else:
            source = config.get("module_input_name", "sentence_embedding")
            features[config.get("module_output_name") or source] = _dense(config, weights, features[source])
    return features["scores"]


def _pool(config: dict[str, Any], hidden: Floats, mask: Integers) -> Floats:
    mode = config.get("pooling_mode", "cls" if config.get("pooling_mode_cls_token") else "mean")
    if mode in ("cls", ["cls"]):
        return hidden[:, 0]
    valid = mask[..., None].astype(np.float32)
    pooled: Floats = (hidden * valid).sum(axis=1) / valid.sum(axis=1)
    return pooled


def _dense(config: dict[str, Any], weights: dict[str, Floats], x: Floats) -> Floats:
    y = x @ weights["linear.weight"].T
    if config.get("bias", True):
        y = y + weights["linear.bias"]
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh").split(".")[-1]
    if name in _BY_NAME:
        y = activate(_BY_NAME[name], y)
    elif name == "Sigmoid":
        y = 1 / (1 + np.exp(-y))
    elif name in ("ELU", "LeakyReLU"):
        y = np.where(y > 0, y, np.expm1(np.minimum(y, 0)) if name == "ELU" else y * np.float32(0.01))
    if config.get("use_residual"):
        y = y + (x @ weights["residual.weight"].T if "residual.weight" in weights else x)
    return y.astype(np.float32)
