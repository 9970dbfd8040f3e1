"""A process for each model under load, asked for one load at a time: model, callers and clocks all live in it."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any, cast

from benchmarks.engines.child import thread_variables
from benchmarks.engines.conversions import model_folder
from benchmarks.engines.environments import SetupError
from benchmarks.engines.registry import EngineSpec
from benchmarks.engines.worker import EngineUnavailable, WorkerError
from benchmarks.inputs.models import BenchmarkModel
from crossrank import CrossEncoder
from crossrank._proof import Subject as ProofSubject

from .load import Answers, Callers, Score, Texts, arrivals, closed_loop, open_loop

# The ways to call a model: threads share it, a lock around it, shared with a bounded queue, the same with room for
# large requests, with a deadline, and its runner without the scheduler. A peer is shared.
SHARED, LOCKED, BOUNDED, ROOMY, DEADLINE, DIRECT = "shared", "locked", "bounded", "roomy", "deadline", "direct"

DEADLINE_MS = 50
QUEUE_S = {BOUNDED: 0.15, ROOMY: 0.75}  # of full load may wait; 1,000 documents must fit beside others
WARM_UP = (16, 10)  # callers, documents
_LONGEST_WARM_UP = 8  # times the shortest, until the costs of batches are measured
_OPENING_S = 300.0  # at most


@dataclass(frozen=True, slots=True)
class Group:
    """Callers of a closed loop, as `Callers` with the way in place of the function."""

    way: str
    callers: int
    documents: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load gave: answers of each group, and the mean time of a batch meanwhile (None of a peer)."""

    groups: list[Answers]
    batch_ms: float | None


class Subject:
    """A model in a process of its own, seen from outside; `open_subject` gives one.

    Attributes:
        facts: What runs.
        versions: Package -> version.
    """

    def __init__(self, name: str, opening: tuple[EngineSpec, Path, int, float]) -> None:
        context = get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opening), daemon=True)
        self._process.start()
        theirs.close()
        self.facts, self.versions = cast(
            tuple[dict[str, object], dict[str, str]], self._reply(_OPENING_S, EngineUnavailable)
        )

    def closed(self, groups: Sequence[Group], *, seconds: float, seed: int) -> Measured:
        """Callers that wait for their answers. Raises WorkerError if the process ends or takes far too long."""
        return cast(Measured, self._ask(seconds, "closed", groups, seconds, seed))

    def open(
        self, way: str, docs_per_s: float, documents: int | None, *, seconds: float, callers: int, seed: int
    ) -> Measured:
        """Requests at times of their own. Raises WorkerError as `closed`."""
        return cast(Measured, self._ask(seconds, "open", way, docs_per_s, documents, seconds, callers, seed))

    def overhead(self, way: str, to: str, documents: int, *, seconds: float) -> float:
        """How much longer a lone call takes one way than the other, as a share. Raises WorkerError as `closed`."""
        return cast(float, self._ask(seconds, "overhead", way, to, documents, seconds))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(1)
        self._process.kill()
        self._process.join()

    def _ask(self, seconds: float, *request: object) -> object:
        try:
            self._connection.send(request)
        except OSError as error:
            raise WorkerError(f"{self._name}: its process has ended") from error
        return self._reply(60 + 20 * seconds, WorkerError)

    def _reply(self, limit_s: float, failure: type[WorkerError]) -> object:
        try:
            if not self._connection.poll(limit_s):
                self.close()
                raise failure(f"{self._name}: no answer within {limit_s:.0f} s")
            reply = self._connection.recv()
        except EOFError as error:
            self.close()
            raise failure(f"{self._name}: its process ended with exit code {self._process.exitcode}") from error
        if isinstance(reply, str):
            self.close()
            raise failure(f"{self._name}: {reply}")
        return reply


