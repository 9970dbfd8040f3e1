"""Options that several commands share, and how they are read."""

import argparse
import os
from pathlib import Path

from ._data import Collection, cut_collection, read_collection

ROOT = Path(__file__).resolve().parent.parent


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
    data = Path(os.environ.get("CROSSRANK_TEST_DATA") or ROOT.parent / "shared") / "data" / "trec-dl19"
    parser.add_argument(
        "--data",
        type=Path,
        default=data,
        metavar="FOLDER",
        help="judged queries: a run with texts and qrels, or BEIR files (default: data/trec-dl19 of the test data)",
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


def command_line(options: argparse.Namespace) -> str:
    """The command as a reader would type it: every option, and of paths the last part only."""
    words = [f"python -m benchmarks {options.command}"]
    for name, value in vars(options).items():
        if name in ("command", "output") or value is None or value is False:
            continue
        is_path = isinstance(value, str | Path) and Path(value).exists()
        shown = " ".join(value) if isinstance(value, list) else Path(value).resolve().name if is_path else value
        words.append(f"--{name.replace('_', '-')}{'' if value is True else f' {shown}'}")
    return " ".join(words)
