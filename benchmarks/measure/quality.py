"""Measures of rankings, by ir-measures, the luck in their differences, and the distance to a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import AP, RR, R, nDCG

from benchmarks.inputs.collections import Candidates, Collection
from benchmarks.inputs.trec import Qrels, Run
from crossrank._artifact.parity import kendall_tau

from .turns import Floats

HEADINGS = {"ndcg_at_10": "nDCG@10", "mrr_at_10": "MRR@10", "map": "MAP", "recall_at_10": "R@10"}  # in tables

_MOST_RANKED = 1000  # documents of a call whose pairs are compared: their number grows with the square
_RESAMPLES = 9_999  # the smallest p value is 1 / 10,000; up to 13 queries all sign flips are tried
_SEED = 0
_BATCH = 500  # flips at a time: thousands of queries must fit into memory
_EQUAL = 1e-9  # what the same ranking may differ by in a measure's last bits


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


def compare_scores(reference: Sequence[Floats], scores: Sequence[Floats]) -> dict[str, float]:
    """How near an engine's scores are to a reference's; per call, float32 [documents].

    Kendall's tau is of the documents' order, the mean over calls; where calls have one document each, of all of them.

    >>> a, b = np.array([1, 2, 3], np.float32), np.array([1, 3, 2.5], np.float32)
    >>> compare_scores([a], [b])
    {'max_abs_delta': 1.0, 'mean_abs_delta': 0.5, 'kendall_tau': 0.3333333333333333}
    """
    expected, found = np.concatenate(reference), np.concatenate(scores)
    deltas = np.abs(found.astype(np.float64) - expected)
    ranked = [(a, b) for a, b in zip(reference, scores, strict=True) if len(a) > 1] or [(expected, found)]
    taus = [kendall_tau(a[:_MOST_RANKED], b[:_MOST_RANKED]) for a, b in ranked]
    figures = {"max_abs_delta": deltas.max(), "mean_abs_delta": deltas.mean(), "kendall_tau": np.mean(taus)}
    return {name: float(value) for name, value in figures.items()}


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
    """Means over queries, one at least."""
    rows = list(found.values())
    return Quality(**{name: float(np.mean([getattr(row, name) for row in rows])) for name in HEADINGS})


def rerank(candidates: Candidates, scores: Floats) -> list[tuple[str, float]]:
    """The candidates' document ids and scores by falling score; ties keep the first stage's order.

    >>> rerank(Candidates("q", "", ("a", "b", "c"), ("", "", "")), np.array([1, 2, 1], np.float32))
    [('b', 2.0), ('a', 1.0), ('c', 1.0)]
    """
    return [(candidates.doc_ids[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def scored_run(collection: Collection, scores: Sequence[Floats]) -> Run:
    """A model's rankings, by its scores of each query of the collection, float32 [documents]."""
    return {entry.query_id: rerank(entry, values) for entry, values in zip(collection.candidates, scores, strict=True)}


def first_stage_run(collection: Collection) -> Run:
    """The candidates' own order; its scores are 0, -1, -2, ..."""
    lengths = (len(entry.doc_ids) for entry in collection.candidates)
    return scored_run(collection, [-np.arange(length, dtype=np.float32) for length in lengths])


def measure_run(collection: Collection, run: Run) -> dict[str, Quality]:
    """The quality of a run's ranking of each query of a collection."""
    rankings = {query_id: [doc_id for doc_id, _ in hits] for query_id, hits in run.items()}
    return measure_queries(rankings, collection.qrels, relevant_grade=collection.relevant_grade)


def measure_scores(collection: Collection, scores: Sequence[Floats]) -> Quality:
    """The quality of a model's scores, as `scored_run` takes them."""
    return mean_quality(measure_run(collection, scored_run(collection, scores)))


def compare_queries(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Compare a measure's values, query by query, with another system's.

    ``difference`` is of the means, positive where the system is better; it is on so many queries ``better``, ``worse``
    and ``equal``.

    The p value is that of the paired randomization test with a fixed seed, which assumes nothing about how
    differences are spread (Smucker, Allan and Carterette, CIKM 2007): which system a value came from is drawn anew,
    query by query. It is not corrected for how many comparisons are made.

    >>> compare_queries([0.5, 1.0, 0.75], [0.25, 0.5, 0.5])  # 2 of 8 ways to flip signs are as far from 0
    {'difference': 0.3333333333333333, 'p_value': 0.25, 'better': 3, 'worse': 0, 'equal': 0}
    """
    from scipy import stats  # type: ignore[import-untyped]  # here: most commands compare nothing

    differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
    differences[np.abs(differences) < _EQUAL] = 0
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    if better + worse < 2:
        p_value = 1.0  # a single difference is as large with the other sign
    else:
        # Flipping the sign of 0 changes nothing, so only the others are drawn.
        test = stats.permutation_test(
            (differences[differences != 0],),
            lambda flipped, axis: flipped.sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            rng=_SEED,
        )
        p_value = float(test.pvalue)
    counts = {"better": better, "worse": worse, "equal": len(differences) - better - worse}
    return {"difference": float(differences.mean()), "p_value": p_value, **counts}
