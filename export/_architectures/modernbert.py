"""ModernBERT: rotary positions, norms before their parts, gated feed-forward, and windows in most layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from crossrank.export._graphs.encoder import (
    Attention,
    Body,
    Embeddings,
    EncoderConfig,
    GatedFeedForward,
    PreNormLayer,
    Step,
    StepsHead,
)
from crossrank.export._graphs.layers import Norm

from .base import ACTIVATIONS, Family, Tensors, check_rotary, rotary

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# transformers' defaults, and the field's name in configs that transformers 4 wrote.
_THETAS = {_GLOBAL: ("global_rope_theta", 160_000.0), _LOCAL: ("local_rope_theta", 10_000.0)}
_POOLINGS = ("cls", "mean")


@dataclass(frozen=True, slots=True)
class ModernBertConfig(EncoderConfig):
    """As `EncoderConfig`.

    Attributes:
        window: How far a token sees in all directions together, in the layers where it does not see all.
        every: Each so many layers, from the first on, one sees all.
        kinds: full_attention or sliding_attention for each layer; in place of ``every``.
        pooling: cls or mean.
        head_activation: Of the head.
        attention_bias: Whether the products of attention have biases.
        mlp_bias: Whether those of the feed-forwards have.
        norm_bias: Whether norms have.
        head_bias: Whether the head's dense layer has.
        theta_global: Base of the rotary frequencies of layers that see all.
        theta_local: That of the others.
    """

    window: int = 128
    every: int = 3
    kinds: tuple[str, ...] | None = None
    pooling: str = "cls"
    head_activation: str = "gelu"
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    head_bias: bool = False
    theta_global: float = _THETAS[_GLOBAL][1]
    theta_local: float = _THETAS[_LOCAL][1]

    def sees_all(self, layer: int) -> bool:
        """Whether a layer's tokens see all others."""
        return layer % self.every == 0 if self.kinds is None else self.kinds[layer] == _GLOBAL


