"""The parameters of transformers' sequence classifiers by name and shape, in its order, so that none must be built."""

from collections.abc import Iterator
from typing import Any

Shape = tuple[int, ...]

_ROBERTAS = ("roberta", "xlm-roberta", "camembert")


def parameter_shapes(config: dict[str, Any], labels: int) -> Iterator[tuple[str, Shape]]:
    """The names and shapes of the parameters of a model with this config.json and so many labels."""
    kind = config["model_type"]
    if kind == "modernbert":
        yield from _modernbert(config, labels)
        return
    head = list(_head(kind, config["dim" if kind == "distilbert" else "hidden_size"], labels))
    if kind in ("xlm-roberta", "camembert"):
        yield from head
    base = "roberta" if kind in _ROBERTAS else kind
    yield from ((f"{base}.{name}", shape) for name, shape in _encoder(kind, config))
    if kind not in ("xlm-roberta", "camembert"):
        yield from head


def _modernbert(config: dict[str, Any], labels: int) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]

    def linear(name: str, outputs: int, inputs: int, setting: str) -> Iterator[tuple[str, Shape]]:
        return (found for found in _linear(name, outputs, inputs) if config[setting] or not found[0].endswith("bias"))

    def norm(name: str) -> Iterator[tuple[str, Shape]]:
        return (found for found in _norm(name, hidden) if config["norm_bias"] or not found[0].endswith("bias"))

    yield "model.embeddings.tok_embeddings.weight", (config["vocab_size"], hidden)
    yield from norm("model.embeddings.norm")
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        if i:
            yield from norm(f"{at}.attn_norm")
        yield from linear(f"{at}.attn.Wqkv", 3 * hidden, hidden, "attention_bias")
        yield from linear(f"{at}.attn.Wo", hidden, hidden, "attention_bias")
        yield from norm(f"{at}.mlp_norm")
        yield from linear(f"{at}.mlp.Wi", 2 * inner, hidden, "mlp_bias")
        yield from linear(f"{at}.mlp.Wo", hidden, inner, "mlp_bias")
    yield from norm("model.final_norm")
    yield from linear("head.dense", hidden, hidden, "classifier_bias")
    yield from norm("head.norm")
    yield from _linear("classifier", labels, hidden)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _encoder(kind: str, config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    hidden = config["dim" if kind == "distilbert" else "hidden_size"]
    width = config.get("embedding_size", hidden)
    positions = "embeddings.position_embeddings.weight", (config["max_position_embeddings"], width)
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], width)
    if kind not in _ROBERTAS:
        yield positions
    if kind not in ("distilbert", "mpnet"):
        yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], width)
    yield from _norm("embeddings.LayerNorm", width)
    if kind in _ROBERTAS:
        yield positions
    if width != hidden:
        yield from _linear("embeddings_project", hidden, width)
    for i in range(config["n_layers" if kind == "distilbert" else "num_hidden_layers"]):
        yield from _layer(kind, i, hidden, config["hidden_dim" if kind == "distilbert" else "intermediate_size"])
    if kind == "mpnet":
        heads = config["num_attention_heads"]
        yield "encoder.relative_attention_bias.weight", (config["relative_attention_num_buckets"], heads)
    if kind == "bert":
        yield from _linear("pooler.dense", hidden, hidden)


def _layer(kind: str, index: int, hidden: int, inner: int) -> Iterator[tuple[str, Shape]]:
    if kind == "distilbert":
        at = f"transformer.layer.{index}"
        products, norm = [f"{at}.attention.{part}_lin" for part in ("q", "k", "v", "out")], f"{at}.sa_layer_norm"
        up, down, last = f"{at}.ffn.lin1", f"{at}.ffn.lin2", f"{at}.output_layer_norm"
    else:
        at = f"encoder.layer.{index}"
        parts = ("self.query", "self.key", "self.value", "output.dense")
        names, norm = ([f"attn.{part}" for part in "qkvo"], "") if kind == "mpnet" else (parts, "output.")
        products, norm = [f"{at}.attention.{name}" for name in names], f"{at}.attention.{norm}LayerNorm"
        up, down, last = f"{at}.intermediate.dense", f"{at}.output.dense", f"{at}.output.LayerNorm"
    for name in products:
        yield from _linear(name, hidden, hidden)
    yield from _norm(norm, hidden)
    yield from _linear(up, inner, hidden)
    yield from _linear(down, hidden, inner)
    yield from _norm(last, hidden)


def _head(kind: str, hidden: int, labels: int) -> Iterator[tuple[str, Shape]]:
    last = "classifier"
    if kind == "distilbert":
        yield from _linear("pre_classifier", hidden, hidden)
    elif kind != "bert":
        yield from _linear("classifier.dense", hidden, hidden)
        last = "classifier.out_proj"
    yield from _linear(last, labels, hidden)
