"""The way of one call through the engine: modules entered, switches between them, Python calls.

The central path should be short enough to read: each module that a call enters is one that a reader must open, each
switch between two of them a jump that he must follow. Counted are the calls of crossrank's own Python functions while
one `rank` runs, on the calling thread, and beside it on all threads. `python -m tests.engine.test_way` prints them.
"""

import sys
import threading
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType

import crossrank
from crossrank import CrossEncoder

_ENGINE = Path(crossrank.__file__).resolve().parent
_QUERY = "how many people live in berlin"

Step = tuple[int, str]  # thread, module


def test_one_call_takes_no_longer_way_than_today() -> None:
    """Modules do not depend on the machine, calls and switches hardly: they may vary with what a pool takes over."""
    figures = trace_rank(calls=5)
    here, everywhere = zip(*figures.values(), strict=True)
    assert all(1 < a <= b for a, b in zip(here, everywhere, strict=True))
    assert figures["modules entered"][0] <= 30
    assert figures["Python calls"][0] <= 450


def trace_rank(documents: int = 20, *, threads: int = 2, calls: int = 25) -> dict[str, tuple[float, float]]:
    """Count what one `rank` of so many documents enters, with the embedded model.

    Returns:
        Medians of modules entered, switches and Python calls, each on the caller's thread and on all.
    """
    log: list[Step] = []  # with the file of the function that was called
    texts = [f"passage {i}: berlin had {'many ' * (i % 7)}people in 20{i:02}" for i in range(documents)]

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            log.append((threading.get_ident(), frame.f_code.co_filename))

    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(note)  # before the model's threads start
    try:
        model = CrossEncoder(threads=threads)
        for _ in range(3):
            model.rank(_QUERY, texts)
        sys.setprofile(note)
        paths = []
        for _ in range(calls):
            log.clear()
            model.rank(_QUERY, texts)
            paths.append(list(log))
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])
    here = threading.get_ident()
    ours = [[(thread, module) for thread, file in path if (module := _module(file))] for path in paths]
    views = [[step for step in path if step[0] == here] for path in ours], ours
    return {
        name: (median(map(count, views[0])), median(map(count, views[1])))
        for name, count in (
            ("modules entered", lambda path: len({module for _, module in path})),
            ("switches", _switches),
            ("Python calls", len),
        )
    }


@cache  # a link costs a look at the disk
def _module(file: str) -> str:
    """Name of the engine's module in a file; empty for another's."""
    path = Path(file).resolve()
    return str(path.relative_to(_ENGINE).with_suffix("")) if path.is_relative_to(_ENGINE) else ""


def _switches(path: list[Step]) -> int:
    """How often the next call of a thread is in another module."""
    of_threads: dict[int, list[str]] = {}
    for thread, module in path:
        of_threads.setdefault(thread, []).append(module)
    return sum(a != b for modules in of_threads.values() for a, b in pairwise(modules))


if __name__ == "__main__":
    for name, (here, everywhere) in trace_rank().items():
        print(f"{name}: {here:g} on the caller's thread, {everywhere:g} on all")
