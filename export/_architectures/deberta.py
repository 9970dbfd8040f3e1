"""DeBERTa-v2 and -v3: BERT whose tokens see each other's distance by products with learned rows, not by positions.

A score is (q·k + q·K_r + k·Q_r) / sqrt(3 d), r the distance of two tokens in buckets: exact up to half of them,
logarithmic beyond. K_r and Q_r are projections of constants, so constants themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from crossrank.export._graphs.encoder import (
    Attention,
    Body,
    Embeddings,
    EncoderConfig,
    Head,
    Layer,
    StepsHead,
)
from crossrank.export._graphs.layers import Floats, Linear

from .base import ACTIVATIONS, Family, Tensors, refuse_others, size_of_heads

if TYPE_CHECKING:
    from crossrank.export._graphs.layouts.base import Layout

_LARGEST_SPAN = 1 << 16
_TERMS = ("c2p", "p2c")


@dataclass(frozen=True, slots=True)
class DebertaConfig(EncoderConfig):
    """The sizes, and how distances count.

    Attributes:
        relative: Whether distances count at all.
        absolute: Whether positions count, as in BERT.
        terms: Of c2p, a query with rows by distance, and p2c, a key with them.
        shared: Whether the rows by distance go through the projections of queries and keys, or have their own.
        normed: Whether they are normed first.
        buckets: Of distances to either side, or -1 for none.
        farthest: Distance of the last bucket plus one, or below 1 for the positions.
        pooled: Activation of the head.
    """

    relative: bool = False
    absolute: bool = True
    terms: tuple[str, ...] = ()
    shared: bool = False
    normed: bool = False
    buckets: int = -1
    farthest: int = -1
    pooled: str = "gelu"

    @property
    def reach(self) -> int:
        """As transformers' max_relative_positions."""
        return self.farthest if self.farthest > 0 else self.positions

    @property
    def span(self) -> int:
        """Half the rows by distance."""
        return self.buckets if self.buckets > 0 else self.reach


def distance_rows(distances: NDArray[np.int64], config: DebertaConfig) -> NDArray[np.int64]:
    """The row of each distance, query's position minus key's, in the tables of so many rows as ``2 * span``."""
    buckets = distances
    if config.buckets > 0:
        half, farthest = config.buckets // 2, np.float32((config.reach - 1) / (config.buckets // 2))
        # In float32 as transformers has it, whose rounding decides where a bucket begins.
        far = np.maximum(np.abs(distances), half).astype(np.float32) / np.float32(half)
        logarithmic = np.ceil(np.log(far) / np.log(farthest) * np.float32(half - 1)).astype(np.int64) + half
        buckets = np.where(np.abs(distances) <= half, distances, np.sign(distances) * logarithmic)
    rows: NDArray[np.int64] = np.clip(buckets + config.span, 0, 2 * config.span - 1)
    return rows


