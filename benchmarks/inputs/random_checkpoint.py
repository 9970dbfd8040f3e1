"""Checkpoints in the true shape of a published model with random weights, written without torch.

Speed, memory and the error of a precision can be measured on them where no model hub answers. The quality of a
ranking cannot. Their tokenizers have BERT's own vocabularies where the test data has them, else one made up; those of
models that have another kind are BERT's too, filled up to the size of the true vocabulary.
"""

import json
import math
import shutil
import string
import tempfile
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import normalizers

from crossrank._text.sample_texts import sample_texts
from crossrank.export._prove.reference import numpy_logits
from crossrank.export._read.tokenizers.wordpiece import build_wordpiece
from crossrank.models import RegisteredModel

from .parameters import parameter_shapes

Tensors = dict[str, NDArray[np.float32]]

SPREAD = 1.5  # standard deviation of the logits of pairs of sample texts
_SEED = 0
_SPREAD_PAIRS = 24
# Of linear layers by a part of their name, the first that fits. Attention that chooses, and a residual that
# outweighs the feed-forward layer, carry the text into the [CLS] row through 24 layers; else all texts would
# score alike, and what tells them apart would be rounding.
_GAINS = {
    **dict.fromkeys(("query", "key", "q_lin", "k_lin", "attn.q", "attn.k", "Wqkv"), 1.4),
    **{"attention": 1.0, "output.dense": 0.5, "lin2": 0.5, "attn.Wo": 3.0, "mlp.Wo": 0.3},
}

_IDENTITY = "torch.nn.modules.linear.Identity"
# How transformers calls an architecture, and what config.json has of it, as published, beside the sizes.
_BERT_FIELDS = {"type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
_FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _BERT_FIELDS),
    "electra": ("Electra", _BERT_FIELDS),
    "modernbert": (
        "ModernBert",
        {
            **{"classifier_pooling": "mean", "norm_eps": 1e-5},
            **{"local_attention": 128, "global_attn_every_n_layers": 3},
            **{"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
            **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), False),
        },
    ),
    "deberta-v2": (
        "DebertaV2",
        {
            **{"type_vocab_size": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-7, "position_biased_input": False},
            **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
            **{"position_buckets": 256, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm"},
            **{"pooler_hidden_act": "gelu", "pooler_dropout": 0},
        },
    ),
}
_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# In the test data.
_ENGLISH = Path("models", "ms-marco-MiniLM-L12-v2", "vocab.txt")
_MULTILINGUAL_SIZE = 105_879
_MULTILINGUAL = Path("tokenizers", "bert-base-multilingual-cased", "vocab.txt")
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation + "“”’–°•"
_NUMBERS = 2100  # counts and years


