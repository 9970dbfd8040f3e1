"""The other end of a `Child`: opens an engine or makes a conversion, and answers requests until its input ends.

Runs in peers' environments, which have no crossrank: the standard library only.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from .registry import Engine, Option

_engine: Engine | None = None


def _adapter(name: str) -> Any:
    return import_module(name if "." in name else f"benchmarks.engines.adapters.{name}")


def _open(adapter: str, folder: str, threads: int, options: dict[str, Option]) -> dict[str, object]:
    global _engine
    start = time.perf_counter()
    module = _adapter(adapter)
    imported = time.perf_counter()
    _engine = module.open(Path(folder), threads, **options)
    loaded = time.perf_counter()
    assert _engine is not None
    return {
        "facts": _engine.facts,
        "versions": _engine.versions,
        "import_s": imported - start,
        "load_s": loaded - imported,
    }


def _convert(adapter: str, source: str, output: str, options: dict[str, Option]) -> dict[str, object]:
    _adapter(adapter).convert(Path(source), Path(output), **options)
    return {}


def _score(query: str, documents: list[str]) -> dict[str, object]:
    assert _engine is not None, "it is opened first"
    prepared = _engine.prepare(query, documents)
    start = time.perf_counter()
    result = _engine.score(query, prepared)
    seconds = time.perf_counter() - start
    return {"scores": [float(score) for score in _engine.read(result)], "seconds": seconds}


def _tokenize(query: str, documents: list[str]) -> dict[str, object]:
    assert _engine is not None, "it is opened first"
    if _engine.tokenize is None:
        return {"seconds": None}
    _engine.tokenize("", [])  # what a library does at the first of such calls is no tokenizing
    start = time.perf_counter()
    _engine.tokenize(query, documents)
    return {"seconds": time.perf_counter() - start}


_REQUESTS: dict[str, Callable[..., dict[str, object]]] = {
    "open": _open,
    "convert": _convert,
    "score": _score,
    "tokenize": _tokenize,
}


def main() -> None:
    """Answer requests, one a line, on what were standard input and output when the process started."""
    # Libraries print to standard output, also from C, and may read standard input: both get other files here.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(sys.stderr.fileno(), 1)
    for line in requests:
        arguments = json.loads(line)
        try:
            reply = _REQUESTS[arguments.pop("request")](**arguments)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
