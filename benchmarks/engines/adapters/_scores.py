"""Code that adapters share: the figure of a model's output that is a document's score, batches, versions."""

import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines.registry import Engine

BATCH = 32  # documents of a batch where a library leaves it to its caller: sentence-transformers' default


def relevance(logits: Any) -> NDArray[np.float64]:
    """Logits [documents] or [documents, labels] -> one score per document: of two labels, the second's lead."""
    values = np.asarray(logits, np.float64)
    values = values.reshape(len(values), -1)
    if values.shape[1] > 2:
        raise ValueError(f"a score per document needs a model with one or two labels, this one has {values.shape[1]}")
    return values[:, 0] if values.shape[1] == 1 else values[:, 1] - values[:, 0]


def from_probabilities(probabilities: Sequence[float]) -> NDArray[np.float64]:
    """The logits that a sigmoid, or a softmax over two labels, made float32 probabilities of.

    Near 1 these are coarse: a logit of 11 comes back within 4e-3, and none above 16.6 does.
    """
    p = np.clip(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny, 1 - 2.0**-24)
    return np.log(p) - np.log1p(-p)


def labels_of(folder: Path) -> int:
    """Labels of a checkpoint or of what was made of it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return len(config.get("id2label") or ()) or int(config.get("num_labels", 2))  # 2 is transformers' default


def versions(*packages: str) -> dict[str, str]:
    """The installed versions."""
    return {package: metadata.version(package) for package in packages}


def batches(texts: Sequence[str], size: int = BATCH) -> list[list[str]]:
    """Texts in their order, so many at a time."""
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]


def plain_engine(
    folder: Path, split: Any, logits: Callable[[Any], Any], facts: dict[str, str], packages: dict[str, str]
) -> Engine:
    """A model behind transformers' tokenizer, as people call it: batches in the documents' order, padded and cut.

    ``logits`` gives [documents, labels] for what the tokenizer, ``split``, gives.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    limit = int(config["max_position_embeddings"])  # of a BERT-like model
    kind = "np" if facts["graph"] != "torch" else "pt"

    def features(query: str, documents: list[str]) -> Any:
        queries = [query] * len(documents)
        return split(queries, documents, padding=True, truncation=True, max_length=limit, return_tensors=kind)

    def score(query: str, documents: list[str]) -> object:
        return np.concatenate([logits(features(query, batch)) for batch in batches(documents)])

    facts |= {"batches": f"{BATCH} in the given order"}
    return Engine(score, facts, packages, read=relevance)
