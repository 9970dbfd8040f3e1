"""The summary of a run's times and scores for each engine; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from benchmarks.engines.registry import ENGINES
from benchmarks.inputs.workloads import Workload

from .quality import Quality, compare_scores, measure_scores
from .turns import Floats, Series, counted, spread

_BASELINE = "st-torch-fp32"
# Which of the peaks an engine's operations are compared with.
_PEAK_OF = {"exact": "fp32", "approximate": "fp32", "int8": "int8"}


def choose_baseline(keys: Sequence[str]) -> tuple[str, str]:
    """Whose speed and whose scores those of some engines, at least one, are compared with.

    Returns:
        The baseline, sentence-transformers on torch in float32 or else the first, and the reference for scores: the
        baseline if it is exact, else the first exact engine.

    >>> choose_baseline(["crossrank-int8", "crossrank-fp32"])
    ('crossrank-int8', 'crossrank-fp32')
    """
    baseline = _BASELINE if _BASELINE in keys else keys[0]
    exact = [key for key in (baseline, *keys) if ENGINES[key].kind == "exact"]
    return baseline, exact[0] if exact else baseline


def summarize(
    series: Mapping[str, Series],
    workload: Workload,
    *,
    baseline: str,
    reference: str,
    operations: Sequence[float],
    peaks: Mapping[str, float],
    trained: bool,
) -> dict[str, dict[str, Any]]:
    """Figures of every engine, by its key, as JSON has them.

    Of the calls that count, ``docs_per_s`` and its ``ratio`` to the baseline's over the rounds; ``cpu_ms_per_doc``, of
    all threads of the engine's process, which a busy machine changes less; ``gflops``, 10^9 operations of the whole
    model per second, and ``share_of_peak``, of what the model's matrix products alone reach in its precision. Of all
    calls the agreement with the reference's scores, and ``quality`` of its rankings. None is what was not measured or
    says nothing.

    Args:
        series: Engine key -> what it gave.
        workload: What was scored.
        baseline: The engine that ratios are to.
        reference: The engine that scores are compared with.
        operations: Of each round's calls that count, together.
        peaks: Precision -> 10^9 operations per second.
        trained: Whether the model's rankings say something.
    """
    documents = [sum(len(call.documents) for call in counted(timed)) for timed in workload.rounds]
    theirs = series[baseline].round_seconds
    expected = series[reference].all_scores

    summaries = {}
    for key, found in series.items():
        seconds, scores = found.round_seconds, found.all_scores
        cpu = [sum(counted(times)) for times in found.cpu_seconds]
        gflops = median(n / s for n, s in zip(operations, seconds, strict=True)) / 1e9
        peak = peaks.get(_PEAK_OF.get(ENGINES[key].kind, ""))
        quality = _quality(workload, scores) if trained else None
        summaries[key] = {
            "docs_per_s": asdict(spread(n / s for n, s in zip(documents, seconds, strict=True))),
            "ratio": asdict(spread(their / our for our, their in zip(seconds, theirs, strict=True))),
            "cpu_ms_per_doc": asdict(spread(s / n * 1e3 for n, s in zip(documents, cpu, strict=True))),
            "gflops": round(gflops, 2),
            "share_of_peak": None if peak is None else round(gflops / peak, 4),
            "quality": quality and asdict(quality),
            **compare_scores(expected, scores),
        }
    return summaries


def _quality(workload: Workload, scores: Sequence[Floats]) -> Quality | None:
    """Of the queries that were timed, where each was scored with all of its candidates."""
    judged = workload.collection
    if judged is None:
        return None
    calls = tuple(call for timed in workload.rounds for call in timed)
    qrels = {call.query_id: judged.qrels[call.query_id] for call in calls}
    return measure_scores(replace(judged, candidates=calls, qrels=qrels), scores)
