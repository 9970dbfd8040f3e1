"""The log of ``crossrank serve``: lines of JSON on standard error, those of a moment together."""

import asyncio
import json
import logging
import time
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, TextIO

from ._service import raised

_LOG_S = 0.05  # that a line may wait for others


class Formatter(logging.Formatter):
    """A line of JSON for each record, of an exception without its message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = raised(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines to standard error, those of a moment together.

    Each time lets other threads have Python's lock, and the event loop then waits for it beside busy ones. What warns,
    and what no event loop logs, is written at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno >= logging.WARNING:
                self.flush()
            elif len(self._lines) == 1:
                asyncio.get_running_loop().call_later(_LOG_S, self.flush)
        except RuntimeError:  # no event loop runs here
            self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what there is."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
                super().flush()


@lru_cache(1)
def _second(time_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_s))


def log_as_json() -> None:
    """Have the process log lines of JSON to standard error, without what these do not tell."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as Python's logging cookbook has it: nobody looks for who has logged
    handler = Handler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it says nothing of requests that we do not
