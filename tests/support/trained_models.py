"""Trained models: the embedded one as a checkpoint in float32, and what a test gets of each.

The embedded graph holds every weight, rounded to 8 bits once: exact numbers to export again and to compare with
transformers. The scores of crossrank-mini-en itself, whose activations are rounded too, are near, not equal.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from crossrank._artifact.origin import EMBEDDED_MODEL
from tests.support.tiny_models import BERT_TOKENS, write_json

_LINEAR = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


@dataclass(frozen=True)
class Trained:
    """A trained cross-encoder, and a query with passages that it ranks.

    Attributes:
        checkpoint: A Hugging Face folder.
        artifact: Its export: cpu in fp32 and int8, portable in fp32.
        query: A question.
        passages: 60 different texts, of which some answer it.
    """

    checkpoint: Path
    artifact: Path
    query: str
    passages: list[str]


class _Graph:
    """The graph's constants, those in int8 as the float32 numbers that they stand for."""

    def __init__(self, path: Path) -> None:
        self._raw = {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}

    def table(self, name: str) -> NDArray[np.float32]:
        """float32, in the shape that the graph has."""
        if (whole := self._raw.get(name)) is not None:
            return np.array(whole, np.float32)
        scales: NDArray[np.float32] = self._raw[f"{name}.scales"]
        return self._raw[f"{name}.int8"].astype(np.float32) * scales

    def linear(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight [outputs, inputs] and bias [outputs], as torch has them; units that lie apart come last."""
        if f"{name}.per_head.int8" in self._raw:  # [heads, width, inputs], of the values [heads, inputs, width]
            heads = self.table(f"{name}.per_head")
            weight = heads.reshape(-1, heads.shape[-1]) if name.endswith("key") else _side_by_side(heads).T
        else:
            weight = self.table(name if f"{name}.int8" in self._raw else f"{name}.weight").T
        bias = self._raw.get(f"{name}.bias", np.zeros(len(weight), np.float32))  # a key's bias changes no softmax
        if f"{name}.apart.weight.int8" in self._raw:
            apart, outwards = self.table(f"{name}.apart.weight").T, name.endswith("up")
            weight = np.concatenate([weight, apart], axis=0 if outwards else 1)
            bias = np.concatenate([bias, self._raw[f"{name}.apart.bias"]]) if outwards else bias
        return np.ascontiguousarray(weight), bias


def _side_by_side(heads: NDArray[np.float32]) -> NDArray[np.float32]:
    return heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)


def write_embedded_checkpoint(folder: Path) -> Path:
    """The embedded model as its authors would publish it, in ``folder``, which is made.

    Returns:
        ``folder``, with config.json, model.safetensors, tokenizer.json, vocab.txt, tokenizer_config.json and
        special_tokens_map.json.
    """
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(EMBEDDED_MODEL / name, folder / name)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    settings: dict[str, Any] = json.loads((EMBEDDED_MODEL / "tokenizer_config.json").read_text("utf-8"))
    write_json(folder / "tokenizer_config.json", settings | BERT_TOKENS)
    write_json(folder / "special_tokens_map.json", BERT_TOKENS)
    entries = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8", newline="")

    graph = _Graph(EMBEDDED_MODEL / "onnx" / "model_cpu_int8.onnx")
    tensors = {
        f"bert.embeddings.{theirs}_embeddings.weight": graph.table(f"embeddings.{ours}")
        for ours, theirs in (("words", "word"), ("positions", "position"), ("types", "token_type"))
    }

    def norm(ours: str, theirs: str) -> None:
        for kind, name in (("scale", "weight"), ("bias", "bias")):
            tensors[f"{theirs}.LayerNorm.{name}"] = graph.table(f"{ours}.{kind}")

    def linear(ours: str, theirs: str) -> None:
        tensors[f"{theirs}.weight"], tensors[f"{theirs}.bias"] = graph.linear(ours)

    norm("embeddings.norm", "bert.embeddings")
    for i in range(json.loads((folder / "config.json").read_text("utf-8"))["num_hidden_layers"]):
        at = f"bert.encoder.layer.{i}"
        for ours, theirs in _LINEAR.items():
            linear(f"layer.{i}.{ours}", f"{at}.{theirs}")
        norm(f"layer.{i}.attention_norm", f"{at}.attention.output")
        norm(f"layer.{i}.output_norm", f"{at}.output")
    linear("head.dense", "bert.pooler.dense")
    linear("head.classifier", "classifier")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
