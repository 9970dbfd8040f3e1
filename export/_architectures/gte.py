"""GTE: BERT with rotary positions and gated feed-forward, in its authors' names and in those of transformers 5."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from crossrank.export._graphs.encoder import (
    Attention,
    Body,
    Embeddings,
    EncoderConfig,
    GatedFeedForward,
    Layer,
)
from crossrank.export._graphs.layers import Linear

from .base import Family, Tensors, check_rotary, refuse_others, rotary, size_of_heads

# Of a config.json of the authors' own code, and of transformers 5.
_NEW, _GTE = "new", "gte"
_THETAS = {_NEW: 10_000.0, _GTE: 160_000.0}


@dataclass(frozen=True, slots=True)
class GteConfig(EncoderConfig):
    """As `EncoderConfig`.

    Attributes:
        theta: Base of the rotary frequencies.
        factor: By how much positions are stretched (NTK-aware), 1 for not at all.
    """

    theta: float = _THETAS[_GTE]
    factor: float = 1.0


class Gte(Family):
    """GTE, also known as mGTE and "new"."""

    types = (_NEW, _GTE)
    prefix = "new."
    other_prefixes = ("gte.",)
    position_types = ("rope",)
    config = GteConfig
    fields: ClassVar[Mapping[str, str]] = {**Family.fields, "theta": "rope_theta", "factor": "rope_scaling factor"}
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"token_types": 1, "activation": "gelu", "epsilon": 1e-12, "positions": 8192},
    }

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """Other norms, scores, heads and stretchings of positions."""
        known = {"layer_norm_type": "layer_norm", "logn_attention_scale": False, "logn_attention_clip1": False}
        problems = refuse_others(config, {**known, "head_dim": size_of_heads(config)})
        scaling = _scaling(config)
        kinds = [scaling[name] for name in ("rope_type", "type") if scaling.get(name)]
        if not any(kinds == [kind] * len(kinds) for kind in ("default", "ntk")):
            stated = " and ".join(map(repr, kinds))
            problems.append(f"rope_scaling is of type {stated:.60}; supported are default or ntk")
        if (whole := config.get("rope_scaling") or config.get("rope_parameters")) and not scaling:
            problems.append(f"rope_scaling is {whole!r:.60}; an object is expected")
        if scaling.get("mixed_b") is not None:
            problems.append(f"rope_scaling has mixed_b {scaling['mixed_b']!r:.60}; supported is none")
        return problems

    def read_config(self, config: Mapping[str, Any], problems: list[str]) -> EncoderConfig | None:
        """As `Family.read_config`, of either kind."""
        scaling = _scaling(config)
        theta = scaling.get("rope_theta", config.get("rope_theta", _THETAS[config["model_type"]]))
        factor = scaling.get("factor", 1.0) if "ntk" in (scaling.get("rope_type"), scaling.get("type")) else 1.0
        read = super().read_config({**config, "rope_theta": theta, "rope_scaling factor": factor}, problems)
        if not isinstance(read, GteConfig) or problems:
            return None
        if not (read.theta >= 1 and read.factor >= 1):
            problems.append(
                f"rope_theta is {read.theta}, its scaling's factor {read.factor}; 1 or more expected of both"
            )
        check_rotary(read, problems)
        return None if problems else read

    def read_body(self, tensors: Tensors, config: EncoderConfig) -> Body:
        """As `Family.read_body`."""
        assert isinstance(config, GteConfig)
        hidden, types = config.hidden, config.token_types
        embeddings = Embeddings(
            tensors.tensor("embeddings.word_embeddings.weight", config.vocabulary, hidden),
            None,
            tensors.tensor("embeddings.token_type_embeddings.weight", types, hidden) if types else None,
            tensors.norm("embeddings.norm", "embeddings.LayerNorm", hidden),
        )
        names = _TRANSFORMERS if tensors.has("layers.0.self_attn.o_proj") else _AUTHORS
        layers = (_read_layer(tensors, config, names, i) for i in tensors.numbers(names.layers, config.layers))
        return Body(embeddings, tuple(layers))


@dataclass(frozen=True, slots=True)
class _Names:
    """Of a layer's tensors. What may be one in the weights is split there in transformers' names."""

    layers: str
    query_key_value: tuple[str, ...]
    output: str
    attention_norm: str
    up_gate: tuple[str, ...]
    output_norm: str


_AUTHORS = _Names(
    "encoder.layer.",
    *(("attention.qkv_proj",), "attention.o_proj", "attn_ln", ("mlp.up_gate_proj",), "mlp_ln"),
)
_APART = ("attention.q_proj", "attention.k_proj", "attention.v_proj")  # the authors' with pack_qkv false
_TRANSFORMERS = _Names(
    "layers.",
    *(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", "post_attention_layernorm"),
    *(("mlp.up_proj", "mlp.gate_proj"), "post_mlp_layernorm"),
)


def _read_layer(tensors: Tensors, config: GteConfig, names: _Names, i: int) -> Layer:
    hidden, inner, at, label = config.hidden, config.intermediate, f"{names.layers}{i}", f"layer.{i}"

    def linears(names: tuple[str, ...], parts: tuple[str, ...], outputs: int, *, bias: bool) -> tuple[Linear, ...]:
        labels, own = [f"{label}.{name}" for name in names], [f"{at}.{part}" for part in parts]
        return tensors.linears(labels, own, hidden, outputs, bias=bias)

    parts = _APART if tensors.has(f"{at}.{_APART[0]}") else names.query_key_value
    query, key, value = linears(("query", "key", "value"), parts, hidden, bias=True)
    passing, active = linears(("gate", "up"), names.up_gate, inner, bias=False)  # what they call gate is activated
    return Layer(
        Attention(
            *(f"{label}.attention", query, key, value),
            tensors.linear(f"{label}.output", f"{at}.{names.output}", hidden, hidden),
            rotary=rotary(config.theta, config.head_size, factor=config.factor),
        ),
        tensors.norm(f"{label}.attention_norm", f"{at}.{names.attention_norm}", hidden),
        GatedFeedForward(active, tensors.linear(f"{label}.down", f"{at}.mlp.down_proj", inner, hidden), gate=passing),
        tensors.norm(f"{label}.output_norm", f"{at}.{names.output_norm}", hidden),
    )


def _scaling(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config says of how rotary positions are stretched."""
    stated = config.get("rope_scaling") or config.get("rope_parameters")
    return stated if isinstance(stated, Mapping) else {}


FAMILIES = (Gte(),)
