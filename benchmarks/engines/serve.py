"""The process of an engine: opens one or makes a conversion, and scores; what `Worker` asks.

The standard library only: it runs in peers' environments, which have no crossrank.
"""

import time
from pathlib import Path

from .answer import answer, describe, load_adapter
from .registry import Engine, Option

_opened: list[Engine] = []


def _open(adapter: str, folder: str, threads: int, options: dict[str, Option]) -> dict[str, object]:
    start = time.perf_counter()
    module = load_adapter(adapter)
    imported = time.perf_counter()
    engine: Engine = module.open(Path(folder), threads, **options)
    loaded = time.perf_counter()
    _opened.append(engine)
    return {**describe(engine), "import_s": imported - start, "load_s": loaded - imported, "loaded_at": loaded}


def _convert(adapter: str, source: str, output: str, options: dict[str, Option]) -> dict[str, object]:
    load_adapter(adapter).convert(Path(source), Path(output), **options)
    return {}


def _score(query: str, documents: list[str]) -> dict[str, object]:
    (engine,) = _opened
    prepared = engine.prepare(query, documents)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = engine.score(query, prepared)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    scores = [float(score) for score in engine.read(result)]
    return {"scores": scores, "seconds": seconds, "cpu_seconds": cpu_seconds}


if __name__ == "__main__":
    answer({"open": _open, "convert": _convert, "score": _score})
