"""The process of an engine: opens one or makes a conversion, and scores; what `Worker` asks.

The standard library only: it runs in peers' environments, which have no crossrank.
"""

import time
from pathlib import Path

from .process import answer, load_adapter
from .registry import Engine, Option

_opened: list[Engine] = []


def _open(adapter: str, folder: str, threads: int, options: dict[str, Option]) -> dict[str, object]:
    start = time.perf_counter()
    module = load_adapter(adapter)
    imported = time.perf_counter()
    engine: Engine = module.open(Path(folder), threads, **options)
    loaded = time.perf_counter()
    _opened.append(engine)
    said = {"facts": engine.facts, "versions": engine.versions}
    return {**said, "import_s": imported - start, "load_s": loaded - imported}


def _convert(adapter: str, source: str, output: str, options: dict[str, Option]) -> dict[str, object]:
    load_adapter(adapter).convert(Path(source), Path(output), **options)
    return {}


def _score(query: str, documents: list[str]) -> dict[str, object]:
    (engine,) = _opened
    prepared = engine.prepare(query, documents)
    start = time.perf_counter()
    result = engine.score(query, prepared)
    seconds = time.perf_counter() - start
    return {"scores": [float(score) for score in engine.read(result)], "seconds": seconds}


if __name__ == "__main__":
    answer({"open": _open, "convert": _convert, "score": _score})
