"""What is measured, by short names: the nine shapes that crossrank must serve first, and a real checkpoint."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
from .random_checkpoint import write_random_checkpoint
from .vocabulary import find_vocabulary

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
# Short name -> the name in tables, and the folder in the test data, called as in the registry. Trained weights.
CHECKPOINTS = {"minilm-l12": ("MiniLM-L12", "models/ms-marco-MiniLM-L12-v2")}

MODELS = (*SHAPES, *CHECKPOINTS)


@dataclass(frozen=True, slots=True)
class BenchmarkModel:
    """A checkpoint that every engine can load.

    Attributes:
        key: Short name, a file name's part.
        name: In tables.
        folder: The checkpoint.
        weights: Where its weights come from.
        vocabulary: Where its tokenizer's vocabulary comes from.
        trained: Whether the quality of its rankings says something.
        config: Its sizes.
        scratch: Where engines keep what they make of it.
    """

    key: str
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
    model = find_model(SHAPES[name][1] if name in SHAPES else Path(CHECKPOINTS[name][1]).name)
    assert model is not None, "SHAPES and CHECKPOINTS name registered models"
    return model


def open_model(name: str, *, bench: Path, test_data: Path) -> BenchmarkModel:
    """A model by its short name, made if it is drawn and not there yet, or a checkpoint folder.

    Args:
        name: One of `MODELS`, or a folder.
        bench: Where drawn checkpoints and what engines make of checkpoints are kept between runs.
        test_data: Has the real checkpoint; drawn ones take its vocabularies, or make theirs up where it has none.

    Raises:
        InputError: If there is neither.
    """
    kept = bench / "models"
    if name in SHAPES:
        title, shape = SHAPES[name][0], find_registered(name)
        published = find_vocabulary(shape.vocabulary, test_data)
        folder = kept / name / ("checkpoint" if published else "checkpoint-made-up-vocabulary")
        if not folder.exists():
            if sys.stderr.isatty():
                print(f"drawing the weights of {title}: seconds, for large models minutes", file=sys.stderr)
            write_random_checkpoint(folder, shape, test_data)
        vocabulary = "published" if published else "made up"
        make = partial(BenchmarkModel, name, title, folder, "random, seed 0", vocabulary, False)
        scratch = kept / name / "engines"
    elif name in CHECKPOINTS:
        title, place = CHECKPOINTS[name]
        folder = test_data / place
        make = partial(BenchmarkModel, name, title, folder, "published", "published", True)
        scratch = kept / name / "engines"
    else:
        folder = Path(name).resolve()
        make = partial(BenchmarkModel, folder.name, folder.name, folder, "of the folder", "of the folder", True)
        scratch = kept / folder.name / "engines"  # a conversion knows what it was made from
    if not (folder / "config.json").is_file():
        raise InputError(
            f"--model {name}: no checkpoint folder {folder.name}; it is one of {', '.join(MODELS)} or a folder with "
            f"config.json, tokenizer and weights (set CROSSRANK_TEST_DATA for those that come from the test data)"
        )
    source = read_model_folder(folder)
    return make(read_config(complete_config(source.config, open_weights(source.folder))), scratch)
