"""The reference that a graph is held against: transformers where installed, else a plain forward pass in numpy.

Neither shares code with the graph builder or with the engine, but for reading tensors from files: names,
structure, joining of pairs and padding are written here once more, from config.json and transformers'
modelling code. The texts' ids are those of the artifact's tokenizer.json, which is held against transformers'
tokenizer on its own (`compare_tokenizer`): one and the same checkpoint has two tokenizers in transformers 4 and 5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from crossrank._artifact.settings import ADAPTER_CONFIG, ModelFolder
from crossrank._errors import CheckpointError
from crossrank._json import has_entry
from crossrank.export._read.adapter import load_adapted, open_weights

from .transformers_tokenizer import compare_tokenizer

Floats = NDArray[np.float32]
Pairs = Sequence[tuple[str, str]]

# Tokens of a batch, its padding included.
_BATCH_LENGTH = 512
# Fields of a config.json that say how to run or train, not what the model computes; some stop transformers here.
_NOT_OF_THE_MODEL = frozenset({
    *("return_dict", "use_return_dict", "torchscript", "output_attentions", "output_hidden_states", "use_cache"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"),
    *("chunk_size_feed_forward", "gradient_checkpointing", "problem_type", "dtype", "torch_dtype", "auto_map"),
})  # fmt: skip


def reference_logits(
    source: ModelFolder,
    tokenizer: Path,
    pairs: Pairs,
    *,
    max_length: int,
    token_types: bool,
    bare_projection: bool,
) -> tuple[str, Floats]:
    """Logits of the best reference that is installed.

    Args:
        source: A checkpoint and its settings, with what its config.json leaves out.
        tokenizer: The artifact's tokenizer.json.
        pairs: Query and document.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.
        bare_projection: Whether the head is its last layer alone, as no model of transformers has it.

    Returns:
        The reference's name, and float32 [pairs, labels].

    Raises:
        CheckpointError: If transformers is there and fails, or its tokenizer gives other ids for no known reason.
    """
    if not bare_projection and util.find_spec("transformers") and util.find_spec("torch"):
        try:
            logits = transformers_logits(source, tokenizer, pairs, max_length=max_length, token_types=token_types)
        except CheckpointError:
            raise
        except Exception as error:  # what transformers and torch raise has no common base
            raise CheckpointError(
                f"{source.folder}: transformers cannot score with it: {type(error).__name__}: {error!s:.300}"
            ) from error
        return f"transformers {metadata.version('transformers')}", logits
    return "numpy", numpy_logits(
        source.folder,
        source.config,
        tokenizer,
        pairs,
        max_length=max_length,
        token_types=token_types,
        bare_projection=bare_projection,
    )


def model_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json for transformers: plain operators in float32, without what changes nothing that they compute."""
    kept = {name: value for name, value in config.items() if name not in _NOT_OF_THE_MODEL}
    if kept.get("pad_token_id", 0) is None:  # null is the architecture's own, without which RoBERTa counts no positions
        del kept["pad_token_id"]
    return kept | {"attn_implementation": "eager", "dtype": "float32"}


@dataclass(frozen=True, slots=True)
class _Batch:
    """Padded inputs, int64 [pairs, tokens] each."""

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    mask: NDArray[np.int64]


def _join(tokenizer: Path, pairs: Pairs, max_length: int) -> list[Encoding]:
    joiner = Tokenizer.from_file(str(tokenizer))
    joiner.no_padding()
    joiner.enable_truncation(max_length, strategy="longest_first")
    encodings: list[Encoding] = joiner.encode_batch(list(pairs))
    return encodings


def _in_batches(
    encodings: Sequence[Encoding], pad_id: int | None, token_types: bool, score: Callable[[_Batch], Floats]
) -> Floats:
    """Score batches of similar length, one pair at a time if nothing can fill them; logits in the order given."""
    lengths = [len(encoding.ids) for encoding in encodings]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        if not batches or pad_id is None or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > _BATCH_LENGTH:
            batches.append([])
        batches[-1].append(i)

    def pad(batch: list[int]) -> _Batch:
        ids = np.full((len(batch), lengths[batch[0]]), pad_id or 0)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, : lengths[i]], mask[row, : lengths[i]] = encodings[i].ids, 1
            if token_types:
                types[row, : lengths[i]] = encodings[i].type_ids
        return _Batch(ids, types, mask)

    results = np.concatenate([score(pad(batch)) for batch in batches])
    logits = np.empty_like(results)
    logits[order] = results
    return logits


