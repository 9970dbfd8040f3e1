"""Systems that `quality` and `tradeoff` measure: models in each precision, each by a name of its own."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.inputs.models import split_name
from benchmarks.inputs.trec import run_tag
from crossrank import CrossEncoder, InputError


@dataclass(frozen=True, slots=True)
class System:
    """A model in one precision; its name in tables is its own, the label is the model's part of that."""

    name: str
    label: str
    encoder: CrossEncoder


def open_system(text: str, precision: str, threads: int | None) -> System:
    """A model, as ``--model`` takes it, in one of ``--precision``."""
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