class ModernBert(Family):
    """ModernBERT, with the head of transformers' sequence classification."""

    types = ("modernbert",)
    prefix = "model."
    config = ModernBertConfig
    fields: ClassVar[Mapping[str, str]] = {
        **{name: theirs for name, theirs in Family.fields.items() if name != "token_types"},
        **{"activation": "hidden_activation", "epsilon": "norm_eps", "window": "local_attention"},
        **{"every": "global_attn_every_n_layers", "kinds": "layer_types"},
        **{"pooling": "classifier_pooling", "head_activation": "classifier_activation"},
        **{"attention_bias": "attention_bias", "mlp_bias": "mlp_bias", "norm_bias": "norm_bias"},
        **{"head_bias": "classifier_bias", "theta_global": "global_rope_theta", "theta_local": "local_rope_theta"},
    }
    defaults: ClassVar[Mapping[str, Any]] = {"activation": "gelu", "epsilon": 1e-5, "positions": 8192}

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """Rotary positions of other kinds, and what the head does not know."""
        problems = []
        for kind, rope in [*_ropes(config).items(), ("rope_scaling", config.get("rope_scaling"))]:
            named = (rope.get("rope_type") or rope.get("type") or "default") if isinstance(rope, Mapping) else "default"
            if named != "default":
                problems.append(f"the rotary positions of {kind} are of type {named!r:.60}; supported is default")
        scaling, ropes = config.get("rope_scaling"), config.get("rope_parameters")
        if isinstance(scaling, Mapping) and "rope_theta" in scaling:
            problems.append("rope_scaling has rope_theta: transformers 5 takes it for all layers, 4 for none")
        if isinstance(ropes, Mapping) and (unknown := [str(name) for name in ropes if name not in _THETAS]):
            problems.append(f"rope_parameters has {', '.join(unknown)[:60]}; supported are {', '.join(_THETAS)}")
        pooling, activation = config.get("classifier_pooling", "cls"), config.get("classifier_activation", "gelu")
        if pooling not in _POOLINGS:
            problems.append(f"classifier_pooling is {pooling!r:.60}; supported are {', '.join(_POOLINGS)}")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            problems.append(f"classifier_activation is {activation!r:.60}; supported are {', '.join(ACTIVATIONS)}")
        reach, window = config.get("sliding_window"), config.get("local_attention", 128)
        if isinstance(reach, int) and isinstance(window, int) and reach != window // 2:
            problems.append(
                f"sliding_window is {reach} and local_attention {window}: transformers 4 takes half the latter, 5 the "
                f"former"
            )
        return problems

    def read_config(self, config: Mapping[str, Any], problems: list[str]) -> EncoderConfig | None:
        """As `Family.read_config`, of configs as transformers 4 writes them and as 5 does."""
        thetas = {}
        for kind, rope in _ropes(config).items():
            if rope is not None and not isinstance(rope, Mapping):
                problems.append(f"rope_parameters {kind} is {rope!r:.60}; an object is expected")
            elif rope is not None and "rope_theta" in rope:
                thetas[_THETAS[kind][0]] = rope["rope_theta"]
        read = super().read_config({**config, **thetas}, problems)
        if not isinstance(read, ModernBertConfig) or problems:
            return None
        if read.kinds is None and read.every < 1:
            problems.append(f"global_attn_every_n_layers is {read.every}; 1 or more expected")
        elif read.kinds is not None and (len(read.kinds) != read.layers or not set(read.kinds) <= _THETAS.keys()):
            problems.append(f"layer_types is no list of {read.layers} of {', '.join(_THETAS)}")
        if read.window < 0:
            problems.append(f"local_attention is {read.window}; 0 or more expected")
        if min(read.theta_global, read.theta_local) < 1:
            problems.append(f"rope_theta is {read.theta_global}, {read.theta_local}; 1 or more expected")
        check_rotary(read, problems)
        return None if problems else read

    def read_body(self, tensors: Tensors, config: EncoderConfig) -> Body:
        """As `Family.read_body`."""
        assert isinstance(config, ModernBertConfig)
        return Body(
            Embeddings(
                tensors.tensor("embeddings.tok_embeddings.weight", config.vocabulary, config.hidden),
                None,
                None,
                _norm(tensors, config, "embeddings.norm", "embeddings.norm"),
            ),
            tuple(_read_layer(tensors, config, i) for i in tensors.numbers("layers.", config.layers)),
            _norm(tensors, config, "final_norm", "final_norm"),
        )

    def read_head(self, tensors: Tensors, config: EncoderConfig, *, bare_projection: bool) -> StepsHead:
        """As `Family.read_head`; ``bare_projection`` is no form of this one."""
        assert isinstance(config, ModernBertConfig)
        hidden = config.hidden
        pooling: Literal["cls", "mean"] = "mean" if config.pooling == "mean" else "cls"
        dense = tensors.linear("head.dense", "head.dense", hidden, hidden, bias=config.head_bias)
        steps = (
            Step(dense, ACTIVATIONS[config.head_activation]),
            _norm(tensors, config, "head.norm", "head.norm"),
            Step(tensors.linear("head.classifier", "classifier", hidden, config.labels)),
        )
        return StepsHead(pooling, steps)


def _ropes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of the rotary positions of each kind of layer."""
    ropes = config.get("rope_parameters")
    return {kind: ropes.get(kind) for kind in _THETAS} if isinstance(ropes, Mapping) else {}


def _norm(tensors: Tensors, config: ModernBertConfig, label: str, name: str) -> Norm:
    return tensors.norm(label, name, config.hidden, bias=config.norm_bias)


def _read_layer(tensors: Tensors, config: ModernBertConfig, i: int) -> PreNormLayer:
    hidden, inner, at, label = config.hidden, config.intermediate, f"layers.{i}", f"layer.{i}"
    sees_all = config.sees_all(i)
    names = [f"{label}.{name}" for name in ("query", "key", "value")]
    query, key, value = tensors.linears(names, [f"{at}.attn.Wqkv"], hidden, hidden, bias=config.attention_bias)
    up, gate = tensors.linears([f"{label}.up", f"{label}.gate"], [f"{at}.mlp.Wi"], hidden, inner, bias=config.mlp_bias)
    return PreNormLayer(
        Attention(
            *(f"{label}.attention", query, key, value),
            tensors.linear(f"{label}.output", f"{at}.attn.Wo", hidden, hidden, bias=config.attention_bias),
            rotary=rotary(config.theta_global if sees_all else config.theta_local, config.head_size),
            window=None if sees_all else config.window // 2,
        ),
        None if i == 0 else _norm(tensors, config, f"{label}.attention_norm", f"{at}.attn_norm"),
        GatedFeedForward(
            up, tensors.linear(f"{label}.down", f"{at}.mlp.Wo", inner, hidden, bias=config.mlp_bias), gate=gate
        ),
        _norm(tensors, config, f"{label}.output_norm", f"{at}.mlp_norm"),
    )


FAMILIES = (ModernBert(),)
