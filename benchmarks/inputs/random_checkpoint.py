"""Checkpoints in the true shape of a published model with random weights, written without torch.

Speed, memory and the error of a precision can be measured on them where no model hub answers. The quality of a
ranking cannot. Their tokenizers have BERT's own vocabularies where the test data has them, else one made up.
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

_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# In the test data.
_ENGLISH_SIZE = 30_522
_ENGLISH = Path("models", "ms-marco-MiniLM-L12-v2", "vocab.txt")
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

    The shape is of BERT or ELECTRA, with an embedding as wide as the layers. The logits of sample texts spread by
    `SPREAD`, so that their errors mean something. The folder, which must not exist, appears when it is complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_tokenizer(part, model.vocabulary, find_vocabulary(model.vocabulary, test_data))
        config = make_config(model)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        rng = np.random.default_rng(_SEED)
        tensors = {name: draw_parameter(name, shape, rng) for name, shape in parameter_shapes(model).items()}
        _save(part, tensors)
        logits = numpy_logits(
            part, config, part / "tokenizer.json", sample_pairs(), max_length=model.max_length, token_types=True
        )
        tensors[_classifier(model)] *= (SPREAD / logits.std(axis=0))[:, None]
        _save(part, tensors)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # nothing is there after the renaming


def parameter_shapes(model: RegisteredModel) -> dict[str, tuple[int, ...]]:
    """Transformers' names and shapes of the parameters of a BERT or ELECTRA sequence classifier."""
    hidden, inner = model.hidden, model.intermediate
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    base = model.architecture
    for table, rows in (("word", model.vocabulary), ("position", model.max_length), ("token_type", 2)):
        shapes[f"{base}.embeddings.{table}_embeddings.weight"] = (rows, hidden)
    norm(f"{base}.embeddings.LayerNorm")
    for i in range(model.layers):
        at = f"{base}.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", hidden, hidden)
        linear(f"{at}.attention.output.dense", hidden, hidden)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", inner, hidden)
        linear(f"{at}.output.dense", hidden, inner)
        norm(f"{at}.output.LayerNorm")
    linear("classifier.dense" if base == "electra" else "bert.pooler.dense", hidden, hidden)
    linear(_classifier(model).removesuffix(".weight"), model.labels, hidden)
    return shapes


def _classifier(model: RegisteredModel) -> str:
    return "classifier.out_proj.weight" if model.architecture == "electra" else "classifier.weight"


def make_config(model: RegisteredModel) -> dict[str, Any]:
    """The config.json of a shape."""
    electra = model.architecture == "electra"
    sizes = {
        "architectures": ["ElectraForSequenceClassification" if electra else "BertForSequenceClassification"],
        "model_type": model.architecture,
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.intermediate,
        "max_position_embeddings": model.max_length,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "id2label": {str(i): f"LABEL_{i}" for i in range(model.labels)},
        "label2id": {f"LABEL_{i}": i for i in range(model.labels)},
    }
    if electra:
        sizes["embedding_size"] = model.hidden
    if model.labels == 1:  # scores are logits: no sigmoid that rounds the difference of two engines away
        sizes["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    return sizes


def sample_pairs() -> list[tuple[str, str]]:
    """Queries and documents that the logits spread over."""
    queries = sample_texts(math.ceil(_SPREAD_PAIRS / 2), kind="query", seed=_SEED)
    return list(zip([*queries, *queries], sample_texts(_SPREAD_PAIRS, kind="document", seed=_SEED), strict=True))


def _save(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def find_vocabulary(size: int, test_data: Path) -> Path | None:
    """The published vocabulary for so many entries, or None where the test data does not have it."""
    path = test_data / (_ENGLISH if size == _ENGLISH_SIZE else _MULTILINGUAL)
    return path if path.is_file() else None


def write_tokenizer(folder: Path, size: int, published: Path | None) -> None:
    """A lower-casing BERT's vocab.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Of a published vocabulary the first entries are taken; for None one is made up, with ``[unusedN]`` up to its size.
    """
    entries = published.read_text(encoding="utf-8").split("\n")[:size] if published else _make_up_vocabulary()
    entries += [f"[unused{i}]" for i in range(size - len(entries))]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, **_SPECIAL_TOKENS}
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", _SPECIAL_TOKENS)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    build_wordpiece(folder, settings).save(str(folder / "tokenizer.json"))


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
