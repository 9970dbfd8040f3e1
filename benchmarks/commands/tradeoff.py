"""Quality and speed of models and cascades on the same candidates in one run: what people choose a model by."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.inputs.collections import Candidates, Collection, read_candidates
from benchmarks.inputs.files import write_whole
from benchmarks.inputs.models import split_name
from benchmarks.measure.cascades import Choice, TradeOff, choose_depth, deal, held_out, ranking_scores, weigh
from benchmarks.measure.quality import HEADINGS, Quality, measure_first_stage
from benchmarks.measure.systems import System, check_names, open_system
from benchmarks.measure.turns import interleave, on_texts, timed
from benchmarks.options import add_collection_options, add_options, check_output, open_collection, positive
from benchmarks.reporting.plots import Point, draw_tradeoff
from benchmarks.reporting.result import describe_evaluation, describe_machine, write_result
from benchmarks.reporting.tables import format_table, progress, shown, spread_cells
from crossrank import Cascade, InputError

_TIMED = "whole calls, texts in and ranking out, tokenizing included; one call is one query with its candidates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_collection_options(parser)
    output = {"help": "write the result, and the plot beside it as FILE.png"}
    rounds = {"help": "parts of the queries (default: %(default)s)"}
    add_options(parser, "threads", "output", "rounds", "warm-up", output=output, rounds=rounds, warm_up=3)
    add = parser.add_argument
    add("--cascade", nargs=2, metavar=("SMALL", "BIG"), help="two models, in the first --precision, as a cascade")
    add(
        "--depths",
        nargs="+",
        type=positive,
        default=[5, 10, 20, 30, 40, 50],
        metavar="K",
        help="documents of a query that BIG reads (default: 5 10 20 30 40 50)",
    )
    add(
        "--choose-on",
        type=Path,
        metavar="DATA",
        help="held-out queries to choose a depth on: as --data takes them, or a run with texts, FILE.json",
    )
    add(
        "--least-overlap",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="of BIG's own ten best, what the chosen depth must have among the cascade's (default: %(default)s)",
    )


def run(options: argparse.Namespace, *, draw: Callable[..., bytes] = draw_tradeoff) -> None:
    """Rank every query with every system in turns, print the table, and write the result and the plot.

    Where matplotlib, which the plot needs, is not installed, the result is written before the error.
    """
    machine, collection = describe_machine(), open_collection(options)
    if not options.model and not options.cascade:
        raise InputError("nothing to measure: give --model, --cascade, or both")
    check_output(options)
    data, choosing = _read_held_out(options, collection)
    (models, pair), cascades = _open_models(options), _open_cascades(options)
    scorers = {name: on_texts(system.encoder.score) for name, system in models.items()}
    scorers |= {_name(depth): on_texts(ranking_scores(cascade)) for depth, cascade in cascades.items()}
    workload = deal(collection, rounds=options.rounds, warm_up=options.warm_up)
    engines = {name: timed(score) for name, score in scorers.items()}
    tick = progress(len(collection.candidates), "queries of each system")
    series, _ = interleave(engines, workload.warm_up, workload.rounds, report=tick)
    found, first_stage = weigh(series, workload), measure_first_stage(collection)
    choice = None
    if choosing:  # after the timing: a model may remember what it has read
        small, big = ([models[name].encoder.score(entry.query, entry.documents) for entry in choosing] for name in pair)
        choice = choose_depth(small, big, options.depths, least_overlap=options.least_overlap, data=data)
    print(
        f"{collection.name}: {len(collection.candidates)} queries, {options.threads} threads\n{_TIMED}\n"
        f"medians, minima and maxima of {len(workload.rounds)} rounds\n"
        f"{_format(found, f'first stage, {collection.first_stage}', first_stage)}"
    )
    if choice:
        print(_format_choice(choice))
    if not options.output:
        return
    facts = {name: _describe(system) for name, system in models.items()}
    facts |= {_name(depth): {"kind": "cascade", "of": pair, "depth": depth} for depth in cascades}
    result = describe_evaluation(options, collection, machine, timed=_TIMED) | {
        "threads": options.threads,
        "rounds": len(workload.rounds),
        "warm_up_calls": len(workload.warm_up),
        "first_stage": {"name": collection.first_stage, "quality": asdict(first_stage)},
        "systems": {name: facts[name] | asdict(figures) for name, figures in found.items()},
        "chosen": asdict(choice) if choice else None,
    }
    write_result(options.output, result)
    image = draw(
        [_point(found[name], name) for name in models],
        [_point(found[_name(depth)], f"k={depth}") for depth in cascades],
        curve=f"cascade of {' and '.join(pair)}" if cascades else "",
        line=(collection.first_stage, first_stage.ndcg_at_10),
        heading=f"nDCG@10, {collection.name}",
    )
    write_whole(options.output.with_suffix(".png"), image)


def _read_held_out(options: argparse.Namespace, collection: Collection) -> tuple[str, list[Candidates]]:
    """The data's name, and its queries that are not measured; none where no depth is to be chosen."""
    if not options.choose_on:
        return "", []
    if not options.cascade:
        raise InputError("--choose-on chooses a depth of a cascade: give --cascade SMALL BIG")
    name, candidates = read_candidates(options.choose_on)
    kept = held_out([entry.cut(0, options.documents) for entry in candidates], collection.candidates)
    if not kept:
        raise InputError(f"--choose-on {options.choose_on}: all of its {len(candidates)} queries are measured too")
    return name, kept


