"""The report: README's table, the performance page's with the plot, the goals in the benchmarks' README."""

import argparse
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.reporting.goals import is_ours
from benchmarks.reporting.plots import Panel, draw
from benchmarks.reporting.read_results import Result, Results, read_results
from benchmarks.reporting.tables import (
    DOCUMENTS,
    MAIN_MODELS,
    benchmarks_section,
    main_results,
    ordered_engines,
    performance_section,
    ratio,
    readme_section,
)
from crossrank import InputError

START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
_README, _BENCHMARKS_README = "README.md", "benchmarks/README.md"
_PERFORMANCE, _PLOT = "docs/performance.md", "benchmarks/throughput.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        metavar="FOLDER",
        help="of the suite (default: benchmarks/results)",
    )


def run(options: argparse.Namespace) -> None:
    """Print the tables and write them and the plot into this checkout.

    Raises:
        InputError: If a result cannot be read, there is no throughput of a main model, or a README has no place.
        MissingDependencyError: If matplotlib is not installed; nothing is written then.
    """
    results = read_results(options.results, ignored=lambda line: print(line, file=sys.stderr))
    for line in write_report(results, ROOT):
        print(line)


def write_report(results: Results, root: Path) -> list[str]:
    """Write the parts of README, the performance page and the benchmarks' README, and the plot; all or none.

    Args:
        results: With the throughput of one main model at least.
        root: A checkout.

    Returns:
        The three parts.

    Raises:
        InputError: If there is nothing to report, or no place for it.
        MissingDependencyError: If matplotlib is not installed.
    """
    speeds = main_results(results)
    if not speeds:
        wanted = ", ".join(f"throughput-{model}-{DOCUMENTS}.json" for model in MAIN_MODELS)
        raise InputError(f"no result to report: one of {wanted} is needed; run `python -m benchmarks suite`")
    parts = {
        root / _README: readme_section(results),
        root / _PERFORMANCE: performance_section(results, f"../{_PLOT}"),
        root / _BENCHMARKS_README: benchmarks_section(results),
    }
    texts = {path: replace_part(path, part) for path, part in parts.items()}
    image = draw(
        [_panel(result) for result in speeds],
        engines=(engines := ordered_engines(speeds)),
        highlighted=[engine for engine in engines if is_ours(engine)],
    )
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    (root / _PLOT).write_bytes(image)
    return list(parts.values())


def replace_part(path: Path, part: str) -> str:
    """A file's text with another part between its markers.

    Raises:
        InputError: If it has not one start marker and one end marker after it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in before + after:
        raise InputError(f"{path}: one line {START} and after it one line {END} are needed; the report goes in between")
    return f"{before}{START}\n{part}\n{END}{after}"


def _panel(result: Result) -> Panel:
    bars = {engine: (figures["docs_per_s.median"], ratio(result, engine)) for engine, figures in result.engines.items()}
    return Panel(result.model_name, bars)
