"""The judgement of rows: which can be scored, their scores and ranks, and why the others have none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank import CrossEncoder

OK = "ok"


@dataclass(frozen=True, slots=True)
class Judged:
    """A query's documents as they were judged.

    Attributes:
        scores: float32 [documents], NaN where there is none.
        ranks: int32 [documents], 1 for the best, 0 where there is no score. Ties keep the input's order.
        status: "ok", or what is wrong.
    """

    scores: NDArray[np.float32]
    ranks: NDArray[np.int32]
    status: str


def problem_of(value: Any) -> str | None:
    """Why a value cannot be scored, or None."""
    if value is None:
        return "null"
    if not isinstance(value, str):
        return f"{type(value).__name__}, not a text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "no UTF-8, or half of a surrogate pair"
    return None


def judge(model: CrossEncoder, queries: Sequence[Any], documents: Sequence[Any]) -> list[Judged]:
    """Score each query's own list of documents, all rows in one go.

    Args:
        model: The model.
        queries: Anything; what is no text is a bad row.
        documents: For each query a list of anything.

    Returns:
        A judgement for each row: of a bad row, or a bad document in it, without scores.
    """
    groups: list[tuple[str, list[str]]] = []  # what can be scored
    kept: list[list[int]] = []  # of each row, the documents in its group
    notes: list[str] = []
    for query, row in zip(queries, documents, strict=True):
        good: list[int] = []
        problem = problem_of(query)
        if problem is not None:
            notes.append(f"query: {problem}")
        elif not isinstance(row, list | tuple | np.ndarray):
            notes.append(f"documents: {'null' if row is None else f'{type(row).__name__}, not a list'}")
        else:
            bad = [(i, wrong) for i, document in enumerate(row) if (wrong := problem_of(document)) is not None]
            places = {i for i, _ in bad}
            good = [i for i in range(len(row)) if i not in places] if bad else list(range(len(row)))
            notes.append(f"{len(bad)} of {len(row)} documents: documents[{bad[0][0]}]: {bad[0][1]}" if bad else OK)
        groups.append((query, [row[i] for i in good]))
        kept.append(good)
    judged = []
    for note, row, good, (scores, order) in zip(notes, documents, kept, _score(model, groups), strict=True):
        count = len(row) if isinstance(row, list | tuple | np.ndarray) else 0
        full, ranks = np.full(count, np.nan, np.float32), np.zeros(count, np.int32)
        if good:
            at = np.array(good)
            full[at] = scores
            ranks[at[order]] = np.arange(1, len(good) + 1)
        judged.append(Judged(full, ranks, note))
    return judged


def judge_pairs(model: CrossEncoder, queries: Sequence[Any], documents: Sequence[Any]) -> list[Judged]:
    """Score pairs; ranks are among the pairs of one query. A judgement of one document for each pair."""
    rows: dict[Any, list[int]] = {}
    judged: list[Judged | None] = [None] * len(queries)
    for i, (query, document) in enumerate(zip(queries, documents, strict=True)):
        problem, bad = problem_of(query), problem_of(document)
        if problem is None and bad is None:
            rows.setdefault(query, []).append(i)
        else:
            note = f"document: {bad}" if problem is None else f"query: {problem}"
            judged[i] = Judged(np.full(1, np.nan, np.float32), np.zeros(1, np.int32), note)
    of_query = judge(model, list(rows), [[documents[i] for i in places] for places in rows.values()])
    for places, found in zip(rows.values(), of_query, strict=True):
        for at, i in enumerate(places):
            judged[i] = Judged(found.scores[at : at + 1], found.ranks[at : at + 1], found.status)
    return [found for found in judged if found is not None]


def _score(
    model: CrossEncoder, groups: Sequence[tuple[str, list[str]]]
) -> list[tuple[NDArray[np.float32], NDArray[np.intp]]]:
    """Scores of each group, and its order, best first: as `CrossEncoder.rank`, which takes one query a call."""
    if model.num_labels == 1:  # a call for all, whose batches are fuller
        pairs = [(query, document) for query, documents in groups for document in documents]
        logits = model.predict(pairs, activation_fn="identity")
        scores = np.asarray(model.activation_fn(logits[:, None]), np.float32)[:, 0]
        ends = np.cumsum([len(documents) for _, documents in groups])[:-1]
        parts = zip(np.split(scores, ends), np.split(logits, ends), strict=True) if groups else ()
        return [(of_group, np.argsort(-by, kind="stable")) for of_group, by in parts]
    found: list[tuple[NDArray[np.float32], NDArray[np.intp]]] = []
    for query, documents in groups:
        if not documents:  # of a bad row, whose query may be none
            found.append((np.zeros(0, np.float32), np.zeros(0, np.intp)))
            continue
        ranking = model.rank(query, documents)
        order = np.array([entry["corpus_id"] for entry in ranking], np.intp)
        of_row = np.zeros(len(documents), np.float32)
        of_row[order] = [entry["score"] for entry in ranking]
        found.append((of_row, order))
    return found