def transformers_logits(
    source: ModelFolder, tokenizer: Path, pairs: Pairs, *, max_length: int, token_types: bool
) -> Floats:
    """Logits of transformers' own model, whose tokenizer is compared too; float32 [pairs, labels].

    Args:
        source: A checkpoint and its settings, with what its config.json leaves out.
        tokenizer: The artifact's tokenizer.json.
        pairs: Query and document.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.

    Raises:
        CheckpointError: As `compare_tokenizer`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    encodings = _join(tokenizer, pairs, max_length)
    config = model_settings(source.config)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the exporter reports its own stages, and nothing when piped
    try:
        known = type(AutoConfig.for_model(config["model_type"])).from_dict(config)
        compare_tokenizer(source, known, tokenizer, pairs, encodings, max_length=max_length, token_types=token_types)
        if has_entry(source.folder / ADAPTER_CONFIG):
            model = load_adapted(source.folder, known)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                source.folder,
                config=known,
                local_files_only=True,
                trust_remote_code=False,  # without it transformers may ask on standard input
            )
    finally:
        if bars:
            logging.enable_progress_bar()
    model.float().eval()

    def score(batch: _Batch) -> Floats:
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if token_types:
            inputs["token_type_ids"] = batch.types
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
            logits: Floats = model(**tensors, return_dict=True).logits.numpy()
        return logits

    return _in_batches(encodings, model.config.pad_token_id, token_types, score)


def numpy_logits(
    folder: Path,
    config: dict[str, Any],
    tokenizer: Path,
    pairs: Pairs,
    *,
    max_length: int,
    token_types: bool,
    bare_projection: bool = False,
) -> Floats:
    """Logits of a forward pass in numpy, float32 [pairs, labels].

    Args:
        folder: A checkpoint folder.
        config: Its config.json, with what that leaves out.
        tokenizer: A tokenizer.json.
        pairs: Query and document.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.
        bare_projection: Whether the head is its last layer alone.
    """
    model = _NumpyEncoder(config, folder, bare_projection=bare_projection)
    encodings = _join(tokenizer, pairs, max_length)
    return _in_batches(
        encodings, model.pad_id, token_types, lambda batch: model.logits(batch.ids, batch.types, batch.mask)
    )


def erf(x: Floats) -> Floats:
    """The error function to 5e-7 in float32 (Abramowitz and Stegun 1964, formula 7.1.26); numpy has none."""
    z = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * np.float32(1.061405429) - np.float32(1.453152027)
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    result: Floats = np.copysign(1 - series * t * np.exp(-z * z), x)
    return result


def _gelu(x: Floats) -> Floats:
    return x * np.float32(0.5) * (1 + erf(x * np.float32(math.sqrt(0.5))))


def _tanh_gelu(x: Floats) -> Floats:
    found: Floats = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return found


def _silu(x: Floats) -> Floats:
    found: Floats = x / (1 + np.exp(-x))
    return found


# By the names of transformers' ACT2FN.
_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _tanh_gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": lambda x: 0.5 * x * (1 + np.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu_python_tanh": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": lambda x: np.maximum(x, 0),
    "silu": _silu,
    "swish": _silu,
    "tanh": np.tanh,
}
# Elements per step of an elementwise function, so that its temporaries stay in the cache.
_STEP = 1 << 15


def _activate(name: str, x: Floats) -> Floats:
    flat = x.reshape(-1)
    for start in range(0, len(flat), _STEP):
        flat[start : start + _STEP] = _ACTIVATIONS[name](flat[start : start + _STEP])
    return x


class _NumpyEncoder:
    """BERT, ELECTRA, RoBERTa, DistilBERT or MPNet with a classification head, after transformers' modelling code."""

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        self.bare_projection = bare_projection
        self.kind = {"xlm-roberta": "roberta", "camembert": "roberta"}.get(config["model_type"], config["model_type"])
        distil = self.kind == "distilbert"
        self.heads = config["n_heads" if distil else "num_attention_heads"]
        self.layers = config["n_layers" if distil else "num_hidden_layers"]
        self.activation = config.get("activation" if distil else "hidden_act", "gelu")
        self.epsilon = np.float32(config.get("layer_norm_eps", 1e-12))
        pad_id = config.get("pad_token_id")
        self.pad_id: int = pad_id if pad_id is not None else int(self.kind in ("roberta", "mpnet"))
        self.tensors = {name.removeprefix(f"{self.kind}."): read for name, read in open_weights(folder).items()}
        self.read: dict[str, Floats] = {}

    def tensor(self, name: str) -> Floats:
        if name not in self.read:
            self.read[name] = self.tensors[name]().astype(np.float32, copy=False)
        return self.read[name]

    def linear(self, x: Floats, name: str) -> Floats:
        weight = self.tensor(f"{name}.weight")  # [out, in]
        flat = x.reshape(-1, x.shape[-1]) @ weight.T + self.tensor(f"{name}.bias")  # one large product, not one a pair
        return flat.reshape(*x.shape[:-1], len(weight))

    def norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: Floats = centred / np.sqrt(variance + self.epsilon) * self.tensor(f"{name}.weight")
        return scaled + self.tensor(f"{name}.bias")

    def embed(self, ids: NDArray[np.int64], types: NDArray[np.int64]) -> Floats:
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        if self.kind not in ("distilbert", "mpnet"):
            x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        positions = np.arange(ids.shape[1])[None, :]
        if self.kind in ("roberta", "mpnet"):
            counted = ids != self.pad_id
            positions = np.cumsum(counted, axis=1) * counted + self.pad_id
        x = self.norm(x + self.tensor("embeddings.position_embeddings.weight")[positions], "embeddings.LayerNorm")
        return self.linear(x, "embeddings_project") if "embeddings_project.weight" in self.tensors else x

    def position_bias(self, length: int) -> Floats:
        """MPNet's, by the formula of its relative_position_bucket; float32 [heads, length, length]."""
        positions = np.arange(length)
        n = positions[:, None] - positions  # query minus key
        distance = np.abs(n)
        far = 8 + np.log(np.maximum(distance, 8) / np.float32(8)) / math.log(128 / 8) * 8
        bucket = np.where(distance < 8, distance, np.minimum(far.astype(np.int64), 15)) + 16 * (n < 0)
        bias: Floats = self.tensor("encoder.relative_attention_bias.weight")[bucket].transpose(2, 0, 1)
        return bias

    def attend(self, x: Floats, mask: NDArray[np.int64], q: str, k: str, v: str) -> Floats:
        batch, length, hidden = x.shape
        query, key, value = (
            self.linear(x, name).reshape(batch, length, self.heads, -1).transpose(0, 2, 1, 3) for name in (q, k, v)
        )  # [batch, heads, tokens, dim]
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(hidden // self.heads))
        if self.kind == "mpnet":
            scores = scores + self.position_bias(length)
        scores = np.where(mask[:, None, None, :] == 1, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(batch, length, hidden)
        return merged

    def logits(self, ids: NDArray[np.int64], types: NDArray[np.int64], mask: NDArray[np.int64]) -> Floats:
        """Logits float32 [batch, labels] of padded inputs int64 [batch, tokens]."""
        x = self.embed(ids, types)
        for i in range(self.layers):
            if self.kind == "distilbert":
                at = f"transformer.layer.{i}."
                names = [f"{at}attention.{part}_lin" for part in ("q", "k", "v")]
                after = [f"{at}{part}" for part in ("attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2")]
                last = f"{at}output_layer_norm"
            else:
                at = f"encoder.layer.{i}."
                names = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
                parts = ("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense")
                if self.kind == "mpnet":
                    names = [f"{at}attention.attn.{part}" for part in ("q", "k", "v")]
                    parts = ("attention.attn.o", "attention.LayerNorm", "intermediate.dense", "output.dense")
                after, last = [f"{at}{part}" for part in parts], f"{at}output.LayerNorm"
            x = self.norm(x + self.linear(self.attend(x, mask, *names), after[0]), after[1])
            inner = _activate(self.activation, self.linear(x, after[2]))
            x = self.norm(x + self.linear(inner, after[3]), last)
        row = x[:, 0]
        if self.kind == "bert":
            return self.linear(np.tanh(self.linear(row, "pooler.dense")), "classifier")
        if self.kind == "distilbert":
            return self.linear(np.maximum(self.linear(row, "pre_classifier"), 0), "classifier")
        if not self.bare_projection:
            activation = "gelu" if self.kind == "electra" else "tanh"
            row = _activate(activation, self.linear(row, "classifier.dense"))
        return self.linear(row, "classifier.out_proj")
