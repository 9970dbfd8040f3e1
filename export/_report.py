"""The stages of an export, as a person at a terminal sees them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

# Told the name of a stage when it begins and, when it is done, its seconds.
Report: TypeAlias = Callable[[str, float | None], None]


@contextmanager
def stage(report: Report | None, name: str) -> Iterator[None]:
    """Report the beginning and the end of what runs inside."""
    start = time.perf_counter()
    try:
        if report is not None:  # inside: a line that is begun is ended, whatever stops it
            report(name, None)
        yield
    finally:
        if report is not None:
            report(name, time.perf_counter() - start)


def terminal_report() -> Report | None:
    """A line per stage on standard error, or None where that is no terminal."""
    return _draw if sys.stderr is not None and sys.stderr.isatty() else None  # a daemon may have closed it


def _draw(name: str, seconds: float | None) -> None:
    end = "..." if seconds is None else f"{seconds:6.2f} s\n"
    sys.stderr.write(f"\r{name:<34} {end}")
    sys.stderr.flush()
