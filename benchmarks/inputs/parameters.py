"""The parameters of transformers' sequence classifiers by name and shape, in its order, so that none must be built."""

from collections.abc import Iterator
from typing import Any

Shape = tuple[int, ...]

_ROBERTAS = ("roberta", "xlm-roberta", "camembert")


def parameter_shapes(config: dict[str, Any], labels: int) -> Iterator[tuple[str, Shape]]:
    """The names and shapes of the parameters of a model with this config.json and so many labels."""
    kind = config["model_type"]
    if kind in _OTHERS:
        yield from _OTHERS[kind](config, labels)
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


def _deberta(config: dict[str, Any], labels: int) -> Iterator[tuple[str, Shape]]:
    hidden, terms = config["hidden_size"], config["pos_att_type"] or []
    width, table = config.get("embedding_size", hidden), "deberta.embeddings.{}_embeddings.weight"
    yield table.format("word"), (config["vocab_size"], width)
    if config["position_biased_input"]:
        yield table.format("position"), (config["max_position_embeddings"], width)
    if config["type_vocab_size"]:
        yield table.format("token_type"), (config["type_vocab_size"], width)
    if width != hidden:
        yield "deberta.embeddings.embed_proj.weight", (hidden, width)
    yield from _norm("deberta.embeddings.LayerNorm", hidden)
    own = config["relative_attention"] and not config.get("share_att_key", False)
    for i in range(config["num_hidden_layers"]):
        at = f"deberta.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{at}.attention.self.{part}_proj", hidden, hidden)
        for term, part in (("c2p", "key"), ("p2c", "query")):
            if own and term in terms:
                yield from _linear(f"{at}.attention.self.pos_{part}_proj", hidden, hidden)
        yield from _linear(f"{at}.attention.output.dense", hidden, hidden)
        yield from _norm(f"{at}.attention.output.LayerNorm", hidden)
        yield from _linear(f"{at}.intermediate.dense", config["intermediate_size"], hidden)
        yield from _linear(f"{at}.output.dense", hidden, config["intermediate_size"])
        yield from _norm(f"{at}.output.LayerNorm", hidden)
    if config["relative_attention"]:
        farthest, buckets = config.get("max_relative_positions", -1), config.get("position_buckets", -1)
        span = buckets if buckets > 0 else farthest if farthest > 0 else config["max_position_embeddings"]
        yield "deberta.encoder.rel_embeddings.weight", (2 * span, hidden)
    if "layer_norm" in config.get("norm_rel_ebd", "none"):
        yield from _norm("deberta.encoder.LayerNorm", hidden)
    yield from _linear("pooler.dense", hidden, hidden)
    yield from _linear("classifier", labels, hidden)


def _gte(config: dict[str, Any], labels: int) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    yield "gte.embeddings.word_embeddings.weight", (config["vocab_size"], hidden)
    if config["type_vocab_size"]:
        yield "gte.embeddings.token_type_embeddings.weight", (config["type_vocab_size"], hidden)
    yield from _norm("gte.embeddings.LayerNorm", hidden)
    yield from _linear("gte.pooler.dense", hidden, hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"gte.layers.{i}"
        yield from _norm(f"{at}.post_attention_layernorm", hidden)
        yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield from _linear(f"{at}.mlp.down_proj", hidden, inner)
        for part in "qkvo":
            yield from _linear(f"{at}.self_attn.{part}_proj", hidden, hidden)
        yield from _norm(f"{at}.post_mlp_layernorm", hidden)
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


_OTHERS = {"modernbert": _modernbert, "deberta-v2": _deberta, "gte": _gte}
