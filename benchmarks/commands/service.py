"""Many callers of one model: documents per second and latencies by load, beside other ways to serve them."""

import argparse
import time
from contextlib import ExitStack
from dataclasses import asdict

from benchmarks.engines.registry import ENGINES
from benchmarks.measure.rounds import UNITS, Found, Round, Spreads, open_fleet, pool_of, spreads
from benchmarks.measure.subject import DEADLINE_MS
from benchmarks.options import add_load_option, add_options, check_output, open_benchmark_model
from benchmarks.reporting.goals import goals_table, load_goals
from benchmarks.reporting.result import describe_run, look_at_machine, print_unavailable, shorten_reasons, write_result
from benchmarks.reporting.tables import format_table, progress, shown, spread_cells
from crossrank import InputError

_TIMED = (
    "whole calls under load in the model's process, texts in and scores out; where requests arrive by themselves, "
    "from the time at which they were meant to; docs/s are those of answered requests"
)
_ROUNDS = 3
_OPENING_S = 60  # of the minutes
_OVERRUN = 1.25  # a load takes longer than it says: what has begun is finished
_LONGEST_S, _QUICK_S = 5.0, 0.05  # of a load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    minutes = {"default": 4, "help": "for all of it (default: %(default)s)"}
    names = ("model", "threads", "output", "bench", "minutes")
    model = {"default": "tinybert-l2", "help": "in fp32 (default: %(default)s)"}
    add_options(parser, *names, model=model, minutes=minutes)
    add = parser.add_argument
    add("--int8-model", default="minilm-l12", metavar="NAME", help="in int8, for one load (default: %(default)s)")
    add(
        "--peer",
        choices=[key for key, spec in ENGINES.items() if not spec.environment],
        default="st-torch-fp32",
        metavar="KEY",
        help="whom to compare with (default: %(default)s)",
    )
    add_load_option(parser)
    add("--quick", action="store_true", help="one round of very short loads: shows that it runs, measures nothing")


def run(options: argparse.Namespace) -> None:
    """Put load on the systems in turns, print the tables and write the result."""
    check_output(options)
    machine, _ = look_at_machine(options.threads, allow_load=options.allow_load or options.quick)
    begin, peer = time.monotonic(), ENGINES[options.peer]
    wanted = _ROUNDS if not options.quick else 1
    room = (60 * options.minutes - _OPENING_S) / (wanted * UNITS * _OVERRUN)
    unit_s = _QUICK_S if options.quick else min(_LONGEST_S, max(_QUICK_S, room))
    models, fleets, unavailable, rounds = {}, {}, dict[str, str](), list[Found]()
    with ExitStack() as stack:
        for name, precision in ((options.model, "fp32"), (options.int8_model, "int8")):
            try:
                models[precision] = model = open_benchmark_model(options, name)
            except InputError as error:
                if precision == "fp32":
                    raise
                unavailable[name] = str(error)
                continue
            how = {"threads": options.threads, "unit_s": unit_s, "stack": stack, "unavailable": unavailable}
            fleets[precision] = open_fleet(model, precision, peer, **how)
        int8_name = models["int8"].name if "int8" in models else options.int8_model
        tick, longest = progress(wanted, "rounds"), 0.0
        for number in range(wanted):
            start = time.monotonic()
            if rounds and start - begin + longest > 60 * options.minutes:
                break
            one = Round(number, unit_s, unavailable)
            one.measure(fleets["fp32"], fleets.get("int8", {}), int8_name)
            rounds.append(one.found)
            longest = max(longest, time.monotonic() - start)
            tick()
    print_unavailable(unavailable)
    goals = load_goals(models["fp32"].name, int8_name, pool_of(peer), DEADLINE_MS)
    checked, loads = [goal.check(rounds) for goal in goals], spreads(rounds)
    print(
        f"{models['fp32'].name} fp32, where named {int8_name} int8, {options.threads} threads, medians of "
        f"{len(rounds)} rounds of loads of {unit_s:.1f} s\n{_TIMED}\n{format_loads(loads)}\n\n"
        f"{format_table(goals_table(checked))}"
    )
    if options.output:
        systems = {
            f"{name}, {models[precision].name}": {"versions": system.versions, **system.facts}
            for precision, fleet in fleets.items()
            for name, system in fleet.items()
        }
        result = describe_run(options, machine, timed=_TIMED) | {
            "threads": options.threads,
            "models": [model.describe() for model in models.values()],
            "systems": systems,
            "unavailable": shorten_reasons(unavailable),
            "rounds": len(rounds),
            "load_s": round(unit_s, 2),
            "targets": [one.describe() for one in checked],
            "loads": {
                load: {name: {key: asdict(value) for key, value in figures.items()} for name, figures in found.items()}
                for load, found in loads.items()
            },
        }
        write_result(options.output, result)


def format_loads(loads: Spreads) -> str:
    """The table of all loads: medians, and of docs/s and ratios the range."""
    columns = ("", "system", "docs/s", "min", "max", "ours to it", "min", "max", "p50 ms", "p95 ms", "p99 ms")
    rows: list[tuple[str, ...]] = [(*columns, "rejected", "unanswered")]
    for load, systems in loads.items():
        for system, figures in systems.items():
            medians = {name: figure.median for name, figure in figures.items()}
            rows.append(
                (
                    *(load, system, *spread_cells(figures["docs_per_s"], ",.0f")),
                    *spread_cells(figures.get("ours_to_it"), ".2f"),
                    *shown((medians.get(name) for name in ("p50_ms", "p95_ms", "p99_ms")), ".1f"),
                    *shown((medians[name] for name in ("rejected", "unanswered")), ".0%"),
                )
            )
    return format_table(rows)
