"""Models to measure, by short names: nine shapes that crossrank must serve first, two of the same kind, four newer."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank import InputError
from crossrank._artifact.settings import describe_inputs, read_model_folder
from crossrank._text.pairs import PairSource
from crossrank.export._architectures.checkpoint import read_tokenizer
from crossrank.export._architectures.config import complete_config, read_config
from crossrank.export._graphs.encoder import EncoderConfig
from crossrank.export._read.adapter import open_weights
from crossrank.models import RegisteredModel, find_model

from .collections import Candidates
from .random_checkpoint import find_vocabulary, has_wordpiece, write_random_checkpoint

# Short name -> the name in tables, and the registry's id, which has the sizes. Drawn at random: no hub is needed.
SHAPES = {
    "tinybert-l2": ("TinyBERT-L-2", "cross-encoder/ms-marco-TinyBERT-L2"),
    "tinybert-l4": ("TinyBERT-L-4", "cross-encoder/ms-marco-TinyBERT-L4"),
    "tinybert-l6": ("TinyBERT-L-6", "cross-encoder/ms-marco-TinyBERT-L6"),
    "electra-base": ("ELECTRA-base", "cross-encoder/ms-marco-electra-base"),
    "pt-tinybert": ("pt-tinybert", "nboost/pt-tinybert-msmarco"),
    "bert-base": ("BERT-base", "nboost/pt-bert-base-uncased-msmarco"),
    "bert-large": ("BERT-large", "nboost/pt-bert-large-msmarco"),
    "capreolus-electra-base": ("Capreolus ELECTRA-base", "Capreolus/electra-base-msmarco"),
    "bert-multilingual": ("BERT-base multilingual", "amberoad/bert-multilingual-passage-reranking-msmarco"),
}
# The same, and the folder in the test data that may have the trained weights, called as in the registry.
CHECKPOINTS = {
    "minilm-l6": ("MiniLM-L6", "models/ms-marco-MiniLM-L6-v2"),
    "minilm-l12": ("MiniLM-L12", "models/ms-marco-MiniLM-L12-v2"),
}
# As `SHAPES`, of other architectures: drawn with BERT's tokenizer in place of their own, and measured when asked for.
RERANKERS = {
    "ettin-17m": ("ettin-reranker-17m", "cross-encoder/ettin-reranker-17m-v1"),
    "ettin-32m": ("ettin-reranker-32m", "cross-encoder/ettin-reranker-32m-v1"),
    "gte-modernbert-base": ("gte-reranker-modernbert-base", "Alibaba-NLP/gte-reranker-modernbert-base"),
    "mxbai-xsmall": ("mxbai-rerank-xsmall", "mixedbread-ai/mxbai-rerank-xsmall-v1"),
}

MODELS = (*SHAPES, *CHECKPOINTS, *RERANKERS)
_WITHOUT_VOCABULARY = "checkpoint-made-up-vocabulary"

Draw = Callable[[Path, RegisteredModel, Path], object]  # as write_random_checkpoint


@dataclass(frozen=True, slots=True)
class BenchmarkModel:
    """A checkpoint that every engine can load.

    Attributes:
        weights: Where its weights come from.
        vocabulary: Where its tokenizer's vocabulary comes from.
        trained: Whether the quality of its rankings says something.
        scratch: Where engines keep what they make of it.
    """

    name: str
    folder: Path
    weights: str
    vocabulary: str
    trained: bool
    config: EncoderConfig
    scratch: Path

    def describe(self) -> dict[str, object]:
        """What a result says of it."""
        sizes = self.config
        inner = f"{sizes.layers} layers, hidden {sizes.hidden}, {sizes.heads} heads, intermediate {sizes.intermediate}"
        shape = f"{sizes.architecture}, {inner}, labels {sizes.labels}, vocabulary {sizes.vocabulary}"
        return {"name": self.name, "weights": self.weights, "vocabulary": self.vocabulary, "shape": shape}

    def pair_lengths(self, calls: Sequence[Candidates]) -> list[NDArray[np.int32]]:
        """Tokens of every pair, special tokens counted and truncated as the model does; per call int32 [documents]."""
        source = read_model_folder(self.folder)
        tokenizer = read_tokenizer(source)
        room = describe_inputs(source, tokenizer, token_types=False).max_length
        lengths = []
        for call in calls:
            query, documents = tokenizer.encode([call.query], "query"), tokenizer.encode(call.documents, "document")
            index = np.zeros(len(call.documents), np.intp)
            lengths.append(PairSource(tokenizer.template, query, documents, index, room).lengths)
        return lengths


def find_registered(name: str) -> RegisteredModel:
    """What the registry has of one of `MODELS`."""
    model = find_model(Path(CHECKPOINTS[name][1]).name if name in CHECKPOINTS else (SHAPES | RERANKERS)[name][1])
    assert model is not None, "MODELS are registered"
    return model


def title_of(name: str) -> str:
    """One of `MODELS` as tables call it."""
    return (SHAPES | CHECKPOINTS | RERANKERS)[name][0]


def open_model(
    name: str, *, bench: Path, test_data: Path, write: Draw = write_random_checkpoint, drawn: bool = False
) -> BenchmarkModel:
    """One of `MODELS`, or a checkpoint folder, else InputError.

    Weights of `MODELS` are drawn by ``write``, once, unless the test data has them and ``drawn`` is not asked for.
    Drawn checkpoints and what engines make of checkpoints are kept in ``bench`` between runs. Drawn ones take the
    vocabularies of the test data, or make theirs up where it has none.
    """
    kept = bench / "models"
    key, trained = name, True
    weights = vocabulary = "published"
    trained_folder = test_data / CHECKPOINTS[name][1] if name in CHECKPOINTS else None
    if name not in MODELS:
        folder = Path(name).resolve()
        key = title = folder.name
        weights = vocabulary = "of the folder"
    elif trained_folder and (trained_folder / "model.safetensors").is_file() and not drawn:
        title, folder = title_of(name), trained_folder
    else:
        title, shape, trained, weights = title_of(name), find_registered(name), False, "random, seed 0"
        folder = drawn_folder(shape, kept / name, test_data)
        vocabulary = "made up" if folder.name == _WITHOUT_VOCABULARY else "published"
        if not has_wordpiece(shape):
            vocabulary += f" WordPiece, filled up to {shape.vocabulary} entries, in place of the model's own"
        if not folder.exists():
            if sys.stderr.isatty():
                print(f"drawing the weights of {title}: seconds, for large models minutes", file=sys.stderr)
            write(folder, shape, test_data)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"--model {name}: no checkpoint folder {folder.name}; it is one of {', '.join(MODELS)} or a folder with "
            "config.json, tokenizer and weights"
        )
    source = read_model_folder(folder)
    config = read_config(complete_config(source.config, open_weights(source.folder)))
    scratch = kept / key / "engines"  # a conversion knows what it was made from
    return BenchmarkModel(title, folder, weights, vocabulary, trained, config, scratch)


def drawn_folder(shape: RegisteredModel, folder: Path, test_data: Path) -> Path:
    """Where the drawn checkpoint of a shape lies in a folder, which its vocabulary decides."""
    published = find_vocabulary(shape.vocabulary, test_data)
    return folder / ("checkpoint" if published else _WITHOUT_VOCABULARY)


def split_name(text: str) -> tuple[str, str]:
    """``NAME=PATH``, or a path, whose last part is its name; an equals sign in a path that is there is none.

    >>> split_name("mini=models/a"), split_name("models/a")
    (('mini', 'models/a'), ('a', 'models/a'))
    """
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else (Path(text).name, text)
