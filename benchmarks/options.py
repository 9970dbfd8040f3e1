"""Options that several commands share, and how they are read."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES
from benchmarks.inputs.collections import Collection, cut_collection, read_collection
from benchmarks.inputs.models import MODELS, BenchmarkModel, open_model
from benchmarks.inputs.workloads import SYNTHETIC, TREC_DL19, Workload, make_workload
from crossrank import InputError
from crossrank._machine.cpu import available_threads

# Where things lie is of no interest to who repeats a run.
_NOT_SHOWN = ("command", "output", "bench")


def find_test_data() -> Path:
    """Where the test data lies: CROSSRANK_TEST_DATA, by default ../shared beside the checkout."""
    return Path(os.environ.get("CROSSRANK_TEST_DATA") or ROOT.parent / "shared")


def positive(text: str) -> int:
    """An argument that counts something.

    >>> positive("2")
    2
    """
    value = int(text)  # argparse turns a ValueError into a usage message
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more is needed")
    return value


def add_collection_arguments(parser: argparse.ArgumentParser) -> None:
    """``--data``, ``--queries`` and ``--documents``; `open_collection` reads them."""
    data = find_test_data() / "data" / TREC_DL19
    parser.add_argument(
        "--data",
        type=Path,
        default=data,
        metavar="FOLDER",
        help="judged queries: a run with texts and qrels, BEIR files, or an id of ir_datasets "
        "(default: data/trec-dl19 of the test data)",
    )
    parser.add_argument("--queries", type=positive, metavar="N", help="only the first N queries (default: all)")
    parser.add_argument(
        "--documents", type=positive, default=100, metavar="N", help="candidates per query (default: %(default)s)"
    )


def open_collection(options: argparse.Namespace) -> Collection:
    """The collection that the options name.

    Raises:
        InputError: If it cannot be read.
    """
    return cut_collection(read_collection(options.data), queries=options.queries, documents=options.documents)


def add_run_arguments(parser: argparse.ArgumentParser, *, engines: Sequence[str]) -> None:
    """``--model``, ``--engines``, ``--threads``, ``--output`` and ``--bench``.

    Args:
        parser: Gets them.
        engines: The default of ``--engines``.
    """
    parser.add_argument(
        "--model", required=True, metavar="NAME", help=f"{', '.join(MODELS)}, or a checkpoint folder of your own"
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(engines),
        metavar="KEY",
        help=f"of {', '.join(ENGINES)} (default: {' '.join(engines)})",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=available_threads().count,
        metavar="N",
        help="threads of every engine (default: all this process may use)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the result")
    parser.add_argument(
        "--bench",
        type=Path,
        default=ROOT / ".bench",
        metavar="FOLDER",
        help="what is made once and kept: drawn checkpoints, conversions of engines (default: .bench)",
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """``--data``: what is scored."""
    parser.add_argument(
        "--data",
        default=SYNTHETIC,
        metavar="NAME",
        help=f"{SYNTHETIC}, {TREC_DL19}, or a folder of judged queries (default: {SYNTHETIC})",
    )


def add_workload_arguments(parser: argparse.ArgumentParser, *, documents: int, calls: int | None, warm_up: int) -> None:
    """``--data``, ``--documents``, ``--calls``, ``--rounds`` and ``--warm-up``; `open_workload` reads them."""
    add_data_argument(parser)
    most = "8 synthetic ones, or what judged queries give, at most 100" if calls is None else calls
    add = parser.add_argument
    add("--documents", type=positive, default=documents, metavar="N", help="of a call (default: %(default)s)")
    add("--calls", type=positive, default=calls, metavar="N", help=f"of a round (default: {most})")
    add("--rounds", type=positive, default=5, metavar="N", help="rounds of calls (default: %(default)s)")
    add("--warm-up", type=positive, default=warm_up, metavar="N", help="calls that do not count (default: %(default)s)")


def open_benchmark_model(options: argparse.Namespace) -> BenchmarkModel:
    """The model that the options name.

    Raises:
        InputError: If there is none, or the result could not be written.
    """
    if options.output and not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no folder {options.output.parent}")
    return open_model(options.model, bench=options.bench, test_data=find_test_data())


def open_workload(options: argparse.Namespace) -> Workload:
    """The calls that the options describe.

    Raises:
        InputError: If the data cannot be read.
    """
    return make_workload(
        options.data,
        documents=options.documents,
        warm_up=options.warm_up,
        rounds=options.rounds,
        calls=options.calls,
        test_data=find_test_data(),
    )


def command_line(options: argparse.Namespace) -> str:
    """The command as a reader would type it: every option, and of paths the last part only."""
    words = [f"python -m benchmarks {options.command}"]
    for name, value in vars(options).items():
        if name in _NOT_SHOWN or value is None or value is False:
            continue
        is_path = isinstance(value, str | Path) and Path(value).exists()
        shown = " ".join(value) if isinstance(value, list) else Path(value).resolve().name if is_path else value
        words.append(f"--{name.replace('_', '-')}{'' if value is True else f' {shown}'}")
    return " ".join(words)
