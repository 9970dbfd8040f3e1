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
    if report is not None:
        report(name, None)
    try:
        yield
    finally:
        if report is not None:
            report(name, time.perf_counter() - start)


def terminal_report() -> Report | None:
    """A line per stage on standard error, or None where that is no terminal."""
    return _draw if sys.stderr.isatty() else None


def _draw(name: str, seconds: float | None) -> None:
    end = "..." if seconds is None else f"{seconds:6.2f} s\n"
    sys.stderr.write(f"\r{name:<34} {end}")
    sys.stderr.flush()
