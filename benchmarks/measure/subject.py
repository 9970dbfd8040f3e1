"""A model under load in a process of its own, asked for one load at a time: model, callers and clocks all live in it.

The module is both ends: `Subject` outside, and what the process runs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.adapters.crossrank import PACKAGES
from benchmarks.engines.answer import answer, describe, load_adapter
from benchmarks.engines.registry import Engine, EngineSpec, EngineUnavailable
from benchmarks.engines.worker import EngineProcess
from benchmarks.inputs.models import BenchmarkModel
from crossrank import CrossEncoder

from .load import Answers, Callers, Score, Texts, arrivals, closed_loop, open_loop

# The ways to call a model: threads share it, shared with a bounded queue, the same with room for large requests, and
# with a deadline. A peer is shared.
SHARED, BOUNDED, ROOMY, DEADLINE = "shared", "bounded", "roomy", "deadline"

DEADLINE_MS = 50
_QUEUE_S = {BOUNDED: 0.15, ROOMY: 0.75}  # of full load may wait; 1,000 documents must fit beside others
_WARM_UP = (16, 10)  # callers, documents
_LONGEST_WARM_UP = 8  # times the shortest, until the costs of batches are measured
_OPENING_S = 300.0  # at most

Group = tuple[str, int, int | None]  # as `Callers`, with the way in place of the function


class Subject(EngineProcess):
    """An engine of this interpreter on a model, in a process of its own, warm, seen from outside.

    EngineUnavailable is raised where it cannot be opened. The load before the first that counts takes ``warm_up_s`` at
    least.
    """

    def __init__(self, spec: EngineSpec, model: BenchmarkModel, *, threads: int, warm_up_s: float) -> None:
        if spec.environment:
            raise EngineUnavailable(f"{spec.name}: load comes from its own process, which must be of this environment")
        more: dict[str, Any] = {"scratch": model.scratch, "limit_s": _OPENING_S, "warm_up_s": warm_up_s}
        super().__init__(__name__, spec, model.folder, threads=threads, **more)
        self.name = f"{spec.name}, {model.name}"

    def load(self, kind: str, *, seconds: float, **load: Any) -> dict[str, Any]:
        """Put a load on it: a method of `_Opened` with its arguments. WorkerError is raised if the process ends.

        Returns:
            ``figures`` of the first group's answers, with ``batch_ms``, the mean time of a batch meanwhile (None of a
            peer), and ``failure``, the first of what its requests failed with.
        """
        return self.ask(kind, {"seconds": seconds, **load}, limit_s=60 + 20 * seconds)


class _Opened:
    """The model, in the process."""

    def __init__(self) -> None:
        self.texts = Texts()
        self.ways: Mapping[str, Score] = {}
        self.models: list[CrossEncoder] = []  # ours, which count their batches

    def open(
        self, adapter: str, folder: str, threads: int, options: dict[str, Any], warm_up_s: float
    ) -> dict[str, object]:
        if adapter == "crossrank":
            return self._open_ours(Path(folder), options["precision"], threads, warm_up_s)
        engine = load_adapter(adapter).open(Path(folder), threads, **options)
        self.ways = {SHARED: engine.score}
        self._warm(engine.score, warm_up_s)
        return describe(engine)

    def _open_ours(self, folder: Path, precision: str, threads: int, warm_up_s: float) -> dict[str, object]:
        options: dict[str, Any] = {"precision": precision, "threads": threads, "device": "cpu"}
        model = CrossEncoder(folder, **options)

        for _ in range(_LONGEST_WARM_UP):
            self._warm(model.score, warm_up_s)
            if model.info().batch_tokens_origin != "until measured":
                break
        before, start = model.stats().tokens, time.perf_counter()
        self._warm(model.score, warm_up_s)
        per_s = (model.stats().tokens - before) / (time.perf_counter() - start)
        queues = {way: max(1, int(seconds * per_s)) for way, seconds in _QUEUE_S.items()}
        bounded = {way: CrossEncoder(folder, **options, max_queue_tokens=tokens) for way, tokens in queues.items()}
        for queued in bounded.values():
            self._warm(queued.score, warm_up_s)
        self.models = [model, *bounded.values()]
        self.ways = {
            SHARED: model.score,
            **{way: queued.score for way, queued in bounded.items()},
            DEADLINE: lambda query, documents: model.rank(query, documents, deadline_ms=DEADLINE_MS),
        }
        info = model.info()
        bounds = (
            f"{tokens}, what full load computes in {_QUEUE_S[way]} s, in open loops of {what}"
            for (way, tokens), what in zip(queues.items(), ("10 documents", "all sizes"), strict=True)
        )
        facts = {
            "precision": info.precision,
            "graph": info.file,
            "runs_on": info.provider,
            "max_queue_tokens": "; ".join(bounds),
            "batch_tokens": f"{info.batch_tokens}, {info.batch_tokens_origin}",
        }
        return describe(Engine(model.score, lambda: facts, PACKAGES))

    def _warm(self, score: Score, seconds: float) -> None:
        closed_loop([Callers(score, *_WARM_UP)], self.texts, seconds=seconds, seed=0)

    def _batches(self) -> tuple[float, int]:
        """Seconds in the model, and batches, since it was opened."""
        stats = [model.stats() for model in self.models]
        return sum(found.model_s for found in stats), sum(found.batches for found in stats)

    def _measured(self, work: Callable[[], Answers]) -> dict[str, object]:
        seconds, batches = self._batches()
        answers = work()
        seconds, batches = self._batches()[0] - seconds, self._batches()[1] - batches
        batch_ms = 1e3 * seconds / batches if batches else None
        return {"figures": answers.figures() | {"batch_ms": batch_ms}, "failure": answers.error}

    def closed(self, groups: Sequence[Group], seconds: float, seed: int) -> dict[str, object]:
        """Callers that wait for their answers."""
        callers = [Callers(self.ways[way], count, documents) for way, count, documents in groups]
        return self._measured(lambda: closed_loop(callers, self.texts, seconds=seconds, seed=seed)[0])

    def arriving(
        self, way: str, docs_per_s: float, documents: int | None, callers: int, seconds: float, seed: int
    ) -> dict[str, object]:
        """Requests at times of their own."""
        planned = arrivals(docs_per_s, documents, seconds=seconds, seed=seed)
        return self._measured(lambda: open_loop(self.ways[way], planned, self.texts, seconds=seconds, callers=callers))


if __name__ == "__main__":
    opened = _Opened()
    answer({name: getattr(opened, name) for name in ("open", "closed", "arriving")})
