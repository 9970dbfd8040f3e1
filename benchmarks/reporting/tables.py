"""Tables: aligned on a terminal or in Markdown, and the parts of the documents that the report writes."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from benchmarks.measure.turns import Spread
from crossrank._progress import Progress

Rows = Sequence[Sequence[str]]


def format_table(rows: Rows) -> str:
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


def markdown_table(rows: Rows) -> str:
    r"""Rows as a Markdown table; the first are the headings.

    >>> print(markdown_table([["engine", "docs/s"], ["a | b", "7"]]))
    | engine | docs/s |
    |---|---|
    | a \| b | 7 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def number(value: float | None) -> str:
    """A figure to three digits, at least; a dash where there is none.

    >>> number(2.345678), number(12345.6), number(None)
    ('2.35', '12,346', '-')
    """
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown(values: Iterable[float | None], form: str) -> list[str]:
    """Figures as cells, dashes where there are none.

    >>> shown([1, None], ".2f")
    ['1.00', '-']
    """
    return ["-" if value is None else f"{value:{form}}" for value in values]


def spread_cells(values: Spread | None, form: str) -> list[str]:
    """Median, minimum and maximum as cells."""
    return ["-"] * 3 if values is None else shown((values.median, values.min, values.max), form)


def progress(total: int, unit: str) -> Callable[[], None]:
    """A function to call after each of so many steps, which counts them in a line on a terminal's standard error."""
    return partial(Progress(total, unit).advance, 1)
