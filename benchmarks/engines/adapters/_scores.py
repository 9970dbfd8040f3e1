"""Code that adapters share: the figure of a model's output that is a document's score, and labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
