"""nDCG@10 and MRR@10 of rankings, by ir-measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import RR, nDCG
from numpy.typing import NDArray

from ._data import Candidates, Collection, Qrels


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the judged queries; one without an answer counts as 0."""

    ndcg_at_10: float
    mrr_at_10: float


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


def rerank(candidates: Candidates, scores: NDArray[np.float32]) -> list[str]:
    """The candidates' document ids by falling score; ties keep the first stage's order.

    Args:
        candidates: A query and its documents.
        scores: float32 [documents].

    >>> rerank(Candidates("q", "", ("a", "b", "c"), ("", "", "")), np.array([1, 2, 1], np.float32))
    ['b', 'a', 'c']
    """
    return [candidates.doc_ids[i] for i in np.argsort(-scores, kind="stable")]


def measure_scores(collection: Collection, scores: Sequence[NDArray[np.float32]]) -> Quality:
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
