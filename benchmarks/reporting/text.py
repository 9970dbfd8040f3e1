"""What the commands print: tables on standard output, progress on a terminal's standard error."""

import itertools
import sys
from collections.abc import Callable, Sequence


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, the first to the left and the others to the right.

    >>> print(format_table([("", "nDCG@10"), ("BM25", "0.5058")]))
          nDCG@10
    BM25   0.5058
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def progress(total: int, unit: str) -> Callable[[], None]:
    """A function to call after each of ``total`` steps; it counts them on standard error where that is a terminal.

    Args:
        total: Steps in all; the line is cleared after the last.
        unit: What is counted, in the plural.
    """
    done = itertools.count(1)

    def tick() -> None:
        count = next(done)
        if sys.stderr.isatty():
            line = f"{count}/{total} {unit}" if count < total else ""
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    return tick