@dataclass(frozen=True, slots=True)
class Disentangled(Attention):
    """Attention with the products by distance in its bias.

    Attributes:
        keys: K_r, float32 [rows, heads * head size]; None without c2p.
        queries: Q_r, the same; None without p2c.
    """

    keys: Floats | None = None
    queries: Floats | None = None

    def added(self, layout: "Layout", query: str, key: str) -> str:
        """As `Attention.added`."""
        config, scale = _config(layout), np.float32(layout.config.head_size**-0.5)
        rows, added = partial(distance_rows, config=config), ""
        if self.keys is not None:
            added = layout.by_distance(query, self.keys * scale, rows, f"{self.name}.keys", keys=False)
        if self.queries is not None:
            across = layout.by_distance(key, self.queries * scale, rows, f"{self.name}.queries", keys=True)
            added = layout.graph.add("Add", added, across) if added else across
        return added

    def added_to_first(self, layout: "Layout", tokens: str, query: str) -> str:
        """As `Attention.added_to_first`: k·Q_r is h·(W_k Q_r) + b_k·Q_r, so that keys are not projected for it."""
        graph, config = layout.graph, _config(layout)
        heads, size = config.heads, config.head_size
        numbers = graph.constant("distances.first", distance_rows(-np.arange(config.positions), config))
        length = graph.add("Shape", tokens, start=1, end=2)
        rows = graph.add("Slice", numbers, graph.integers(0), length, graph.integers(0))
        added = ""
        if self.keys is not None:
            by_head = self.keys.reshape(-1, heads, size).transpose(1, 2, 0)
            whole = graph.add("Gather", graph.weight(f"{self.name}.keys", by_head), rows, axis=2)  # [N, D, S]
            single = graph.add(
                "Transpose", graph.add("Reshape", query, graph.integers(-1, heads, size)), perm=[1, 0, 2]
            )
            added = graph.add("Transpose", graph.add("MatMul", single, whole), perm=[1, 0, 2])  # [B, N, S]
        if self.queries is not None:
            by_head = self.queries.reshape(-1, heads, size) * np.float32(size**-0.5)
            weight = self.key.weight.reshape(-1, heads, size)
            lifted = np.ascontiguousarray(np.einsum("hnd,rnd->rhn", weight, by_head, optimize=True))
            places = graph.add("Gather", graph.weight(f"{self.name}.queries", lifted), rows, axis=0)  # [S, H, N]
            products = graph.add("MatMul", graph.add("Transpose", tokens, perm=[1, 0, 2]), places)  # [S, B, N]
            constant = np.einsum("nd,rnd->nr", self.key.bias.reshape(heads, size), by_head)
            shift = graph.add("Gather", graph.weight(f"{self.name}.shift", constant), rows, axis=1)  # [N, S]
            across = graph.add("Add", graph.add("Transpose", products, perm=[1, 2, 0]), shift)
            added = graph.add("Add", added, across) if added else across
        return added


def _config(layout: "Layout") -> DebertaConfig:
    assert isinstance(layout.config, DebertaConfig)
    return layout.config


