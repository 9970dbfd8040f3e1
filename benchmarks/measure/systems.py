"""What `quality` and `tradeoff` measure, models in each precision, and what both say of a run."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks import ROOT
from benchmarks.inputs.collections import Collection
from benchmarks.inputs.trec import run_tag
from benchmarks.options import command_line
from benchmarks.reporting.machine import git_commit
from crossrank import CrossEncoder, InputError

_PACKAGES = ("crossrank", "onnxruntime", "numpy", "tokenizers", "ir-measures")


@dataclass(frozen=True, slots=True)
class System:
    """A model in one precision.

    Attributes:
        name: In tables; no other system of the command has it.
        label: The model's part of the name.
        encoder: The model.
    """

    name: str
    label: str
    encoder: CrossEncoder


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--precision``; `open_systems` reads them."""
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


def split_name(text: str) -> tuple[str, str]:
    """``NAME=PATH``, or a path, whose last part is its name; an equals sign in a path that is there is none.

    >>> split_name("mini=models/a"), split_name("models/a")
    (('mini', 'models/a'), ('a', 'models/a'))
    """
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else (Path(text).name, text)


def open_system(text: str, precision: str, threads: int | None) -> System:
    """A model in one precision.

    Args:
        text: The model, as ``--model`` takes it.
        precision: One of ``--precision``.
        threads: CPU threads, or None for all that this process may use.
    """
    label, place = split_name(text)
    encoder = CrossEncoder(place, precision=precision, threads=threads)  # type: ignore[arg-type]  # one of its choices
    info = encoder.info()
    return System(f"{label}, {info.variant} {info.precision}, {info.provider}", label, encoder)


def open_systems(options: argparse.Namespace) -> Iterator[System]:
    """Every model in every precision, opened one after the other.

    Raises:
        InputError: If two models have one name, or one a name that a run cannot have.
    """
    check_names([split_name(text)[0] for text in options.model])
    for text in options.model:
        for precision in options.precision:
            yield open_system(text, precision, options.threads)


def check_names(names: list[str]) -> None:
    """Raise `InputError` unless every name that was given can be a run's tag and file, and only once."""
    unfit = [name for name in names if not name or run_tag(name) != name]
    if unfit:
        raise InputError(
            f"{', '.join(map(repr, unfit))}: a system's name is of letters, digits, '_', '.' and '-', "
            "at least one: give it one, NAME=PATH"
        )
    check_distinct(names)


def check_distinct(names: list[str]) -> None:
    """Raise `InputError` if a name is there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"several are called {', '.join(twice)}: give them names of their own, NAME=PATH")


def describe_evaluation(
    options: argparse.Namespace, collection: Collection, *, machine: dict[str, object]
) -> dict[str, object]:
    """How a result was taken.

    Args:
        options: Of the command.
        collection: What was ranked.
        machine: As `describe_machine` gave it before the run.
    """
    return {
        "benchmark": options.command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(ROOT),
        "command": command_line(argparse.Namespace(**{k: _shown(value) for k, value in vars(options).items()})),
        "machine": machine,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "data": collection.name,
        "queries": len(collection.candidates),
        "documents": sum(len(entry.documents) for entry in collection.candidates),
        "mrr_counts_grades_from": collection.relevant_grade,
    }


def _shown(value: object) -> object:
    """An option that is a list as words, of paths the last part only; an empty one as none."""
    if not isinstance(value, list):
        return value
    words = []
    for text in map(str, value):
        path = split_name(text)[1]
        words.append(text.removesuffix(path) + (Path(path).resolve().name if Path(path).exists() else path))
    return words or None
