"""Options that several commands share, and how they are read."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES
from benchmarks.inputs.collections import Collection, cut_collection, read_collection
from benchmarks.inputs.models import MODELS, BenchmarkModel, open_model, split_name
from benchmarks.inputs.workloads import SYNTHETIC, TREC_DL19, Workload, make_workload
from crossrank import InputError
from crossrank._machine.cpu import available_threads

# Where things lie is of no interest to who repeats a run.
_NOT_SHOWN = ("command", "output", "bench")
_MODEL_NAMES = f"{', '.join(MODELS)}, or a checkpoint folder of your own"


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


def add_output_argument(parser: argparse.ArgumentParser, more: str = "") -> None:
    """``--output``; `check_output` looks at it before a run."""
    parser.add_argument("--output", type=Path, metavar="FILE.json", help=f"write the result{more}")


def add_threads_argument(parser: argparse.ArgumentParser, of: str = "every engine") -> None:
    """``--threads``."""
    parser.add_argument(
        "--threads",
        type=positive,
        default=available_threads().count,
        metavar="N",
        help=f"threads of {of} (default: all this process may use)",
    )


def add_bench_argument(parser: argparse.ArgumentParser) -> None:
    """``--bench``."""
    parser.add_argument(
        "--bench",
        type=Path,
        default=ROOT / ".bench",
        metavar="FOLDER",
        help="what is made once and kept: drawn checkpoints, conversions of engines (default: .bench)",
    )


def add_model_argument(parser: argparse.ArgumentParser, option: str = "--model", what: str = "", **how: object) -> None:
    """A model that `open_benchmark_model` opens."""
    parser.add_argument(option, metavar="NAME", help=f"{what}{_MODEL_NAMES}", **how)  # type: ignore[arg-type]


def add_run_arguments(parser: argparse.ArgumentParser, *, engines: Sequence[str]) -> None:
    """``--model``, ``--engines``, ``--threads``, ``--output`` and ``--bench``."""
    add_model_argument(parser, required=True)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(engines),
        metavar="KEY",
        help=f"of {', '.join(ENGINES)} (default: {' '.join(engines)})",
    )
    add_threads_argument(parser)
    add_output_argument(parser)
    add_bench_argument(parser)


def add_system_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--precision`` of models that `open_system` opens."""
    parser.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODEL",
        help="artifact folders, checkpoint folders or hub names; NAME=MODEL gives one another name in tables",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["auto"],
        choices=["auto", "fp32", "fp16", "int8"],
        help="one or more, of each model (default: auto, the device's own)",
    )


def add_collection_arguments(parser: argparse.ArgumentParser) -> None:
    """``--data``, ``--queries`` and ``--documents``; `open_collection` reads them."""
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=find_test_data() / "data" / TREC_DL19,
        metavar="FOLDER",
        help="judged queries: a run with texts and qrels, BEIR files, or an id of ir_datasets "
        "(default: data/trec-dl19 of the test data)",
    )
    add("--queries", type=positive, metavar="N", help="only the first N queries (default: all)")
    add("--documents", type=positive, default=100, metavar="N", help="candidates per query (default: %(default)s)")


def open_collection(options: argparse.Namespace) -> Collection:
    """The collection that the options name.

    Raises:
        InputError: If it cannot be read.
    """
    return cut_collection(read_collection(options.data), queries=options.queries, documents=options.documents)


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """``--data``: what is scored; `open_data` reads it."""
    parser.add_argument(
        "--data",
        default=SYNTHETIC,
        metavar="NAME",
        help=f"{SYNTHETIC}, {TREC_DL19}, or a folder of judged queries (default: {SYNTHETIC})",
    )


def open_data(options: argparse.Namespace) -> Collection | None:
    """The judged queries that are scored; None for made-up texts.

    Raises:
        InputError: If the data cannot be read.
    """
    if options.data == SYNTHETIC:
        return None
    return read_collection(find_test_data() / "data" / TREC_DL19 if options.data == TREC_DL19 else Path(options.data))


def add_workload_arguments(parser: argparse.ArgumentParser, *, documents: int, calls: int | None, warm_up: int) -> None:
    """``--data``, ``--documents``, ``--calls``, ``--rounds`` and ``--warm-up``; `open_workload` reads them."""
    add_data_argument(parser)
    most = "8 synthetic ones, or what judged queries give, at most 100" if calls is None else calls
    add = parser.add_argument
    add("--documents", type=positive, default=documents, metavar="N", help="of a call (default: %(default)s)")
    add("--calls", type=positive, default=calls, metavar="N", help=f"of a round (default: {most})")
    add("--rounds", type=positive, default=5, metavar="N", help="rounds of calls (default: %(default)s)")
    add("--warm-up", type=positive, default=warm_up, metavar="N", help="calls that do not count (default: %(default)s)")


def open_workload(options: argparse.Namespace) -> Workload:
    """The calls that the options describe.

    Raises:
        InputError: If the data cannot be read.
    """
    amounts = {"warm_up": options.warm_up, "rounds": options.rounds, "calls": options.calls}
    return make_workload(open_data(options), documents=options.documents, **amounts)


def check_output(options: argparse.Namespace) -> None:
    """Refuse before a run what could not be written after it.

    Raises:
        InputError: If ``--output`` has no folder.
    """
    if options.output and not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no folder {options.output.parent}")


def open_benchmark_model(options: argparse.Namespace, name: str) -> BenchmarkModel:
    """A model by its short name, or a checkpoint folder.

    Raises:
        InputError: If there is none.
    """
    return open_model(name, bench=options.bench, test_data=find_test_data())


def command_line(options: argparse.Namespace) -> str:
    """The command as a reader would type it: every option, and of paths the last part only."""
    words = [f"python -m benchmarks {options.command}"]
    for name, value in vars(options).items():
        if name in _NOT_SHOWN or value is None or value is False or value == []:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(_shown, value if isinstance(value, list) else [value])
    return " ".join(words)


def _shown(value: object) -> str:
    text = str(value)
    path = split_name(text)[1]
    if not isinstance(value, str | Path) or not Path(path).exists():
        return text
    return text.removesuffix(path) + Path(path).resolve().name
