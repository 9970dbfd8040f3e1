"""What a call gives back: rankings, and arrays in the form asked for."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from ._encoded import EncodedDocument, EncodedDocuments
from ._errors import InputError, MissingDependencyError


class RankedDocument(TypedDict):
    """One entry of a ranking: the document's index in the input, its score, and its text if asked for."""

    corpus_id: int
    score: float
    text: NotRequired[str]


def check_top_k(top_k: int | None) -> None:
    """Raise `InputError` unless ``top_k`` is a number of documents, or None for all."""
    if top_k is not None and (isinstance(top_k, bool) or not hasattr(top_k, "__index__") or top_k < 0):
        raise InputError(f"top_k={top_k!r}: how many to return, 0 or more, or None for all")


def kept_texts(documents: Sequence[str | EncodedDocument] | EncodedDocuments) -> Sequence[str]:
    """The documents' texts, to be returned with their scores.

    Raises:
        InputError: If one of them is encoded, which has no text.
    """
    if any(isinstance(document, EncodedDocument) for document in documents):
        raise InputError("return_documents=True: encoded documents keep no texts; take yours at each entry's corpus_id")
    return [document for document in documents if not isinstance(document, EncodedDocument)]


def rank_scores(
    scores: NDArray[np.float32], top_k: int | None, documents: Sequence[str] | None = None
) -> list[RankedDocument]:
    """Documents by falling score; ties keep the input's order.

    Args:
        scores: float32 [documents].
        top_k: How many to return, or None for all.
        documents: Their texts, if entries shall hold them.

    >>> rank_scores(np.array([0.5, 2.0, 0.5], np.float32), 2)
    [{'corpus_id': 1, 'score': 2.0}, {'corpus_id': 0, 'score': 0.5}]
    """
    ranking: list[RankedDocument] = []
    for i in np.argsort(-scores, kind="stable")[:top_k].tolist():
        entry: RankedDocument = {"corpus_id": i, "score": float(scores[i])}
        if documents is not None:
            entry["text"] = documents[i]
        ranking.append(entry)
    return ranking


def to_tensor(values: Any) -> Any:
    """An array as a torch tensor.

    Raises:
        MissingDependencyError: If torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("convert_to_tensor=True needs torch: pip install torch") from error
    return torch.as_tensor(values)