class DebertaV2(Family):
    """DeBERTa-v2, of whose kind DeBERTa-v3 is."""

    types = ("deberta-v2",)
    prefix = "deberta."
    config = DebertaConfig
    fields: ClassVar[Mapping[str, str]] = {
        **Family.fields,
        **{"relative": "relative_attention", "absolute": "position_biased_input", "shared": "share_att_key"},
        **{"buckets": "position_buckets", "farthest": "max_relative_positions", "embedding": "embedding_size"},
        **{"pooled": "pooler_hidden_act", "terms": "pos_att_type", "normed": "norm_rel_ebd"},
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"token_types": 0, "activation": "gelu", "epsilon": 1e-7, "pooled": "gelu", "terms": (), "normed": False},
        **{"positions": 512},
    }
    parts = (
        *("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        *Family.parts[3:],
    )
    head = ("pooler.dense", "gelu", "classifier")

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """Convolutions, other sizes of heads and head, and what transformers reads otherwise or not at all."""
        sizes = {"pooler_hidden_size": config.get("hidden_size"), "attention_head_size": size_of_heads(config)}
        problems = refuse_others(config, {"conv_kernel_size": 0, **sizes})
        if unknown := [term for term in _split(config.get("pos_att_type")) if term not in _TERMS]:
            problems.append(f"pos_att_type has {', '.join(unknown)[:60]}; supported are {', '.join(_TERMS)}")
        if unknown := [norm for norm in _split(config.get("norm_rel_ebd")) if norm not in ("layer_norm", "none")]:
            problems.append(f"norm_rel_ebd is {', '.join(unknown)[:60]}; supported are layer_norm and none")
        pooled = config.get("pooler_hidden_act", "gelu")
        if not isinstance(pooled, str) or pooled not in (*ACTIVATIONS, "tanh"):
            problems.append(f"pooler_hidden_act is {pooled!r:.60}; supported are {', '.join(ACTIVATIONS)}, tanh")
        return problems

    def read_config(self, config: Mapping[str, Any], problems: list[str]) -> EncoderConfig | None:
        """As every family, with lists where config.json has words between bars."""
        said = dict(config)
        said["pos_att_type"] = [term for term in _TERMS if term in _split(config.get("pos_att_type"))]
        said["norm_rel_ebd"] = "layer_norm" in _split(config.get("norm_rel_ebd"))
        if said.get("embedding_size") == said.get("hidden_size"):
            said.pop("embedding_size", None)
        read = super().read_config(said, problems)
        if not isinstance(read, DebertaConfig):
            return None
        if read.relative and not 1 <= read.span <= _LARGEST_SPAN:
            problems.append(f"position_buckets is {read.buckets}; up to {_LARGEST_SPAN} expected")
        if read.relative and read.buckets > 0 and not 1 < read.buckets < 2 * read.reach:
            problems.append(
                f"position_buckets is {read.buckets}; 2 to {2 * read.reach - 1}, less than twice "
                f"max_relative_positions, expected"
            )
        return None if problems else replace(read, pooled=ACTIVATIONS.get(read.pooled, read.pooled))

    def read_body(self, tensors: Tensors, config: EncoderConfig) -> Body:
        """As `Family.read_body`, with each layer's rows by distance."""
        assert isinstance(config, DebertaConfig)
        embeddings, rows = self._read_embeddings(tensors, config, config.embedding or config.hidden), None
        if config.relative and config.terms:
            rows = tensors.tensor("encoder.rel_embeddings.weight", 2 * config.span, config.hidden)
            if config.normed:
                norm = tensors.norm("distances.norm", "encoder.LayerNorm", config.hidden)
                centred = rows - rows.mean(axis=-1, keepdims=True)
                deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(config.epsilon))
                rows = centred / deviation * norm.scale + norm.bias
        layers = tuple(
            self._with_distances(tensors, config, self._read_layer(tensors, config, i, None), i, rows)
            for i in tensors.numbers(self.layers, config.layers)
        )
        return Body(embeddings, layers)

    def read_head(self, tensors: Tensors, config: EncoderConfig, *, bare_projection: bool) -> Head | StepsHead:
        """As `Family.read_head`, with the activation that config.json says."""
        assert isinstance(config, DebertaConfig)
        head = super().read_head(tensors, config, bare_projection=bare_projection)
        return replace(head, activation=config.pooled) if isinstance(head, Head) else head

    def _read_embeddings(self, tensors: Tensors, config: DebertaConfig, width: int) -> Embeddings:
        """The tables, of the model's width: a projection of narrow ones is applied to them."""
        at, hidden = "embeddings", config.hidden
        words = tensors.tensor(f"{at}.word_embeddings.weight", config.vocabulary, width)
        positions = types = None
        if config.absolute:
            positions = tensors.tensor(f"{at}.position_embeddings.weight", config.positions, width)
        if config.token_types:
            types = tensors.tensor(f"{at}.token_type_embeddings.weight", config.token_types, width)
        if width != hidden:
            projection = tensors.tensor(f"{at}.embed_proj.weight", hidden, width).T
            words = words @ projection
            positions, types = (None if table is None else table @ projection for table in (positions, types))
        return Embeddings(words, positions, types, tensors.norm(f"{at}.norm", f"{at}.LayerNorm", hidden))

    def _with_distances(
        self, tensors: Tensors, config: DebertaConfig, layer: Layer, i: int, rows: Floats | None
    ) -> Layer:
        """A layer whose scores are divided by the root of their terms' number, with its rows by distance."""
        old, label, hidden = layer.attention, f"layer.{i}", config.hidden
        shrink = np.float32((1 + len(config.terms)) ** -0.5)
        keys = queries = None
        if rows is not None:
            own = f"{self.layers}{i}.attention.self.pos_"
            if "c2p" in config.terms:
                to_keys = (
                    old.key if config.shared else tensors.linear(f"{label}.keys", f"{own}key_proj", hidden, hidden)
                )
                keys = rows @ to_keys.weight + to_keys.bias
            if "p2c" in config.terms:
                to_queries = (
                    old.query
                    if config.shared
                    else tensors.linear(f"{label}.queries", f"{own}query_proj", hidden, hidden)
                )
                queries = (rows @ to_queries.weight + to_queries.bias) * shrink
        query = Linear(old.query.name, old.query.weight * shrink, old.query.bias * shrink)
        attention = Disentangled(old.name, query, old.key, old.value, old.output, keys=keys, queries=queries)
        return replace(layer, attention=attention)


def _split(value: Any) -> list[str]:
    """The words of a setting that is a list, or text with bars between them; of a list as they are, as transformers."""
    if isinstance(value, str):
        words = [word.strip() for word in value.lower().split("|")]
    else:
        words = [str(word) for word in value] if isinstance(value, list) else []
    return [word for word in words if word]


FAMILIES = (DebertaV2(),)
