"""The forward passes in numpy of the architectures that the native exporter knows, after transformers' modelling code.

They share nothing with the families and graphs of the exporter but reading tensors from files: names and structure are
written here once more. An architecture is one class, listed in `PASSES`.
"""

import math
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank.export._read.adapter import open_weights

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


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
    **dict.fromkeys(("gelu", "gelu_python"), _gelu),
    **dict.fromkeys(("gelu_new", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh"), _tanh_gelu),
    "gelu_fast": lambda x: 0.5 * x * (1 + np.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "relu": lambda x: np.maximum(x, 0),
    **dict.fromkeys(("silu", "swish"), _silu),
    "tanh": np.tanh,
}
# Elements per step of an elementwise function, so that its temporaries stay in the cache.
_STEP = 1 << 15


def activate(name: str, x: Floats) -> Floats:
    """A function of transformers' ACT2FN, in place."""
    flat = x.reshape(-1)
    for start in range(0, len(flat), _STEP):
        flat[start : start + _STEP] = _ACTIVATIONS[name](flat[start : start + _STEP])
    return x


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


class Data2Vec(Roberta):
    name = "data2vec_text"


class MPNet(Roberta):
    name = "mpnet"
    parts = (
        *("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    token_types = False

    def bias(self, length: int) -> Floats:
        """By the formula of its relative_position_bucket; float32 [heads, length, length]."""
        positions = np.arange(length)
        n = positions[:, None] - positions  # query minus key
        distance = np.abs(n)
        far = 8 + np.log(np.maximum(distance, 8) / np.float32(8)) / math.log(128 / 8) * 8
        bucket = np.where(distance < 8, distance, np.minimum(far.astype(np.int64), 15)) + 16 * (n < 0)
        bias: Floats = self.tensor("encoder.relative_attention_bias.weight")[bucket].transpose(2, 0, 1)
        return bias


class ModernBert(Bert):
    """As transformers 5 computes it, of configs that 4 or 5 wrote."""

    name = "model"
    fields = ("num_hidden_layers", "num_attention_heads", "hidden_activation")
    layers = "layers"
    parts = ("attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo")
    token_types = False

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.epsilon = np.float32(config.get("norm_eps", 1e-5))
        self.pooling = config.get("classifier_pooling", "cls")
        self.head_activation = config.get("classifier_activation", "gelu")
        kinds = config.get("layer_types")
        every = config.get("global_attn_every_n_layers", 3)
        self.is_local = [
            bool(i % every) if kinds is None else kinds[i] == "sliding_attention" for i in range(self.depth)
        ]
        self.reach = config.get("local_attention", 128) // 2
        ropes = config.get("rope_parameters") or {}
        self.thetas = [
            (ropes.get(kind) or {}).get("rope_theta", config.get(old, default))
            for kind, old, default in (
                ("full_attention", "global_rope_theta", 160_000.0),
                ("sliding_attention", "local_rope_theta", 10_000.0),
            )
        ]

    def hidden(self, ids: Integers, types: Integers, mask: Integers) -> Floats:
        x = self.norm(self.tensor("embeddings.tok_embeddings.weight")[ids], "embeddings.norm")
        for i, local in enumerate(self.is_local):
            norm, qkv, output, second, wide, down = (f"{self.layers}.{i}.{part}" for part in self.parts)
            seen = mask[:, None, None, :] == 1
            if local:
                places = np.arange(ids.shape[1])
                seen = seen & (np.abs(places[:, None] - places) <= self.reach)
            y = x if i == 0 else self.norm(x, norm)
            x = x + self.linear(self.turned(self.linear(y, qkv), seen, self.thetas[local]), output)
            active, gate = np.split(self.linear(self.norm(x, second), wide), 2, axis=-1)
            x = x + self.linear(activate(self.activation, np.ascontiguousarray(active)) * gate, down)
        return self.norm(x, "final_norm")

    def classify(self, x: Floats, mask: Integers) -> Floats:
        valid = mask[..., None].astype(np.float32)
        row = x[:, 0] if self.pooling == "cls" else (x * valid).sum(axis=1) / valid.sum(axis=1)
        return self.linear(
            self.norm(activate(self.head_activation, self.linear(row, "head.dense")), "head.norm"), "classifier"
        )

    def turned(self, qkv: Floats, seen: NDArray[np.bool_], theta: float) -> Floats:
        batch, length, _ = qkv.shape
        query, key, value = qkv.reshape(batch, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        size = query.shape[-1]
        inverse = 1 / np.power(np.float32(theta), np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
        angles = np.arange(length, dtype=np.float32)[:, None] * np.tile(inverse.astype(np.float32), 2)
        cos, sin = np.cos(angles), np.sin(angles)

        def turn(y: Floats) -> Floats:
            first, second = np.split(y, 2, axis=-1)
            turned: Floats = y * cos + np.concatenate([-second, first], axis=-1) * sin
            return turned

        scores = turn(query) @ turn(key).transpose(0, 1, 3, 2) / np.float32(math.sqrt(size))
        scores = np.where(seen, scores, np.float32(-1e30))  # finite: padding may see nothing
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        return merged


class DebertaV2(Bert):
    name = "deberta"
    parts = (
        *("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.config = config
        self.epsilon = np.float32(config.get("layer_norm_eps", 1e-7))
        self.head = ("pooler.dense", config.get("pooler_hidden_act", "gelu"), "classifier")
        terms = config.get("pos_att_type") or []
        self.terms = [term.strip().lower() for term in (terms.split("|") if isinstance(terms, str) else terms)]
        farthest = config.get("max_relative_positions", -1)
        self.farthest = config.get("max_position_embeddings", 512) if farthest < 1 else farthest
        self.buckets = config.get("position_buckets", -1)

    def embed(self, ids: Integers, types: Integers) -> Floats:
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        if self.config.get("position_biased_input", True):
            x = x + self.tensor("embeddings.position_embeddings.weight")[: ids.shape[1]]
        if self.config.get("type_vocab_size", 0):
            x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        if "embeddings.embed_proj.weight" in self.tensors:
            x = x @ self.tensor("embeddings.embed_proj.weight").T
        return self.norm(x, "embeddings.LayerNorm")

    def attend(self, x: Floats, mask: Integers, *names: str) -> Floats:
        batch, length, hidden = x.shape
        size = hidden // self.heads

        def heads(projected: Floats) -> Floats:  # [..., tokens, hidden] -> [..., heads, tokens, size]
            return projected.reshape(*projected.shape[:-1], self.heads, size).swapaxes(-2, -3)

        query, key, value = (heads(self.linear(x, name)) for name in names)
        scores = query @ key.swapaxes(-1, -2)
        if self.config.get("relative_attention", False):
            rows = self.tensor("encoder.rel_embeddings.weight")
            if "layer_norm" in str(self.config.get("norm_rel_ebd", "none")).lower():
                rows = self.norm(rows, "encoder.LayerNorm")
            own = names[0].removesuffix("query_proj")
            of_keys, of_queries = names[1], names[0]
            if not self.config.get("share_att_key", False):
                of_keys, of_queries = f"{own}pos_key_proj", f"{own}pos_query_proj"
            found = self.rows(length)[None, None]
            if "c2p" in self.terms:
                products = query @ heads(self.linear(rows, of_keys)).swapaxes(-1, -2)
                scores = scores + np.take_along_axis(products, found, axis=-1)
            if "p2c" in self.terms:
                products = heads(self.linear(rows, of_queries)) @ key.swapaxes(-1, -2)  # [.., rows, keys]
                scores = scores + np.take_along_axis(products, found, axis=-2)
        scores = scores / np.float32(math.sqrt(size * (1 + len({"c2p", "p2c"} & set(self.terms)))))
        scores = np.where(mask[:, None, None, :] == 1, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(batch, length, hidden)
        return merged

    def rows(self, length: int) -> Integers:
        """The row of rel_embeddings for query i and key j, int64 [length, length]."""
        distance = np.arange(length)[:, None] - np.arange(length)
        span = self.farthest
        if self.buckets > 0:
            span, half = self.buckets, self.buckets // 2
            portion = np.log(np.maximum(np.abs(distance), half).astype(np.float32) / np.float32(half))
            portion = portion / np.log(np.float32((self.farthest - 1) / half)) * np.float32(half - 1)
            signed = np.sign(distance) * (np.ceil(portion) + half)
            distance = np.where(np.abs(distance) <= half, distance, signed).astype(np.int64)
        rows: Integers = np.clip(distance + span, 0, 2 * span - 1)
        return rows


class Gte(Bert):
    """As transformers 5 computes "gte", and for stretched positions as the authors' code computes "new"."""

    token_types = False

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.tensors = {name.removeprefix("gte.").removeprefix("new."): read for name, read in self.tensors.items()}
        scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
        default = 160_000.0 if config["model_type"] == "gte" else 10_000.0
        self.theta = scaling.get("rope_theta", config.get("rope_theta", default))
        self.factor = scaling.get("factor", 1.0) if "ntk" in (scaling.get("type"), scaling.get("rope_type")) else 1.0

    @classmethod
    def in_transformers(cls, config: dict[str, Any], names: Collection[str]) -> bool:
        return config["model_type"] == "gte" and not config.get("rope_scaling")

    def embed(self, ids: Integers, types: Integers) -> Floats:
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        if "embeddings.token_type_embeddings.weight" in self.tensors:
            x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        return self.norm(x, "embeddings.LayerNorm")

    def hidden(self, ids: Integers, types: Integers, mask: Integers) -> Floats:
        x, batch, length = self.embed(ids, types), *ids.shape
        size = x.shape[-1] // self.heads
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        inverse = 1 / np.power(np.float32(self.theta * self.factor), exponents) / np.float32(self.factor ** (2 / size))
        angles = np.arange(length, dtype=np.float32)[:, None] * np.concatenate([inverse, inverse])

        def turned(y: Floats) -> Floats:
            half = np.concatenate([-y[..., size // 2 :], y[..., : size // 2]], axis=-1)
            found: Floats = y * np.cos(angles) + half * np.sin(angles)
            return found

        for i in range(self.depth):
            hub, own = f"encoder.layer.{i}", f"layers.{i}"
            published = f"{hub}.attn_ln.weight" in self.tensors
            if f"{hub}.attention.qkv_proj.weight" in self.tensors:
                parts = np.split(self.linear(x, f"{hub}.attention.qkv_proj"), 3, axis=-1)
            else:
                at = f"{hub}.attention" if published else f"{own}.self_attn"
                parts = [self.linear(x, f"{at}.{part}_proj") for part in "qkv"]
            query, key, value = (y.reshape(batch, length, self.heads, size).transpose(0, 2, 1, 3) for y in parts)
            scores = turned(query) @ turned(key).transpose(0, 1, 3, 2) / np.float32(math.sqrt(size))
            scores = np.where(mask[:, None, None, :] == 1, scores, np.float32(-np.inf))
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            context = (weights / weights.sum(axis=-1, keepdims=True)) @ value
            context = context.transpose(0, 2, 1, 3).reshape(x.shape)
            output, norm, last = (
                (f"{hub}.attention.o_proj", f"{hub}.attn_ln", f"{hub}.mlp_ln")
                if published
                else (f"{own}.self_attn.o_proj", f"{own}.post_attention_layernorm", f"{own}.post_mlp_layernorm")
            )
            x = self.norm(x + self.linear(context, output), norm)
            mlp = f"{hub if published else own}.mlp"
            if published:
                up, gate = np.split(x @ self.tensor(f"{mlp}.up_gate_proj.weight").T, 2, axis=-1)
            else:
                up, gate = (x @ self.tensor(f"{mlp}.{part}_proj.weight").T for part in ("up", "gate"))
            inner = activate(self.activation, np.ascontiguousarray(gate)) * up
            x = self.norm(x + self.linear(inner, f"{mlp}.down_proj"), last)
        return x


# By transformers' model type.
PASSES: dict[str, type[Bert]] = {
    **{"bert": Bert, "electra": Electra, "distilbert": DistilBert, "mpnet": MPNet, "modernbert": ModernBert},
    **{"deberta-v2": DebertaV2, "gte": Gte, "new": Gte},
    **{"ernie": Ernie, "data2vec-text": Data2Vec},
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), Roberta),
}