def draw_parameter(name: str, shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Random values for a parameter that transformers calls ``name``."""
    draw = rng.standard_normal(tuple(shape), np.float32)
    if "layernorm" in name.lower().replace("_", "") or (len(shape) == 1 and "norm" in name):
        return draw * np.float32(0.2) + 1 if name.endswith("weight") else draw * np.float32(0.1)
    if name.endswith("bias"):
        return draw * np.float32(0.1)
    if "embeddings." in name:
        return draw * np.float32(1 if "word" in name else 0.5)
    if "relative" in name:
        return draw
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    return draw * np.float32(gain / shape[1] ** 0.5)  # a gain of 1 keeps the width of what flows through


def write_random_checkpoint(folder: Path, model: RegisteredModel, test_data: Path) -> None:
    """A checkpoint as its authors would publish it: config.json, model.safetensors and the tokenizer's files.

    The shape is of BERT or ELECTRA, with an embedding as wide as the layers, of ModernBERT or of DeBERTa-v2. The logits
    of sample texts spread by `SPREAD`, so that their errors mean something. The folder, which must not exist, appears
    when it is complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_tokenizer(part, model.vocabulary, find_vocabulary(model.vocabulary, test_data))
        if not has_wordpiece(model):
            _generalize_tokenizer(part, model.max_length)
        config, chain = make_config(model), _is_chain(model)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save = _save_chain if chain else _save
        rng = np.random.default_rng(_SEED)
        shapes = dict(parameter_shapes(config, model.labels))
        if chain:
            shapes["head.norm.bias"] = (model.hidden,)  # a module of its own has one, whatever the transformer has
        tensors = {name: draw_parameter(name, shape, rng) for name, shape in shapes.items()}
        save(part, tensors)
        logits = numpy_logits(
            part,
            config,
            part / "tokenizer.json",
            sample_pairs(),
            max_length=model.max_length,
            token_types=has_wordpiece(model),
            root=part if chain else None,
        )
        last = next(name for name in ("classifier.out_proj.weight", "classifier.weight") if name in tensors)
        tensors[last] *= (SPREAD / logits.std(axis=0))[:, None]
        save(part, tensors)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # nothing is there after the renaming


def has_wordpiece(model: RegisteredModel) -> bool:
    """Whether the tokenizer of a drawn checkpoint is of the published one's kind, else it stands in for another."""
    return model.architecture in ("bert", "electra")


def _is_chain(model: RegisteredModel) -> bool:
    """Whether a published model is a transformer and a chain of modules, which the registry does not say."""
    return model.id.startswith("cross-encoder/ettin-")


def make_config(model: RegisteredModel) -> dict[str, Any]:
    """The config.json of a shape."""
    chain = _is_chain(model)
    name, fields = _FIELDS[model.architecture]
    sizes = {
        "architectures": [name + ("Model" if chain else "ForSequenceClassification")],
        "model_type": model.architecture,
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.intermediate,
        "max_position_embeddings": model.max_length,
        **fields,
        "pad_token_id": 0,
        "id2label": {str(i): f"LABEL_{i}" for i in range(model.labels)},
        "label2id": {f"LABEL_{i}": i for i in range(model.labels)},
    }
    if model.architecture == "electra":
        sizes["embedding_size"] = model.hidden
    if chain:
        return sizes | {"classifier_pooling": "cls", "local_rope_theta": 160_000.0}
    if model.labels == 1:  # scores are logits: no sigmoid that rounds the difference of two engines away
        sizes["sentence_transformers"] = {"activation_fn": _IDENTITY}
    return sizes


def sample_pairs() -> list[tuple[str, str]]:
    """Queries and documents that the logits spread over."""
    queries = sample_texts(math.ceil(_SPREAD_PAIRS / 2), kind="query", seed=_SEED)
    return list(zip([*queries, *queries], sample_texts(_SPREAD_PAIRS, kind="document", seed=_SEED), strict=True))


def _save(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _save_chain(folder: Path, tensors: Tensors) -> None:
    """As sentence-transformers writes it: a transformer, and in modules behind it what transformers has as its head."""
    _save(folder, {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    hidden = len(tensors["head.norm.weight"])
    dense = {"in_features": hidden, "module_input_name": "sentence_embedding"}
    up = {"out_features": hidden, "bias": False, "module_output_name": "sentence_embedding"}
    down = {"out_features": len(tensors["classifier.weight"]), "bias": True, "module_output_name": "scores"}
    gelu = {"activation_function": "torch.nn.modules.activation.GELU"}
    pooling = {"embedding_dimension": hidden, "pooling_mode": "cls", "include_prompt": True}
    modules: tuple[
        tuple[str, str, str, dict[str, object]], ...
    ] = (  # folder, type, parameters here and there, settings
        ("", "base.modules.transformer.Transformer", "", {}),
        ("1_Pooling", "sentence_transformer.modules.pooling.Pooling", "", pooling),
        ("2_Dense", "base.modules.dense.Dense", "head.dense linear", dense | up | gelu),
        ("3_LayerNorm", "sentence_transformer.modules.layer_norm.LayerNorm", "head.norm norm", {"dimension": hidden}),
        ("4_Dense", "base.modules.dense.Dense", "classifier linear", dense | down | {"activation_function": _IDENTITY}),
    )
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind, _, _) in enumerate(modules)
    ]
    read = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    transformer = {"transformer_task": "feature-extraction", "modality_config": read}
    files: dict[str, object] = {
        "modules.json": listed,
        "config_sentence_transformers.json": {"model_type": "CrossEncoder", "activation_fn": _IDENTITY},
        "sentence_bert_config.json": transformer | {"module_output_name": "token_embeddings"},
        **{f"{path}/config.json": settings for path, _, _, settings in modules[1:]},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path, _, names, _ in modules:
        if names:
            ours, theirs = names.split()
            _save(folder / path, {f"{theirs}{n[len(ours) :]}": v for n, v in tensors.items() if n.startswith(ours)})


def find_vocabulary(size: int, test_data: Path) -> Path | None:
    """The published vocabulary for so many entries, else the English one; None where the test data does not have it."""
    path = test_data / (_MULTILINGUAL if size == _MULTILINGUAL_SIZE else _ENGLISH)
    return path if path.is_file() else None


def write_tokenizer(folder: Path, size: int, published: Path | None) -> None:
    """A lower-casing BERT's vocab.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Of a published vocabulary the first entries are taken; for None one is made up. ``[unusedN]`` fill up either.
    """
    entries = published.read_text(encoding="utf-8").split("\n")[:size] if published else _make_up_vocabulary()
    entries += [f"[unused{i}]" for i in range(size - len(entries))]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, **_SPECIAL_TOKENS}
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", _SPECIAL_TOKENS)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    build_wordpiece(folder, settings).save(str(folder / "tokenizer.json"))


def _generalize_tokenizer(folder: Path, max_length: int) -> None:
    """Have tokenizer.json alone say what a tokenizer is: that of a model which has another, and no token types."""
    (folder / "vocab.txt").unlink()
    file, names = folder / "tokenizer_config.json", ["input_ids", "attention_mask"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": names,
    }
    file.write_text(json.dumps(settings | _SPECIAL_TOKENS, indent=2) + "\n", encoding="utf-8")


def _make_up_vocabulary() -> list[str]:
    """WordPieces that made-up texts have about as many of as of BERT's, within a few percent.

    Characters, numbers, and the words and endings that `crossrank._text.sample_texts` makes its texts of, each of them
    at the beginning of a word and, with ``##``, within one. Other texts have half as many tokens again as with BERT's,
    which knows thousands of words more.
    """
    lists = tomllib.loads((resources.files("crossrank._text") / "sample_words.toml").read_text(encoding="utf-8"))
    words = normalizers.BertNormalizer(lowercase=True).normalize_str(" ".join(lists.values())).split()
    pieces = [*_CHARACTERS, *words]
    numbers = map(str, range(_NUMBERS))
    return list(dict.fromkeys([*_SPECIAL_TOKENS.values(), *pieces, *numbers, *(f"##{piece}" for piece in pieces)]))