def _open_models(options: argparse.Namespace) -> tuple[dict[str, System], list[str]]:
    """Every model in every precision and those of the cascade, each alone, and what these two are called.

    A name has the precision that runs, which "auto" leaves to the model and the device.
    """
    asked = list(dict.fromkeys([*options.model, *(options.cascade or [])]))
    check_names([split_name(text)[0] for text in asked])
    wanted = [(text, precision) for text in options.model for precision in options.precision]
    wanted += [(text, options.precision[0]) for text in options.cascade or []]
    models: dict[str, System] = {}
    names = {}
    for text, precision in dict.fromkeys(wanted):
        system = open_system(text, precision, options.threads)
        names[text, precision] = name = f"{system.label} {system.encoder.info().precision}"
        models.setdefault(name, system)  # "auto" may be one of the other precisions
    return models, [names[text, options.precision[0]] for text in options.cascade or []]


def _open_cascades(options: argparse.Namespace) -> dict[int, Cascade]:
    """A cascade for each depth, with models of its own: shared ones would remember texts that others had them read."""
    if not options.cascade:
        return {}
    return {
        depth: Cascade(
            [
                (open_system(text, options.precision[0], options.threads).encoder, k)
                for text, k in zip(options.cascade, (None, depth), strict=True)
            ]
        )
        for depth in sorted(set(options.depths))
    }


def _name(depth: int) -> str:
    return f"cascade, k={depth}"


def _describe(system: System) -> dict[str, object]:
    info = system.encoder.info()
    runs = {"variant": info.variant, "precision": info.precision, "provider": info.provider}
    return {"kind": "model", "model": system.label, **runs}


def _point(figures: TradeOff, label: str) -> Point:
    return Point(figures.docs_per_s.median, figures.quality.ndcg_at_10, label)


def _format(found: Mapping[str, TradeOff], first_name: str, first_stage: Quality) -> str:
    rows = [["", "docs/s", "min", "max", "ms a query", "min", "max", "ratio", "min", "max", *HEADINGS.values()]]
    rows.append([first_name, *"-" * 9, *shown(asdict(first_stage).values(), ".4f")])
    for name, one in found.items():
        speed, times = spread_cells(one.docs_per_s, ",.1f"), spread_cells(one.query_ms, ",.1f")
        rows.append(
            [name, *speed, *times, *spread_cells(one.ratio, ".2f"), *shown(asdict(one.quality).values(), ".4f")]
        )
    return format_table(rows)


def _format_choice(choice: Choice) -> str:
    reached = "no depth reaches" if choice.depth is None else f"k={choice.depth} is the first to reach"
    shares = ", ".join(f"k={depth} {share:.3f}" for depth, share in choice.overlap_at_10.items())
    return (
        f"{reached} {choice.least_overlap} of the big model's own ten best among the cascade's, "
        f"on {choice.queries} held-out queries of {choice.data}: {shares}"
    )
