"""The report: the tables of README, of two pages and of the benchmarks' README, with the goals."""

import argparse
from pathlib import Path

from benchmarks import ROOT
from benchmarks.reporting.documents import write_report
from benchmarks.reporting.result import RESULTS, read_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    help_ = "of the suite (default: benchmarks/results)"
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help=help_)


def run(options: argparse.Namespace) -> None:
    """Print the tables and write them into this checkout."""
    results = read_results(options.results)
    print("\n".join(write_report(results, ROOT, gpu=options.results / "gpu")))
