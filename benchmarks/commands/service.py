"""Many callers of one model: documents per second and latencies by load, beside other ways to serve them."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES
from benchmarks.inputs.models import MODELS, open_model
from benchmarks.measure.load_process import DEADLINE_MS
from benchmarks.measure.load_rounds import UNITS, Round, open_fleet, pool_of
from benchmarks.measure.turns import Spread, spread
from benchmarks.options import command_line, find_test_data, positive
from benchmarks.reporting.load_goals import OURS, OVERHEAD, Found, Reached, reach, targets
from benchmarks.reporting.machine import describe_machine, git_commit
from benchmarks.reporting.result import shorten_reason, write_result
from benchmarks.reporting.text import format_table, progress
from crossrank import InputError
from crossrank._machine.cpu import available_threads

_TIMED = (
    "whole calls under load in the model's process, texts in and scores out; where requests arrive by themselves, "
    "from the time at which they were meant to; docs/s are those of answered requests"
)
_ROUNDS = 3
_OPENING_S = 60  # of the minutes
_OVERRUN = 1.25  # a load takes longer than it says: what has begun is finished
_LONGEST_S, _QUICK_S = 5.0, 0.05  # of a load

# Load -> system -> figure over the rounds.
Spreads = dict[str, dict[str, dict[str, Spread]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    names = f"{', '.join(MODELS)}, or a checkpoint folder of your own"
    add("--model", default="tinybert-l2", metavar="NAME", help=f"in fp32: {names} (default: %(default)s)")
    add("--int8-model", default="minilm-l12", metavar="NAME", help="in int8, for one load (default: %(default)s)")
    add(
        "--peer",
        choices=[key for key, spec in ENGINES.items() if not spec.environment],
        default="st-torch-fp32",
        metavar="KEY",
        help="whom to compare with (default: %(default)s)",
    )
    add(
        "--threads",
        type=positive,
        default=available_threads().count,
        metavar="N",
        help="threads of every model (default: all this process may use)",
    )
    add("--minutes", type=positive, default=8, metavar="N", help="for all of it (default: %(default)s)")
    add("--quick", action="store_true", help="one round of very short loads: shows that it runs, measures nothing")
    add("--output", type=Path, metavar="FILE.json", help="write the result")
    add(
        "--bench",
        type=Path,
        default=ROOT / ".bench",
        metavar="FOLDER",
        help="what is made once and kept: drawn checkpoints, conversions (default: .bench)",
    )


def run(options: argparse.Namespace) -> None:
    """Put load on the systems in turns, print the tables and write the result.

    Raises:
        InputError: If there is no such model, or the result could not be written.
        WorkerError: If crossrank could not be measured.
    """
    begin, machine, peer = time.monotonic(), describe_machine(), ENGINES[options.peer]
    if options.output and not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no folder {options.output.parent}")
    wanted = _ROUNDS if not options.quick else 1
    room = (60 * options.minutes - _OPENING_S) / (wanted * UNITS * _OVERRUN)
    unit_s = _QUICK_S if options.quick else min(_LONGEST_S, max(_QUICK_S, room))
    models, fleets, unavailable, rounds = {}, {}, dict[str, str](), list[Found]()
    with ExitStack() as stack:
        for name, precision in ((options.model, "fp32"), (options.int8_model, "int8")):
            try:
                models[precision] = model = open_model(name, bench=options.bench, test_data=find_test_data())
            except InputError as error:
                if precision == "fp32":
                    raise
                unavailable[name] = str(error)
                continue
            fleets[precision] = open_fleet(
                model,
                precision,
                peer,
                threads=options.threads,
                unit_s=unit_s,
                stack=stack,
                unavailable=unavailable,
            )
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
    for name, reason in unavailable.items():
        print(f"{name}: not measured: {reason}", file=sys.stderr)
    reached = reach(targets(models["fp32"].name, int8_name, pool_of(peer), DEADLINE_MS), rounds)
    loads = spreads(rounds)
    print(
        f"{models['fp32'].name} fp32, where named {int8_name} int8, {options.threads} threads, medians of "
        f"{len(rounds)} rounds of loads of {unit_s:.1f} s\n{_TIMED}\n{format_loads(loads)}\n\n{format_targets(reached)}"
    )
    if options.output:
        result = {
            "benchmark": options.command,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": git_commit(ROOT),
            "command": command_line(options),
            "timed": _TIMED,
            "machine": machine,
            "threads": options.threads,
            "models": [model.describe() for model in models.values()],
            "systems": {
                f"{name}, {models[precision].name}": {"versions": system.subject.versions, **system.subject.facts}
                for precision, fleet in fleets.items()
                for name, system in fleet.items()
            },
            "unavailable": {name: shorten_reason(reason) for name, reason in unavailable.items()},
            "rounds": len(rounds),
            "load_s": round(unit_s, 2),
            "targets": [entry.describe() for entry in reached],
            "loads": {
                load: {
                    name: {key: asdict(value) for key, value in figures.items()} for name, figures in systems.items()
                }
                for load, systems in loads.items()
            },
        }
        write_result(options.output, result)


def spreads(rounds: Sequence[Found]) -> Spreads:
    """Every figure over the rounds that have it, and ``ours_to_it``: our docs/s to a system's in the same round."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for figures_of_round in rounds:
        for load, systems in figures_of_round.items():
            ours = systems.get(OURS, {}).get("docs_per_s")
            for system, figures in systems.items():
                kept = found.setdefault(load, {}).setdefault(system, {})
                speed = figures.get("docs_per_s")
                ratio = {"ours_to_it": ours / speed} if ours and speed and system != OURS else {}
                for name, value in {**figures, **ratio}.items():
                    if value is not None:
                        kept.setdefault(name, []).append(value)
    return {
        load: {system: {name: spread(values) for name, values in kept.items()} for system, kept in systems.items()}
        for load, systems in found.items()
    }


def format_loads(loads: Spreads) -> str:
    """The table of all loads: medians, and of docs/s and ratios the range.

    Args:
        loads: As `spreads` gives them.
    """
    columns = ("", "system", "docs/s", "min", "max", "ours to it", "min", "max", "p50 ms", "p95 ms", "p99 ms")
    rows: list[tuple[str, ...]] = [(*columns, "rejected", "unanswered")]
    for load, systems in loads.items():
        for system, figures in systems.items() if load != OVERHEAD else ():
            speed, ratio = figures["docs_per_s"], figures.get("ours_to_it")
            latencies = (figures.get(name) for name in ("p50_ms", "p95_ms", "p99_ms"))
            rows.append(
                (
                    load,
                    system,
                    *(f"{value:,.0f}" for value in (speed.median, speed.min, speed.max)),
                    *(("-",) * 3 if ratio is None else (f"{v:.2f}" for v in (ratio.median, ratio.min, ratio.max))),
                    *("-" if value is None else f"{value.median:.1f}" for value in latencies),
                    *(f"{figures[name].median:.0%}" for name in ("rejected", "unanswered")),
                )
            )
    return format_table(rows)


def format_targets(reached: Sequence[Reached]) -> str:
    """The short table: what is wanted, what the rounds gave, and whether the median meets it."""
    return format_table([("", "wanted", "reached", "min", "max", ""), *(entry.row() for entry in reached)])
