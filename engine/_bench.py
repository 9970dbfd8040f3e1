"""How fast a model is on the machine at hand: whole calls of `CrossEncoder.score`, texts in and scores out.

It tells what to expect here. What compares crossrank with other libraries is ``benchmarks/`` in the checkout.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from ._cross_encoder import CrossEncoder
from ._errors import CrossrankError, InputError
from ._info import ModelInfo, align_columns
from ._manifest import PRECISIONS
from ._printable import printable_line
from ._processor import processor_name
from ._progress import Progress
from ._sample_texts import sample_texts

Precision = Literal["fp32", "fp16", "int8"]
Score = Callable[[str, Sequence[str]], object]  # of a query and documents

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
        skipped: A sentence for each precision that cannot run here.
        texts: Where the texts come from.
        seconds: Time for the timed calls.
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
            ("graphs", ", ".join(f"{graph.variant} {graph.precision}" for graph in self.graphs)),
            ("threads", f"{first.threads} ({first.threads_reason})"),
            ("max length", f"{first.max_length} tokens ({first.max_length_origin})"),
            ("versions", versions),
            ("texts", self.texts),
            ("timed", "whole calls of score(query, documents), tokenizing included, after a warm-up"),
        ]
        rows += [("not measured:", text) for text in self.skipped]
        return "\n".join(f"{name:<13} {printable_line(value)}" for name, value in rows)


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
) -> tuple[BenchSetup, list[CallSpeed]]:
    """Time calls of several sizes, with all precisions of a model.

    Args:
        model: As for `CrossEncoder`.
        documents: Documents per call, each at least 1.
        precisions: Which ones, or None for all that the model has for the device.
        device: As for `CrossEncoder`.
        threads: As for `CrossEncoder`.
        max_length: As for `CrossEncoder`.
        relevant_label: As for `CrossEncoder`.
        seconds: Time for the timed calls, divided evenly between precisions and sizes. Of each there is at least one
            call, even one that takes longer.
        texts: Documents to draw from in turn, or None for `sample_texts`.
        show_progress_bar: Draw progress on standard error; None for only on a terminal.
        on_start: Gets what is measured, before it is.

    Returns:
        What was measured, and a row for each precision and size.

    Raises:
        CrossrankError: As `CrossEncoder` and its ``score`` raise.
        InputError: If ``documents``, ``seconds`` or ``texts`` are not what they can be.
    """
    if not documents or any(size < 1 for size in documents):
        raise InputError(
            f"documents={list(documents)!r}: whole numbers of documents per call, 1 or more, at least one of them"
        )
    if not 0 < seconds < float("inf"):
        raise InputError(f"seconds={seconds!r}: the time for all timed calls, a number above 0")
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
    return setup, time_calls(scores, documents, texts=texts, seconds=seconds, show_progress_bar=show_progress_bar)


def time_calls(
    scores: Mapping[str, Score],
    documents: Sequence[int],
    *,
    texts: Sequence[str] | None,
    seconds: float,
    show_progress_bar: bool | None = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[CallSpeed]:
    """Time calls of each of ``scores`` (by precision) with each number of documents; see `bench`.

    Every precision gets the same texts, and each of its calls new ones: nothing remembered makes a call look fast.
    """
    cells = [(precision, size) for size in dict.fromkeys(documents) for precision in scores]
    calls = {cell: _calls(cell[1], texts) for cell in cells}
    times: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    spent = dict.fromkeys(cells, 0.0)
    for precision, size in cells:
        query, texts_of_call = next(calls[precision, size])
        scores[precision](query, texts_of_call[:_WARM_UP_DOCUMENTS])
    progress = Progress(_TURNS * len(cells), "turns", show=show_progress_bar)
    before: Score | None = None
    for turn in range(_TURNS):
        for cell in cells:
            score = scores[cell[0]]
            if before not in (None, score):
                _settle(score, clock)
            before = score
            # In the first turn this lets at least one call through, however long it takes.
            while spent[cell] < seconds / len(cells) * (turn + 1) / _TURNS:
                query, texts_of_call = next(calls[cell])
                start = clock()
                score(query, texts_of_call)
                times[cell].append(clock() - start)
                spent[cell] += times[cell][-1]
            progress.advance(1)
    return [
        _summarise(precision, size, times[precision, size]) for precision in scores for size in dict.fromkeys(documents)
    ]


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
    """The graph of every precision that can be had, the device's usual one first, and why the others cannot."""
    models, skipped = [load(model, precision="auto")], []
    first = models[0].info()
    for precision in PRECISIONS:
        if precision != first.precision:
            # On a CPU fp16 gains nothing, so that it is measured where it is there and never exported for that.
            only_there = (precision, first.device) == ("fp16", "cpu") and first.exporter != "foreign"
            try:
                models.append(load(first.folder if only_there else model, precision=precision))
            except CrossrankError as error:
                skipped.append(f"{precision}: {error}")
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


def _settle(score: Score, clock: Callable[[], float]) -> None:
    start = clock()
    while clock() - start < _SETTLE_S:
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
