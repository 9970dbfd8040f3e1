"""config.json of the architectures that the native builder knows, brought into one form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossrank._artifact.settings import count_labels, describe_padding
from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank._json import parse_dataclass

# transformers' model_type -> the family that gives structure and tensor names.
ARCHITECTURES = {
    "bert": "bert",
    "electra": "electra",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "mpnet": "mpnet",
}
DEFAULT_LABELS = 2  # transformers'
# transformers takes these for MPNet whatever its config says.
_MPNET_BUCKETS, _MPNET_PAD_ID = 32, 1
# Far above any published encoder; a config beyond it is damaged, and would be followed for hours.
_LARGEST = {"layers": 1000, "labels": 10_000}
# transformers' names of activations, and ours of the same function: it writes some formulas in several ways, which
# differ by rounding alone (gelu_fast by 1e-12, for a constant of ten digits). gelu_10 and quick_gelu are others.
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_accurate", "gelu_fast", "gelu_python_tanh", "gelu_pytorch_tanh"), "gelu_new"),
    "relu": "relu",
    **dict.fromkeys(("silu", "swish"), "silu"),
}
_OPTIMUM = 'or export_model(exporter="optimum") (in a shell --exporter optimum), which traces others'


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and settings of an encoder with a classification head.

    Attributes:
        architecture: transformers' model_type.
        family: A value of `ARCHITECTURES`.
        embedding: Width of the embeddings; ELECTRA projects it to ``hidden``.
        positions: Rows of the position table.
        position_offset: Position of the first token, ``pad_id + 1`` for RoBERTa's family and MPNet.
        token_types: Rows of the token type table, 0 without one.
        relative_buckets: Rows of MPNet's relative position table, 0 without one.
        activation: gelu, gelu_new, relu or silu.
    """

    architecture: str
    family: str
    vocabulary: int
    embedding: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    position_offset: int
    token_types: int
    relative_buckets: int
    pad_id: int
    epsilon: float
    activation: str
    labels: int

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class _BertFields:
    """Fields of bert, electra, roberta and mpnet, with transformers' defaults where it has them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    embedding_size: int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True, slots=True)
class _DistilBertFields:
    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    max_position_embeddings: int = 512
    activation: str = "gelu"


def _refuse_unsupported(config: Mapping[str, Any], architecture: Any) -> None:
    problems = []
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        problems.append(f"model_type is {architecture!r}; supported are {', '.join(ARCHITECTURES)}")
    activation = config.get("activation" if architecture == "distilbert" else "hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        problems.append(f"the activation is {activation!r:.60}; supported are {', '.join(ACTIVATIONS)}, {_OPTIMUM}")
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        problems.append(f"position_embedding_type is {positions!r}; supported is absolute, {_OPTIMUM}")
    if architecture == "mpnet":
        required = {"relative_attention_num_buckets": _MPNET_BUCKETS, "pad_token_id": _MPNET_PAD_ID}
        problems += [
            f"{name} is {config[name]!r}; transformers' MPNet computes with {value} whatever it says"
            for name, value in required.items()
            if config.get(name) not in (None, value)
        ]
    problems += [f"{name} is set" for name in ("is_decoder", "add_cross_attention") if config.get(name)]
    problems += [f"{name} is not empty" for name in ("pruned_heads", "quantization_config") if config.get(name)]
    if problems:
        raise UnsupportedModelError(join_problems("config.json", problems))


def read_config(config: Mapping[str, Any]) -> EncoderConfig:
    """Bring a config.json into one form.

    Raises:
        UnsupportedModelError: For what the native builder does not know, by name.
        CheckpointError: For missing, mistyped or contradicting fields, all at once.
    """
    architecture = config.get("model_type")
    _refuse_unsupported(config, architecture)
    family = ARCHITECTURES[str(architecture)]
    problems: list[str] = []
    if family == "distilbert":
        d = parse_dataclass(_DistilBertFields, config, problems)
        fields = None if d is None else _BertFields(
            d.vocab_size, d.dim, d.n_layers, d.n_heads, d.hidden_dim, d.max_position_embeddings,
            type_vocab_size=0, hidden_act=d.activation,
        )  # fmt: skip
    else:
        fields = parse_dataclass(_BertFields, config, problems)
    if fields is None:
        raise CheckpointError(join_problems("config.json", problems))
    pad_id, position_offset = describe_padding(config)
    labels = count_labels(config)
    result = EncoderConfig(
        architecture=str(architecture),
        family=family,
        vocabulary=fields.vocab_size,
        embedding=(family == "electra" and fields.embedding_size) or fields.hidden_size,
        hidden=fields.hidden_size,
        layers=fields.num_hidden_layers,
        heads=fields.num_attention_heads,
        intermediate=fields.intermediate_size,
        positions=fields.max_position_embeddings,
        position_offset=position_offset,
        token_types=0 if family == "mpnet" else fields.type_vocab_size,
        relative_buckets=_MPNET_BUCKETS if family == "mpnet" else 0,
        pad_id=pad_id,
        epsilon=fields.layer_norm_eps,
        activation=ACTIVATIONS[fields.hidden_act],
        labels=DEFAULT_LABELS if labels is None else labels,
    )
    counts = ("vocabulary", "embedding", "hidden", "layers", "heads", "intermediate", "positions", "labels")
    for name in counts:
        if not 1 <= getattr(result, name) <= _LARGEST.get(name, 10**7):
            problems.append(f"{name} is {getattr(result, name)}; 1 to {_LARGEST.get(name, 10**7)} expected")
    if not 0 <= result.token_types <= 10**4:
        problems.append(f"type_vocab_size is {result.token_types}; 0 to {10**4} expected")
    if not 0 < result.epsilon < 1:
        problems.append(f"layer_norm_eps is {result.epsilon}; between 0 and 1 expected")
    if not problems and result.hidden % result.heads:
        problems.append(f"the hidden size {result.hidden} is no multiple of the {result.heads} heads")
    if pad_id >= max(1, result.vocabulary):
        problems.append(f"pad_token_id is {pad_id}; the vocabulary has {result.vocabulary}")
    if problems:
        raise CheckpointError(join_problems("config.json", problems))
    return result
