"""Options of the commands, each declared once, and how they are read."""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES
from benchmarks.inputs.collections import Collection, cut_collection, read_collection
from benchmarks.inputs.models import MODELS, BenchmarkModel, open_model, split_name
from benchmarks.inputs.workloads import LONG, SYNTHETIC, TREC_DL19
from crossrank import InputError
from crossrank._machine.cpu import available_threads

_OURS = ["crossrank-fp32", "crossrank-int8", "st-torch-fp32"]
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


def add_options(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Declare some of the options below.

    Args:
        parser: Of the command.
        names: Of options.
        changes: Option -> its default here, or all that differs, as ``add_argument`` takes it.
    """
    for name in names:
        change = changes.get(name.replace("-", "_"), {})
        change = change if isinstance(change, dict) else {"default": change}
        parser.add_argument(f"--{name}", **{"metavar": "N"} | _OPTIONS[name] | change)


def _count(help_: str) -> dict[str, Any]:
    return {"type": positive, "help": f"{help_} (default: %(default)s)"}


_OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"metavar": "NAME", "help": f"{', '.join(MODELS)}, or a checkpoint folder of your own"},
    "precision": {
        "metavar": None,
        "nargs": "+",
        "default": ["auto"],
        "choices": ["auto", "fp32", "fp16", "int8"],
        "help": "one or more, of each model (default: auto, the device's own)",
    },
    "engines": {
        "nargs": "+",
        "choices": ENGINES,
        "default": _OURS,
        "metavar": "KEY",
        "help": f"of {', '.join(ENGINES)} (default: {' '.join(_OURS)})",
    },
    "threads": {
        "type": positive,
        "default": available_threads().count,
        "help": "CPU threads of each of them (default: all this process may use)",
    },
    "output": {"type": Path, "metavar": "FILE.json", "help": "write the result"},
    "bench": {
        "type": Path,
        "default": ROOT / ".bench",
        "metavar": "FOLDER",
        "help": "what is made once and kept: drawn checkpoints, conversions of engines (default: .bench)",
    },
    "data": {
        "default": SYNTHETIC,
        "metavar": "NAME",
        "help": f"{SYNTHETIC}, {LONG}, {TREC_DL19}, or a folder of judged queries (default: {SYNTHETIC})",
    },
    "documents": _count("of a call"),
    "calls": _count("of a turn"),
    "rounds": _count("rounds, in each of which all have a turn") | {"default": 5},
    "warm-up": _count("calls that do not count"),
    "warm-up-documents": {"type": positive, "help": "of a warm-up call, but OpenVINO's (default: all)"},
    "peak-seconds": {
        "type": float,
        "metavar": "S",
        "help": "of each measurement of the machine's peak, one a round (default: %(default)s)",
    },
    "minutes": {"type": float, "help": "begin nothing that would probably end later (default: no limit)"},
}


def add_load_option(parser: argparse.ArgumentParser) -> None:
    """``--allow-load``, which `look_at_machine` of the results reads."""
    help_ = "measure on a machine that others keep busy, whose figures flatter us"
    parser.add_argument("--allow-load", action="store_true", help=help_)


def add_collection_options(parser: argparse.ArgumentParser) -> None:
    """``--data`` and ``--documents``, which `open_collection` reads, ``--model`` and ``--precision``."""
    add_options(
        parser,
        *("data", "documents", "model", "precision"),
        data={
            "type": Path,
            "default": find_test_data() / "data" / TREC_DL19,
            "metavar": "FOLDER",
            "help": "judged queries: a run with texts and qrels, BEIR files, or an id of ir_datasets "
            "(default: data/trec-dl19 of the test data)",
        },
        documents=_count("candidates per query") | {"default": 100},
        model={
            "nargs": "+",
            "action": "extend",
            "default": [],
            "metavar": "MODEL",
            "help": "artifact folders, checkpoint folders or hub names; NAME=MODEL gives one another name in tables",
        },
    )


def open_collection(options: argparse.Namespace) -> Collection:
    """The collection that the options name."""
    return cut_collection(read_collection(options.data), options.documents)


def open_data(options: argparse.Namespace) -> Collection | None:
    """The judged queries that are scored; None for made-up texts."""
    if options.data in (SYNTHETIC, LONG):
        return None
    return read_collection(find_test_data() / "data" / TREC_DL19 if options.data == TREC_DL19 else Path(options.data))


def open_benchmark_model(options: argparse.Namespace, name: str) -> BenchmarkModel:
    """A model by its short name, or a checkpoint folder."""
    return open_model(name, bench=options.bench, test_data=find_test_data())


def check_output(options: argparse.Namespace) -> None:
    """Refuse before a run what could not be written after it."""
    if options.output and not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no folder {options.output.parent}")


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
