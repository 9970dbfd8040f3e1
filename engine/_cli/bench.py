"""A model's speed on the machine at hand: whole calls of `CrossEncoder.score`, texts in and scores out.

It tells what to expect here. What compares crossrank with other libraries is ``benchmarks/`` in the checkout.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import count, product
from pathlib import Path
from typing import Literal

import numpy as np

from crossrank._artifact.choice import graph_order
from crossrank._artifact.manifest import PRECISIONS
from crossrank._cross_encoder import CrossEncoder
from crossrank._errors import ArtifactError, CrossrankError, InputError
from crossrank._info import ModelInfo
from crossrank._machine.busy import Neighbours
from crossrank._machine.cpu import processor_name
from crossrank._machine.device import parse_device
from crossrank._printable import printable_line
from crossrank._progress import Progress
from crossrank._text.sample_texts import sample_texts

from .tables import align_columns

Precision = Literal["fp32", "fp16", "int8"]
Score = Callable[[str, Sequence[str]], object]  # of a query and documents
Cell = tuple[str, int]  # a precision and a number of documents

# Precisions take turns, so that a slow moment of the machine hits all of them.
_TURNS = 5
# The threads of the graph that ran before still spin for a while: untimed calls until they sleep.
_SETTLE_S = 0.05
_WARM_UP_DOCUMENTS = 32  # at most per call: a large one alone could take a minute


@dataclass(frozen=True, slots=True)
class CallSpeed:
    """Calls of one size with one graph.

    Attributes:
        precision: The graph's.
        documents: Per call.
        calls: How many were timed.
        docs_per_s: Documents per second of the median call.
        p50_ms: The median call.
        p95_ms: 95 of 100 calls take no longer; None below 20 calls, which cannot tell.
        p99_ms: 99 of 100 calls take no longer; None below 100 calls, which cannot tell.
    """

    precision: str
    documents: int
    calls: int
    docs_per_s: float
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class BenchSetup:
    """What is measured, on what.

    Attributes:
        graphs: What runs, one per precision.
        skipped: A sentence for each precision that the model has and that does not run here.
        texts: Where the texts come from.
        seconds: Time for all calls.
        processor: Its name.
        crossrank: Version.
        python: Version.
    """

    graphs: tuple[ModelInfo, ...]
    skipped: tuple[str, ...]
    texts: str
    seconds: float
    processor: str
    crossrank: str
    python: str

    def __str__(self) -> str:
        first = self.graphs[0]
        versions = f"crossrank {self.crossrank}, onnxruntime {first.onnxruntime}, Python {self.python}"
        rows = [
            ("model", first.source),
            ("folder", str(first.folder)),
            ("runs on", f"{first.device}, {first.provider}, {self.processor}"),
            ("graphs", ", ".join(map(self._describe, self.graphs))),
            ("threads", f"{first.threads} ({first.threads_reason})"),
            ("max length", f"{first.max_length} tokens ({first.max_length_origin})"),
            ("versions", versions),
            ("texts", self.texts),
            ("timed", "whole calls of score(query, documents), tokenizing included, after a warm-up"),
        ]
        rows += [("not measured:", text) for text in self.skipped]
        return "\n".join(f"{name:<13} {printable_line(value)}" for name, value in rows)

    def _describe(self, graph: ModelInfo) -> str:
        """A graph, and what runs it if that is not what runs the first one."""
        by = "" if graph.provider == self.graphs[0].provider else f" by {graph.provider}"
        return f"{graph.variant} {graph.precision}{by}"


def bench(
    model: str | Path,
    *,
    documents: Sequence[int] = (1, 10, 100, 1000),
    precisions: Sequence[Precision] | None = None,
    device: str | None = None,
    threads: int | None = None,
    max_length: int | None = None,
    relevant_label: int | None = None,
    seconds: float = 20.0,
    texts: Sequence[str] | None = None,
    show_progress_bar: bool | None = None,
    on_start: Callable[[BenchSetup], object] | None = None,
) -> tuple[BenchSetup, list[CallSpeed], list[str]]:
    """Time calls of several sizes, with all precisions of a model.

    Args:
        model: As for `CrossEncoder`.
        documents: Documents per call, each at least 1.
        precisions: Which ones, or None for all that the model has for the device.
        device: As for `CrossEncoder`.
        threads: As for `CrossEncoder`.
        max_length: As for `CrossEncoder`.
        relevant_label: As for `CrossEncoder`.
        seconds: Time for all calls, once the model is loaded. They end within it: no call begins that would take
            longer. It is divided evenly between precisions and sizes; those of which it does not suffice for one call
            are left out.
        texts: Documents to draw from in turn, or None for `sample_texts`.
        show_progress_bar: Draw progress on standard error; None for only on a terminal.
        on_start: Gets what is measured, before it is.

    Returns:
        What was measured, a row for each precision and size, and what is to be said of these figures: sizes that were
        left out, and others that kept the machine busy.

    Raises:
        CrossrankError: As `CrossEncoder` and its ``score`` raise.
        InputError: If ``documents``, ``seconds`` or ``texts`` are not what they can be.
    """
    if not documents or any(size < 1 for size in documents):
        raise InputError(
            f"documents={list(documents)!r}: whole numbers of documents per call, 1 or more, at least one of them"
        )
    if not 0 < seconds < float("inf"):
        raise InputError(f"seconds={seconds!r}: the time for all calls, a number above 0")
    if texts is not None and not texts:
        raise InputError("texts is empty: at least one document to measure with, or None for made-up ones")

    load = partial(CrossEncoder, device=device, threads=threads, max_length=max_length, relevant_label=relevant_label)
    skipped: list[str] = []
    if precisions:
        models = [load(model, precision=precision) for precision in dict.fromkeys(precisions)]
    else:
        models, skipped = _load_all(load, model)
    setup = BenchSetup(
        graphs=tuple(encoder.info() for encoder in models),
        skipped=tuple(skipped),
        texts="made up, as long as MS MARCO's: passages of 12 to 193 words, median 55, for queries of about 5"
        if texts is None
        else f"{len(texts):,} given documents, in turn and over again, for made-up queries of about 5 words",
        seconds=seconds,
        processor=processor_name(),
        crossrank=version("crossrank"),
        python=platform.python_version(),
    )
    if on_start is not None:
        on_start(setup)
    scores: dict[str, Score] = {encoder.info().precision: encoder.score for encoder in models}
    neighbours = Neighbours()
    speeds, late = time_calls(scores, documents, texts=texts, seconds=seconds, show_progress_bar=show_progress_bar)
    busy = neighbours.warning(setup.graphs[0].threads)
    return setup, speeds, [*(f"not measured: {text}" for text in late), *([busy] if busy else [])]


def time_calls(
    scores: Mapping[str, Score],
    documents: Sequence[int],
    *,
    texts: Sequence[str] | None,
    seconds: float,
    show_progress_bar: bool | None = False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[CallSpeed], list[str]]:
    """Time calls of each of ``scores`` (by precision) with each number of documents; see `bench`.

    Every precision gets the same texts, and each of its calls new ones: nothing remembered makes a call look fast.

    Returns:
        A row for each precision and size, and a sentence for each of them that there is no time for.
    """
    end = clock() + seconds
    cells = [(precision, size) for size in sorted(set(documents)) for precision in scores]
    calls = {cell: _calls(cell[1], texts) for cell in cells}
    times: dict[Cell, list[float]] = {cell: [] for cell in cells}

    def call(cell: Cell, most: int | None = None) -> float:
        query, some = next(calls[cell])
        start = clock()
        scores[cell[0]](query, some[:most])
        return clock() - start

    takes = _warm_up(cells, call, lambda: end - clock())
    cells = _affordable(cells, takes, end - clock())
    progress = Progress(_TURNS * len(cells), "turns", show=show_progress_bar)
    before: Score | None = None
    credit_s = dict.fromkeys(cells, 0.0)  # what each may spend beside its first call
    for turn in range(_TURNS):
        left_s = end - clock() - sum(takes[cell] for cell in cells if not times[cell])
        # A call that takes longer than all of its share gets none: the others can use it.
        able = [cell for cell in cells if takes[cell] <= left_s / len(cells)]
        credit_s = {cell: credit_s[cell] if cell in able else 0.0 for cell in cells}
        left_s -= sum(credit_s.values())
        for cell in able:
            credit_s[cell] += left_s / (_TURNS - turn) / len(able)
        for cell in cells:
            score, start = scores[cell[0]], clock()
            if before not in (None, score):
                _settle(score, min(_SETTLE_S, credit_s[cell] / 4), clock)
            before = score
            if not times[cell] and (clock() + takes[cell] <= end or not any(times.values())):
                times[cell].append(call(cell))
                start += times[cell][0]
            while takes[cell] <= credit_s[cell] - (clock() - start):
                times[cell].append(call(cell))
                takes[cell] = float(np.median(times[cell][-_TURNS:]))
            credit_s[cell] -= clock() - start
            progress.advance(1)
    rows = product(scores, dict.fromkeys(documents))
    speeds = [_summarise(name, size, times[name, size]) for name, size in rows if times[name, size]]
    late = [cell for cell in times if not times[cell]]
    return speeds, [_describe_late(cell, takes[cell], seconds) for cell in late]


def _warm_up(
    cells: Sequence[Cell], call: Callable[[Cell, int], float], left_s: Callable[[], float]
) -> dict[Cell, float]:
    """Make untimed calls of each size, of a part of a large one, as far as time allows.

    Returns:
        What a call of each is expected to take, in seconds.
    """
    takes: dict[Cell, float] = {}
    document_s: dict[str, float] = {}
    for cell in cells:
        precision, size = cell
        if precision not in document_s:
            document_s[precision] = call(cell, 1)
        most = min(size, _WARM_UP_DOCUMENTS)
        if most > 1 and document_s[precision] * most <= left_s() / (2 * len(cells)):
            document_s[precision] = call(cell, most) / most
        takes[cell] = document_s[precision] * size
    return takes


def _affordable(cells: Sequence[Cell], takes: Mapping[Cell, float], left_s: float) -> list[Cell]:
    """The cells of which one call each is made in the time that is left: at least the one that takes least."""
    kept: set[Cell] = set()
    for cell in sorted(cells, key=lambda cell: takes[cell]):
        left_s -= takes[cell]
        if left_s >= 0 or not kept:
            kept.add(cell)
    return [cell for cell in cells if cell in kept]


def _describe_late(cell: Cell, takes_s: float, seconds: float) -> str:
    precision, size = cell
    return (
        f"{precision} with {size:,} documents, about {takes_s:,.1f} s a call: {seconds:g} seconds are too few, "
        f"{math.ceil(seconds + takes_s)} may do"
    )


def format_speeds(speeds: Sequence[CallSpeed]) -> str:
    """A line for each precision and size, and "-" where there were too few calls to tell."""
    rows: list[tuple[str, ...]] = [("precision", "documents", "docs/s", "p50 ms", "p95 ms", "p99 ms", "calls")]
    for speed in speeds:
        figures = (speed.docs_per_s, speed.p50_ms, speed.p95_ms, speed.p99_ms)
        texts = [
            "-" if figure is None else f"{figure:,.{2 if figure < 10 else 1 if figure < 100 else 0}f}"
            for figure in figures
        ]
        rows.append((speed.precision, f"{speed.documents:,}", *texts, f"{speed.calls:,}"))
    return align_columns(rows)


def _load_all(load: Callable[..., CrossEncoder], model: str | Path) -> tuple[list[CrossEncoder], list[str]]:
    """The graph of every precision that the model has, the device's usual one first, and which ones do not run."""
    models, skipped = [load(model, precision="auto")], []
    first = models[0].info()
    held = {variant.target for variant in models[0]._model.manifest.variants}
    for precision in PRECISIONS:
        if precision != first.precision:
            # On a CPU fp16 gains nothing, so that it is measured where it is there and never exported for that.
            only_there = (precision, first.device) == ("fp16", "cpu") and first.exporter != "foreign"
            try:
                models.append(load(first.folder if only_there else model, precision=precision))
            except CrossrankError as error:
                lacks = held.isdisjoint(graph_order(parse_device(first.device), precision))
                if not lacks or not isinstance(error, ArtifactError | InputError):
                    reason, *_ = str(error).splitlines()
                    skipped.append(f"{precision}: {reason}")
    return models, skipped


def _calls(size: int, texts: Sequence[str] | None) -> Iterator[tuple[str, list[str]]]:
    """A query and ``size`` documents for call after call, the same ones for the same arguments."""
    for call in count():
        seed = call * 1_000_003 + size  # calls of another size have other texts
        (query,) = sample_texts(1, kind="query", seed=seed)
        if texts is None:
            yield query, sample_texts(size, kind="document", seed=seed)
        else:
            yield query, [texts[i % len(texts)] for i in range(call * size, (call + 1) * size)]


def _settle(score: Score, seconds: float, clock: Callable[[], float]) -> None:
    start = clock()
    while clock() - start < seconds:
        score("query", ["document"])


def _summarise(precision: str, documents: int, times: Sequence[float]) -> CallSpeed:
    p50, p95, p99 = (float(np.percentile(times, share)) * 1e3 for share in (50, 95, 99))
    return CallSpeed(
        precision=precision,
        documents=documents,
        calls=len(times),
        docs_per_s=documents / p50 * 1e3,
        p50_ms=p50,
        p95_ms=p95 if len(times) >= 20 else None,
        p99_ms=p99 if len(times) >= 100 else None,
    )
