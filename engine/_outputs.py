"""What a call gives back: rankings, and arrays in the form asked for."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._encoded import EncodedDocument, EncodedDocuments
from ._errors import InputError, MissingDependencyError
from ._found import Found
from ._windows import best_windows


class RankedDocument(TypedDict):
    """One entry of a ranking.

    Attributes:
        corpus_id: The document's index in the input.
        score: Its score.
        window: Of a call with ``max_windows`` the window that has this score, counted from 0.
        text: The document, if asked for.
    """

    corpus_id: int
    score: float
    window: NotRequired[int]
    text: NotRequired[str]


class TimedDocument(TypedDict):
    """One entry of a ranking with a deadline: a `RankedDocument`, or one that was not scored in time.

    Attributes:
        corpus_id: The document's index in the input.
        score: Its score, or None: such entries come last, in the input's order.
        window: Of a scored document in a call with ``max_windows`` the window that has this score, counted from 0.
        text: The document, if asked for.
    """

    corpus_id: int
    score: float | None
    window: NotRequired[int]
    text: NotRequired[str]


Entry = TypeVar("Entry", bound=RankedDocument | TimedDocument)


class Ranking(list[Entry], Generic[Entry]):
    """The entries of `rank`, best first: a list, with what there is to know of the call as a whole.

    Attributes:
        scored: How many documents were scored, whatever ``top_k`` left of them.
        complete: Whether that is all of them.
        reason: Why it is not, or None.
        truncated: ``corpus_id`` of the scored documents of which the model did not see all tokens, rising.
    """

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        scored: int = 0,
        complete: bool = True,
        reason: str | None = None,
        truncated: tuple[int, ...] = (),
    ) -> None:
        super().__init__(entries)
        self.scored: int = scored
        self.complete: bool = complete
        self.reason: str | None = reason
        self.truncated: tuple[int, ...] = truncated


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


def rank_found(
    found: Found,
    scores: NDArray[np.float32],
    top_k: int | None,
    documents: Sequence[str] | None = None,
    reason: str | None = None,
) -> Ranking[Any]:
    """Documents by falling score, ties in the input's order; behind them those without a score.

    Args:
        found: What was computed.
        scores: float32 [pairs], of its pairs.
        top_k: How many to return, or None for all.
        documents: Their texts, if entries shall hold them.
        reason: Why documents have no score, if some have none.
    """
    won: list[int] = []
    if found.windows is not None:
        scores, windows = best_windows(scores, found.windows)
    order = np.argsort(-scores, kind="stable")
    if found.windows is not None:
        won = windows[order].tolist()
    unscored = np.setdiff1d(np.arange(found.documents), found.scored, assume_unique=True)
    ids = np.concatenate([found.scored[order], unscored])[:top_k].tolist()
    ranking = Ranking[Any](
        scored=len(found.scored),
        complete=found.complete,
        reason=None if found.complete else reason,
        truncated=tuple(found.truncated.tolist()),
    )
    for i, score, window in zip_longest(ids, scores[order][:top_k].tolist(), won[: len(ids)]):
        entry = {"corpus_id": i, "score": score}
        if window is not None:
            entry["window"] = window
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
