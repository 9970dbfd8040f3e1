"""What scores are worth: measures of rankings, by ir-measures, and how near scores are to a reference's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import AP, RR, R, nDCG
from numpy.typing import NDArray

from benchmarks.inputs.collections import Candidates, Collection
from benchmarks.inputs.trec import Qrels, Run
from crossrank._artifact.parity import kendall_tau

Floats = NDArray[np.float32]

HEADINGS = {"ndcg_at_10": "nDCG@10", "mrr_at_10": "MRR@10", "map": "MAP", "recall_at_10": "R@10"}  # in tables

_MOST_RANKED = 1000  # documents of a call whose pairs are compared: their number grows with the square


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one query, or means over the judged queries; one without an answer counts as 0.

    Attributes:
        ndcg_at_10: With the grades as gains.
        mrr_at_10: Of documents that are graded as relevant.
        map: Average precision of these in the whole ranking.
        recall_at_10: The share of these in the first ten: of all candidates it is the first stage's, whoever ranks.
    """

    ndcg_at_10: float
    mrr_at_10: float
    map: float
    recall_at_10: float


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


def measure_queries(rankings: Mapping[str, Sequence[str]], qrels: Qrels, *, relevant_grade: int) -> dict[str, Quality]:
    """The quality of each judged query's ranking.

    Args:
        rankings: Query id -> document ids, best first; of other queries than the judged ones they do not count.
        qrels: Query id -> document id -> grade.
        relevant_grade: The lowest grade that all measures but nDCG count as relevant.
    """
    # A run is scores, and tools break ties their own ways (trec_eval by falling document id): give each
    # place a score of its own.
    run = {query_id: {doc_id: -float(i) for i, doc_id in enumerate(ids)} for query_id, ids in rankings.items()}
    names = {
        nDCG @ 10: "ndcg_at_10",
        RR(rel=relevant_grade) @ 10: "mrr_at_10",
        AP(rel=relevant_grade): "map",
        R(rel=relevant_grade) @ 10: "recall_at_10",
    }
    found: dict[str, dict[str, float]] = {query_id: {} for query_id in qrels}
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        found[metric.query_id][names[metric.measure]] = float(metric.value)
    return {query_id: Quality(**values) for query_id, values in found.items()}


def mean_quality(found: Mapping[str, Quality]) -> Quality:
    """Means over queries.

    Args:
        found: As `measure_queries` gives it, of one query at least.
    """
    rows = list(found.values())
    return Quality(**{name: float(np.mean([getattr(row, name) for row in rows])) for name in HEADINGS})


def measure(rankings: Mapping[str, Sequence[str]], qrels: Qrels, *, relevant_grade: int) -> Quality:
    """Means of `measure_queries`, which says what the arguments are."""
    return mean_quality(measure_queries(rankings, qrels, relevant_grade=relevant_grade))


def rerank(candidates: Candidates, scores: Floats) -> list[tuple[str, float]]:
    """The candidates' document ids and scores by falling score; ties keep the first stage's order.

    Args:
        candidates: A query and its documents.
        scores: float32 [documents].

    >>> rerank(Candidates("q", "", ("a", "b", "c"), ("", "", "")), np.array([1, 2, 1], np.float32))
    [('b', 2.0), ('a', 1.0), ('c', 1.0)]
    """
    return [(candidates.doc_ids[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def scored_run(collection: Collection, scores: Sequence[Floats]) -> Run:
    """A model's rankings.

    Args:
        collection: Judged queries and candidates.
        scores: Per query of the collection, float32 [documents].
    """
    return {entry.query_id: rerank(entry, values) for entry, values in zip(collection.candidates, scores, strict=True)}


def first_stage_run(collection: Collection) -> Run:
    """The candidates' own order; its scores are 0, -1, -2, ..."""
    return scored_run(
        collection, [np.arange(0, -len(entry.doc_ids), -1, dtype=np.float32) for entry in collection.candidates]
    )


def measure_run(collection: Collection, run: Run) -> dict[str, Quality]:
    """The quality of a run's ranking of each query of a collection."""
    rankings = {query_id: [doc_id for doc_id, _ in hits] for query_id, hits in run.items()}
    return measure_queries(rankings, collection.qrels, relevant_grade=collection.relevant_grade)


def measure_scores(collection: Collection, scores: Sequence[Floats]) -> Quality:
    """The quality of a model's scores, as `scored_run` takes them."""
    return mean_quality(measure_run(collection, scored_run(collection, scores)))


def measure_first_stage(collection: Collection) -> Quality:
    """The quality of the candidates' own order."""
    return mean_quality(measure_run(collection, first_stage_run(collection)))