@contextmanager
def open_subject(spec: EngineSpec, model: BenchmarkModel, *, threads: int, warm_up_s: float) -> Iterator[Subject]:
    """Open an engine of this interpreter on a model, warm.

    Args:
        spec: The engine.
        model: The checkpoint.
        threads: Of the engine.
        warm_up_s: Load before the first that counts, at least.

    Raises:
        EngineUnavailable: If it cannot be opened.
    """
    if spec.environment:
        raise EngineUnavailable(f"{spec.name}: load comes from its own process, which must be of this environment")
    try:
        folder = model_folder(spec.model, model.folder, model.scratch, threads=threads)
    except SetupError as error:
        raise EngineUnavailable(str(error)) from error
    subject = Subject(f"{spec.name}, {model.name}", (spec, folder.resolve(), threads, warm_up_s))
    try:
        yield subject
    finally:
        subject.close()


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model in this process; of ours the two that count their batches."""

    ways: Mapping[str, Score]
    facts: dict[str, object]
    versions: dict[str, str]
    models: tuple[CrossEncoder, ...] = ()

    def batches(self) -> tuple[float, int]:
        """Seconds in the model, and batches, since it was opened."""
        stats = [model.stats() for model in self.models]
        return sum(found.model_s for found in stats), sum(found.batches for found in stats)


def _open_ours(spec: EngineSpec, folder: Path, threads: int, warm_up_s: float, texts: Texts) -> _Opened:
    options: dict[str, Any] = {"precision": spec.options["precision"], "threads": threads, "device": "cpu"}
    model, lock = CrossEncoder(folder, **options), Lock()
    opened = model._model
    labels = opened.manifest.head.labels
    direct = ProofSubject(opened.tokenizer, opened.backend, opened.manifest.inputs.max_length, labels)

    def locked(query: str, documents: list[str]) -> object:
        with lock:
            return model.score(query, documents)

    def warm(score: Score) -> None:
        closed_loop([Callers(score, *WARM_UP)], texts, seconds=warm_up_s, seed=0)

    for _ in range(_LONGEST_WARM_UP):
        warm(model.score)
        if model.info().batch_tokens_origin != "until measured":
            break
    before, start = model.stats().tokens, time.perf_counter()
    warm(model.score)
    per_s = (model.stats().tokens - before) / (time.perf_counter() - start)
    queues = {way: max(1, int(seconds * per_s)) for way, seconds in QUEUE_S.items()}
    bounded = {way: CrossEncoder(folder, **options, max_queue_tokens=tokens) for way, tokens in queues.items()}
    for queued in bounded.values():
        warm(queued.score)
    ways: dict[str, Score] = {
        SHARED: model.score,
        LOCKED: locked,
        **{way: queued.score for way, queued in bounded.items()},
        DEADLINE: lambda query, documents: model.rank(query, documents, deadline_ms=DEADLINE_MS),
        DIRECT: lambda query, documents: direct.logits([(query, document) for document in documents]),
    }
    info = model.info()
    facts = {
        "precision": info.precision,
        "graph": info.file,
        "batch_tokens": info.batch_tokens,
        "batch_tokens_origin": info.batch_tokens_origin,
        "max_queue_tokens": "; ".join(
            f"{tokens}, what full load computes in {QUEUE_S[way]} s, in open loops of {what}"
            for (way, tokens), what in zip(queues.items(), ("10 documents", "all sizes"), strict=True)
        ),
    }
    adapter = import_module("benchmarks.engines.adapters._scores")
    return _Opened(
        ways, facts, adapter.versions("crossrank", "onnxruntime", "tokenizers", "numpy"), (model, *bounded.values())
    )


def _open_peer(spec: EngineSpec, folder: Path, threads: int, warm_up_s: float, texts: Texts) -> _Opened:
    adapter = import_module(spec.adapter if "." in spec.adapter else f"benchmarks.engines.adapters.{spec.adapter}")
    engine = adapter.open(folder, threads, **spec.options)
    closed_loop([Callers(engine.score, *WARM_UP)], texts, seconds=warm_up_s, seed=0)
    return _Opened({SHARED: engine.score}, dict(engine.facts), engine.versions)


def _serve(connection: Connection, opening: tuple[EngineSpec, Path, int, float]) -> None:
    """The process: open the model, then answer requests until nobody is left to ask."""
    spec, folder, threads, warm_up_s = opening
    os.environ |= thread_variables(threads)
    os.dup2(2, 1)  # what libraries print is no result
    texts = Texts()
    try:
        open_model = _open_ours if spec.adapter == "crossrank" else _open_peer
        opened = open_model(spec, folder, threads, warm_up_s, texts)
        connection.send((opened.facts, opened.versions))
        requests = _requests(opened, texts)
        while True:
            request, *arguments = connection.recv()
            connection.send(requests[request](*arguments))
    except EOFError:
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _requests(opened: _Opened, texts: Texts) -> dict[str, Callable[..., object]]:
    def measured(work: Callable[[], list[Answers]]) -> Measured:
        seconds, batches = opened.batches()
        answers = work()
        seconds, batches = opened.batches()[0] - seconds, opened.batches()[1] - batches
        return Measured(answers, 1e3 * seconds / batches if batches else None)

    def closed(groups: Sequence[Group], seconds: float, seed: int) -> Measured:
        callers = [Callers(opened.ways[group.way], group.callers, group.documents) for group in groups]
        return measured(lambda: closed_loop(callers, texts, seconds=seconds, seed=seed))

    def arriving(
        way: str, docs_per_s: float, documents: int | None, seconds: float, callers: int, seed: int
    ) -> Measured:
        planned = arrivals(docs_per_s, documents, seconds=seconds, seed=seed)
        return measured(lambda: [open_loop(opened.ways[way], planned, texts, seconds=seconds, callers=callers)])

    def overhead(way: str, to: str, documents: int, seconds: float) -> float:
        names, stop = [way, to], time.perf_counter() + seconds
        ratios: list[float] = []
        while not ratios or time.perf_counter() < stop:
            query, chosen = texts.take(documents)
            opened.ways[to](query, chosen)  # so that both find the same words known
            took = {}
            for name in names:
                start = time.perf_counter()
                opened.ways[name](query, chosen)
                took[name] = time.perf_counter() - start
            ratios.append(took[way] / took[to])
            names.reverse()
        return median(ratios) - 1

    return {"closed": closed, "open": arriving, "overhead": overhead}
