"""Systems that `quality` measures: models in each precision, and cascades of two, each by a name of its own."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.inputs.models import split_name
from benchmarks.inputs.trec import run_tag
from crossrank import Cascade, CrossEncoder, InputError

from .turns import Floats

Score = Callable[[str, tuple[str, ...]], Floats]


@dataclass(frozen=True, slots=True)
class System:
    """A query and its documents to float32 [documents], what a result says of it, and its name in a plot."""

    score: Score
    facts: Mapping[str, object]
    label: str


def open_systems(options: argparse.Namespace) -> dict[str, System]:
    """Every model in every precision, those of the cascade alone, and a cascade for each depth, by name.

    A name has the precision that runs, which "auto" leaves to the model and the device. Each cascade has models of its
    own: shared ones would remember texts that others had them read.

    Raises:
        InputError: If two models have one name, or one a name that a run cannot have.
    """
    asked = list(dict.fromkeys([*options.model, *(options.cascade or [])]))
    check_names([split_name(text)[0] for text in asked])
    wanted = [(text, precision) for text in options.model for precision in options.precision]
    wanted += [(text, options.precision[0]) for text in options.cascade or []]
    systems: dict[str, System] = {}
    names = {}
    for text, precision in dict.fromkeys(wanted):
        encoder = _open(text, precision, options.threads)
        info, label = encoder.info(), split_name(text)[0]
        names[text, precision] = name = f"{label} {info.precision}"
        runs = {"variant": info.variant, "precision": info.precision, "provider": info.provider}
        # "auto" may be one of the other precisions.
        systems.setdefault(name, System(encoder.score, {"kind": "model", "model": label, **runs}, name))
    if options.cascade:
        pair = [names[text, options.precision[0]] for text in options.cascade]
        for depth in sorted(set(options.depths)):
            stages = [_open(text, options.precision[0], options.threads) for text in options.cascade]
            cascade = Cascade(list(zip(stages, (None, depth), strict=True)))
            facts = {"kind": "cascade", "of": pair, "depth": depth}
            systems[f"cascade, k={depth}"] = System(ranking_scores(cascade), facts, f"k={depth}")
    return systems


def _open(text: str, precision: str, threads: int) -> CrossEncoder:
    place = split_name(text)[1]
    return CrossEncoder(place, precision=precision, threads=threads)  # type: ignore[arg-type]  # one of its choices


def ranking_scores(cascade: Cascade) -> Score:
    """A cascade as a function to scores: 0 for its first document, -1 for the next, since its own are of two models."""

    def score(query: str, documents: tuple[str, ...]) -> Floats:
        scores = np.empty(len(documents), np.float32)
        for place, hit in enumerate(cascade.rank(query, documents)):
            scores[hit["corpus_id"]] = -place
        return scores

    return score


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
