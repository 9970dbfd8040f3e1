"""One line of progress on a terminal, nothing when piped."""

import sys
import time
from collections import deque
from threading import Lock
from typing import TextIO

from ._interrupts import not_thrown_in

_REDRAW_S = 0.1
_WAIT_S = 1.0  # for another thread to draw; longer than that it was interrupted there


class Progress:
    """A counter that redraws itself in place on standard error. Threads may share it; none waits for another to draw.

    Nothing fails for want of it: on a stream that cannot be written to, it stops drawing.

    Args:
        total: Steps in all.
        unit: What is counted, in the plural.
        show: True or False, or None to show only on a terminal.
        stream: Where to draw, standard error if None.
    """

    def __init__(self, total: int, unit: str, *, show: bool | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        if show is None or self._stream is None:  # a daemon may have closed it
            show = self._stream is not None and not self._stream.closed and self._stream.isatty()
        self._show = show
        self._total, self._unit = total, unit
        self._done = 0
        self._steps: deque[int] = deque()  # not counted yet
        self._drawing = Lock()
        self._start = time.perf_counter()
        self._drawn = 0.0

    def advance(self, steps: int) -> None:
        """Count ``steps`` more; the line is drawn at most ten times a second, and at the end."""
        self._steps.append(steps)
        if self._drawing.acquire(blocking=False):
            try:
                self._draw()
            finally:
                self._drawing.release()

    def finish(self) -> None:
        """Draw what another thread left, when no further step comes."""
        alone = self._drawing.acquire(timeout=_WAIT_S)
        try:
            self._draw()
        finally:
            if alone:
                self._drawing.release()

    def _draw(self) -> None:
        before = self._done
        while self._steps:
            self._done += self._steps.popleft()
        now = time.perf_counter()
        if self._done == before or not self._show or (now - self._drawn < _REDRAW_S and self._done < self._total):
            return
        self._drawn = now
        rate = self._done / max(now - self._start, 1e-9)
        end = "\n" if self._done >= self._total else ""
        line = f"\r{self._done}/{self._total} {self._unit}, {rate:.0f}/s\x1b[K{end}"
        try:
            self._stream.write(line)
            self._stream.flush()
        except not_thrown_in(Exception):  # the stream's, whatever it is
            self._show = False
