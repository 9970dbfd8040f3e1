"""What crossrank is meant to reach beside others, and whether the results at hand say that it does.

A goal compares figures of one result, which were taken in turns, with one exception: long calls beside short ones.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from benchmarks.engines.registry import ENGINES, Kind

from .read_results import Result, Results

_ANY: tuple[Kind, ...] = ("exact", "approximate", "bf16", "int8")
_DOCUMENTS = 100  # per call, where throughput is compared
_OURS = ("crossrank-fp32", "crossrank-int8")


class NotMeasuredError(Exception):
    """The results do not hold what a goal compares; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A figure, and what it compares: "crossrank int8 / fastembed qint8"."""

    value: float
    of: str


@dataclass(frozen=True, slots=True)
class Goal:
    """One claim.

    Attributes:
        claim: What is compared.
        wanted: The figure that meets it.
        measure: Results -> what was reached.
        stretch: What would be better still.
        at_most: The figure may be `wanted` at most; otherwise it must be that at least.
    """

    claim: str
    wanted: float
    measure: Callable[[Results], Reached]
    stretch: float | None = None
    at_most: bool = False

    def state(self, results: Results) -> tuple[Reached | None, str]:
        """The figure, and "met", "not met" or "not measured: ..." with what is missing."""
        try:
            reached = self.measure(results)
        except NotMeasuredError as error:
            return None, f"not measured: {error}"
        met = reached.value <= self.wanted if self.at_most else reached.value >= self.wanted
        return reached, "met" if met else "not met"


def is_ours(engine: str) -> bool:
    """Whether an engine of a result is one of ours, by its name."""
    return engine.split(" ")[0] == "crossrank"


def _result(results: Results, benchmark: str, model: str, size: int | None = None) -> Result:
    found = results.find(benchmark, model, size)
    if found is None:
        at = "" if size is None else f" at {size:,} documents"
        raise NotMeasuredError(f"no {benchmark} of {model}{at}")
    return found


def _figure(result: Result, engine: str, path: str) -> float:
    value = result.figure(engine, path)
    if value is None:
        reason = result.unavailable.get(engine, f"no {path} in {result.benchmark} of {result.model}")
        raise NotMeasuredError(f"{engine}: {reason}")
    return value


def best_engine(result: Result, engines: Iterable[str], path: str, *, lowest: bool = False) -> str | None:
    """The engine with the highest, or lowest, figure among those that have it; None where none has."""
    values = {engine: value for engine in engines if (value := result.figure(engine, path)) is not None}
    return (min if lowest else max)(values, key=lambda engine: values[engine]) if values else None


def _best(result: Result, engines: Iterable[str], path: str, *, lowest: bool = False) -> str:
    best = best_engine(result, engines, path, lowest=lowest)
    if best is None:
        raise NotMeasuredError(f"no engine to compare with in {result.benchmark} of {result.model}")
    return best


def _peers(result: Result, kinds: Iterable[str]) -> list[str]:
    return [engine for engine, kind in result.kinds.items() if kind in kinds and not is_ours(engine)]


def _quotient(result: Result, ours: str, peer: str, path: str) -> Reached:
    return Reached(_figure(result, ours, path) / _figure(result, peer, path), f"{ours} / {peer}")


# Speeds are compared by their ratios to the baseline of the same round, not by documents per second: what slows the
# machine for a while slows both sides of a ratio.
def _speed(model: str, ours: str, peer: str, results: Results) -> Reached:
    result = _result(results, "throughput", model, _DOCUMENTS)
    return _quotient(result, ENGINES[ours].name, ENGINES[peer].name, "ratio.median")


def _speed_to_best(model: str, ours: str, kinds: tuple[Kind, ...], results: Results) -> Reached:
    result = _result(results, "throughput", model, _DOCUMENTS)
    peer = _best(result, _peers(result, kinds), "ratio.median")
    return _quotient(result, ENGINES[ours].name, peer, "ratio.median")


def _share_of_peak(model: str, ours: str, results: Results) -> Reached:
    name = ENGINES[ours].name
    return Reached(_figure(_result(results, "throughput", model, _DOCUMENTS), name, "share_of_peak"), name)


def _latency_to_best(model: str, documents: int, results: Results) -> Reached:
    result = _result(results, "latency", model, documents)
    ours = _best(result, (ENGINES[key].name for key in _OURS), "p50_ms", lowest=True)
    return _quotient(result, ours, _best(result, _peers(result, _ANY), "p50_ms", lowest=True), "p50_ms")


def _once(benchmark: str, path: str, model: str, ours: str, peer: str, results: Results) -> Reached:
    return _quotient(_result(results, benchmark, model), ENGINES[ours].name, ENGINES[peer].name, path)


def _long_calls(model: str, short: int, long: int, results: Results) -> Reached:
    """Documents per second of long calls beside those of short ones, of whichever of our precisions loses more."""
    results_of = [_result(results, "throughput", model, size) for size in (long, short)]
    speeds = {
        name: [_figure(result, name, "docs_per_s.median") for result in results_of]
        for name in (ENGINES[key].name for key in _OURS)
    }
    ratios = {name: at_long / at_short for name, (at_long, at_short) in speeds.items()}
    worst = min(ratios, key=lambda name: ratios[name])
    return Reached(ratios[worst], f"{worst}, {long:,} / {short:,} documents")


LONG_CALLS = ("tinybert-l2", 1000, 100_000)

GOALS: tuple[Goal, ...] = (
    Goal(
        "TinyBERT-L-2 fp32, docs/s to sentence-transformers torch fp32",
        4.2,
        partial(_speed, "tinybert-l2", "crossrank-fp32", "st-torch-fp32"),
        stretch=5,
    ),
    Goal(
        "TinyBERT-L-2 fp32, docs/s to the best exact peer",
        3,
        partial(_speed_to_best, "tinybert-l2", "crossrank-fp32", ("exact",)),
    ),
    Goal(
        "TinyBERT-L-2 int8, docs/s to the best quantized peer",
        3,
        partial(_speed_to_best, "tinybert-l2", "crossrank-int8", ("int8",)),
        stretch=3.8,
    ),
    Goal(
        "TinyBERT-L-2 int8 with encoded documents, docs/s to sentence-transformers torch fp32 with texts",
        7,
        partial(_speed, "tinybert-l2", "crossrank-int8-encoded", "st-torch-fp32"),
        stretch=8,
    ),
    Goal(
        "MiniLM-L12 fp32, docs/s to the best exact peer",
        1.8,
        partial(_speed_to_best, "minilm-l12", "crossrank-fp32", ("exact",)),
    ),
    Goal(
        "MiniLM-L12 fp32, share of the fp32 GEMM peak, by the operations of the whole model",
        1,
        partial(_share_of_peak, "minilm-l12", "crossrank-fp32"),
    ),
    Goal(
        "MiniLM-L12 int8, docs/s to the best quantized or bf16 peer",
        1.8,
        partial(_speed_to_best, "minilm-l12", "crossrank-int8", ("int8", "bf16")),
        stretch=2.3,
    ),
    Goal(
        "MiniLM-L12 int8, share of the int8 GEMM peak, by the operations of the whole model",
        0.6,
        partial(_share_of_peak, "minilm-l12", "crossrank-int8"),
        stretch=0.75,
    ),
    Goal(
        "BERT-base int8, docs/s to the best peer",
        1.5,
        partial(_speed_to_best, "bert-base", "crossrank-int8", _ANY),
        stretch=2,
    ),
    Goal(
        "TinyBERT-L-2, p50 of 10 documents to the best peer's",
        1 / 3,
        partial(_latency_to_best, "tinybert-l2", 10),
        at_most=True,
    ),
    Goal(
        "TinyBERT-L-2 fp32, import, load and first score to fastembed's",
        1 / 2,
        partial(_once, "startup", "total_s.median", "tinybert-l2", "crossrank-fp32", "fastembed-fp32"),
        at_most=True,
    ),
    Goal(
        "MiniLM-L12 fp32, peak memory to fastembed's",
        1 / 2,
        partial(_once, "memory", "peak_rss_mb", "minilm-l12", "crossrank-fp32", "fastembed-fp32"),
        at_most=True,
    ),
    Goal(
        "MiniLM-L12 int8, peak memory to fastembed's qint8",
        1 / 2,
        partial(_once, "memory", "peak_rss_mb", "minilm-l12", "crossrank-int8", "fastembed-qint8"),
        at_most=True,
    ),
    Goal(
        f"TinyBERT-L-2, docs/s of calls of {LONG_CALLS[2]:,} documents to those of {LONG_CALLS[1]:,}",
        0.95,
        partial(_long_calls, *LONG_CALLS),
    ),
)
