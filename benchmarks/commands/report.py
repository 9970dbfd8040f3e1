"""The report: README's table, the performance page's with the plot, the goals in the benchmarks' README."""

import argparse
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.reporting.documents import write_report
from benchmarks.reporting.result import RESULTS, read_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    help_ = "of the suite (default: benchmarks/results)"
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help=help_)


def run(options: argparse.Namespace) -> None:
    """Print the tables and write them and the plot into this checkout."""
    results = read_results(options.results, ignored=lambda line: print(line, file=sys.stderr))
    print("\n".join(write_report(results, ROOT, gpu=options.results / "gpu")))
