"""What scores are worth: nDCG@10 and MRR@10 of rankings, by ir-measures, and how near they are to a reference's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import RR, nDCG
from numpy.typing import NDArray

from crossrank._parity import kendall_tau

from ._data import Candidates, Collection, Qrels

Floats = NDArray[np.float32]

_MOST_RANKED = 1000  # documents of a call whose pairs are compared: their number grows with the square


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the judged queries; one without an answer counts as 0."""

    ndcg_at_10: float
    mrr_at_10: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near scores are to a reference's.

    Attributes:
        max_abs_delta: Largest difference of a score.
        mean_abs_delta: Mean difference.
        kendall_tau: Of the documents' order, the mean over calls; where calls have one document each, of all of them.
    """

    max_abs_delta: float
    mean_abs_delta: float
    kendall_tau: float


def compare_scores(reference: Sequence[Floats], scores: Sequence[Floats]) -> Agreement:
    """How near an engine's scores are to a reference's.

    Args:
        reference: Per call, float32 [documents].
        scores: The engine's, the same shapes.

    >>> a, b = np.array([1, 2, 3], np.float32), np.array([1, 3, 2.5], np.float32)
    >>> compare_scores([a], [b])
    Agreement(max_abs_delta=1.0, mean_abs_delta=0.5, kendall_tau=0.3333333333333333)
    """
    expected, found = np.concatenate(reference), np.concatenate(scores)
    deltas = np.abs(found.astype(np.float64) - expected)
    ranked = [(a, b) for a, b in zip(reference, scores, strict=True) if len(a) > 1] or [(expected, found)]
    taus = [kendall_tau(a[:_MOST_RANKED], b[:_MOST_RANKED]) for a, b in ranked]
    return Agreement(float(deltas.max()), float(deltas.mean()), float(np.mean(taus)))


def measure(rankings: Mapping[str, Sequence[str]], qrels: Qrels, *, relevant_grade: int) -> Quality:
    """nDCG@10 with the grades as gains, and MRR@10 of documents graded ``relevant_grade`` or better.

    Args:
        rankings: Query id -> document ids, best first.
        qrels: Query id -> document id -> grade.
        relevant_grade: What MRR counts.
    """
    # A run is scores, and tools break ties their own ways (trec_eval by falling document id): give each
    # place a score of its own.
    run = {query_id: {doc_id: -float(i) for i, doc_id in enumerate(ids)} for query_id, ids in rankings.items()}
    ndcg, mrr = nDCG @ 10, RR(rel=relevant_grade) @ 10
    found = ir_measures.calc_aggregate([ndcg, mrr], qrels, run)
    return Quality(float(found[ndcg]), float(found[mrr]))


def rerank(candidates: Candidates, scores: Floats) -> list[str]:
    """The candidates' document ids by falling score; ties keep the first stage's order.

    Args:
        candidates: A query and its documents.
        scores: float32 [documents].

    >>> rerank(Candidates("q", "", ("a", "b", "c"), ("", "", "")), np.array([1, 2, 1], np.float32))
    ['b', 'a', 'c']
    """
    return [candidates.doc_ids[i] for i in np.argsort(-scores, kind="stable")]


def measure_scores(collection: Collection, scores: Sequence[Floats]) -> Quality:
    """The quality of a model's scores.

    Args:
        collection: Judged queries and candidates.
        scores: Per query of the collection, float32 [documents].
    """
    rankings = {
        entry.query_id: rerank(entry, values) for entry, values in zip(collection.candidates, scores, strict=True)
    }
    return measure(rankings, collection.qrels, relevant_grade=collection.relevant_grade)


def measure_first_stage(collection: Collection) -> Quality:
    """The quality of the candidates' own order."""
    rankings = {entry.query_id: entry.doc_ids for entry in collection.candidates}
    return measure(rankings, collection.qrels, relevant_grade=collection.relevant_grade)
