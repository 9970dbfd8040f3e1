"""The answers of a call: what its chunks found, as rankings and arrays in the form asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import InputError, MissingDependencyError
from crossrank._numbers import as_whole
from crossrank._schedule.chunk import Chunk, Floats, Ints
from crossrank._text.encoded import EncodedDocument, EncodedDocuments
from crossrank._text.windows import best_windows


class RankedDocument(TypedDict):
    """One entry of a ranking.

    Attributes:
        corpus_id: The document's index in the input.
        score: Its score; None in a call with a deadline that came first: such entries come last, in the input's order.
        window: Of a scored document in a call with ``max_windows`` the window that has this score, counted from 0.
        text: The document, if asked for.
    """

    corpus_id: int
    score: float | None
    window: NotRequired[int]
    text: NotRequired[str]


class Ranking(list[RankedDocument]):
    """The entries of `rank`, best first: a list, with what there is to know of the call as a whole.

    Attributes:
        scored: How many documents were scored, whatever ``top_k`` left of them.
        complete: Whether that is all of them.
        reason: Why it is not, or None.
        truncated: ``corpus_id`` of the scored documents of which the model did not see all tokens, rising.
        tokens: Of the pairs that were computed; the same pair counts once.
    """

    def __init__(
        self,
        entries: Iterable[RankedDocument] = (),
        *,
        scored: int = 0,
        complete: bool = True,
        reason: str | None = None,
        truncated: tuple[int, ...] = (),
        tokens: int = 0,
    ) -> None:
        super().__init__(entries)
        self.scored: int = scored
        self.complete: bool = complete
        self.reason: str | None = reason
        self.truncated: tuple[int, ...] = truncated
        self.tokens: int = tokens


@dataclass(frozen=True, slots=True)
class Found:
    """What a call found.

    Attributes:
        documents: How many it had.
        scored: int, the documents of which all pairs have their logits, rising.
        logits: float32 [pairs, labels], of those documents alone.
        windows: int [scored], pairs of each; None for one each.
        truncated: int, of the scored documents those of which the model did not see all tokens.
        tokens: Of the pairs that were computed, each distinct one once.
    """

    documents: int
    scored: Ints
    logits: Floats
    windows: Ints | None
    truncated: Ints
    tokens: int

    @property
    def complete(self) -> bool:
        """Whether all documents have their scores."""
        return len(self.scored) == self.documents

    def of_pairs(self) -> Ints:
        """The document of each pair, int [pairs]."""
        return self.scored if self.windows is None else np.repeat(self.scored, self.windows)


def gather(chunks: Sequence[Chunk], documents: int, labels: int) -> Found:
    """What was found until now; batches under way may go on handing over theirs.

    Args:
        chunks: Those that were read, in order.
        documents: Documents of the call, also those of no chunk.
        labels: Logits per pair.
    """
    nothing = np.zeros(0, np.intp)
    chunks = list(chunks)
    if not chunks:
        return Found(documents, nothing, np.zeros((0, labels), np.float32), None, nothing, 0)
    like = _joined(chunks, "like")
    there = _joined(chunks, "scored")[like]  # a copy, taken before logits are read
    cut = _joined(chunks, "cut")
    windows = None
    scored, rows = there, like[there]
    if chunks[0].windows is not None:
        windows = np.concatenate([chunk.windows for chunk in chunks if chunk.windows is not None])
        scored = np.logical_and.reduceat(there, np.cumsum(windows) - windows)
        rows, windows = like[np.repeat(scored, windows)], windows[scored]
    logits = _joined(chunks, "logits")[rows]
    tokens = sum(chunk.scored_tokens() for chunk in chunks)
    return Found(documents, scored.nonzero()[0], logits, windows, (cut & scored).nonzero()[0], tokens)


def _joined(chunks: Sequence[Chunk], name: str) -> NDArray[Any]:
    """An array of all chunks."""
    if len(chunks) == 1:
        only: NDArray[Any] = getattr(chunks[0], name)
        return only
    return np.concatenate([getattr(chunk, name) for chunk in chunks])


def check_top_k(top_k: Any) -> int | None:
    """A number of entries as an int, or None for all; a negative one leaves out so many of the last.

    Raises:
        InputError: If it is no whole number.
    """
    if top_k is None:
        return None
    number = as_whole(top_k)
    if number is None:
        raise InputError(
            f"top_k={top_k!r:.60}: how many to return, a negative number for all but so many of the last, or None for "
            f"all"
        )
    return number


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
    order_key: NDArray[np.floating[Any]] | None,
    top_k: int | None,
    documents: Sequence[str] | None = None,
    reason: str | None = None,
) -> Ranking:
    """The best documents first, ties in the input's order; behind them those without a score.

    Args:
        found: What was computed.
        scores: float32 [pairs], of its pairs.
        order_key: [pairs], what they are compared by; None for the scores.
        top_k: As `check_top_k`.
        documents: Their texts, if entries shall hold them.
        reason: Why documents have no score, if some have none.
    """
    key, won = scores if order_key is None else order_key, None
    if found.windows is not None:
        best = best_windows(key, found.windows)
        won = best - (np.cumsum(found.windows) - found.windows)
        key, scores = key[best], scores[best]
    order = np.argsort(-key, kind="stable")
    best_first = found.scored[order]
    if not found.complete:
        unscored = np.setdiff1d(np.arange(found.documents), found.scored, assume_unique=True)
        best_first = np.concatenate([best_first, unscored])
    ids = best_first[:top_k].tolist()
    order = order[: len(ids)]
    ranking = Ranking(
        scored=len(found.scored),
        complete=found.complete,
        reason=None if found.complete else reason,
        truncated=tuple(found.truncated.tolist()),
        tokens=found.tokens,
    )
    windows = [] if won is None else won[order].tolist()
    for i, score, window in zip_longest(ids, scores[order].tolist(), windows):
        entry: RankedDocument = {"corpus_id": i, "score": score}
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
