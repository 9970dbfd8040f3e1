"""``python -m benchmarks COMMAND``: parse, run one command, print.

A command is a module of ``commands/``, or an object in one, with `add_arguments` and `run`. Only the one that runs is
imported, since each has dependencies of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from benchmarks.engines.registry import WorkerError
from crossrank import CrossrankError

# Name -> module of ``commands/`` (with a colon, an object in it), and what it does.
COMMANDS = {
    "quality": ("quality", "how well and how fast models, cascades and others' runs rank judged queries"),
    "throughput": ("compare:throughput", "docs/s of whole calls, ours and others', and how near the scores are"),
    "latency": ("compare:latency", "p50, p95 and p99 of one call"),
    "memory": ("compare:memory", "memory of an engine's process, now and at most"),
    "startup": ("compare:startup", "import, load and first score in fresh processes"),
    "service": ("service", "docs/s and latencies under many callers, beside a peer's thread pool"),
    "serve": ("serve", "crossrank serve over loopback, beside the model in process and a plain FastAPI server"),
    "scale": ("scale", "actors of Ray and Beam's DirectRunner, beside one process with all cores"),
    "host": ("host", "CPU time of a document beside a GPU, encoded and as text, where computing takes none"),
    "suite": ("suite", "the measurements that the documents show, to go on where an earlier run was stopped"),
    "gpu": ("gpu", "a GPU machine checked and timed in parts, beside peers; --rehearse needs none"),
    "report": ("report", "the tables and the goals in the documents, from the results"),
}


class Command(Protocol):
    """What a module in `COMMANDS` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, options: argparse.Namespace) -> None:
        """Measure and print; CrossrankError and WorkerError are failures whose message says enough."""


def parse(arguments: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """The command that arguments name, and its options; ends the program with status 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure crossrank and its peers. See benchmarks/README.md.",
        epilog="python -m benchmarks COMMAND --help prints a command's options.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = None
    for name, (place, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in arguments[:1]:
            module, _, attribute = place.partition(":")
            found = import_module(f"benchmarks.commands.{module}")
            chosen = cast(Command, getattr(found, attribute) if attribute else found)
            chosen.add_arguments(command)
    options = parser.parse_args(arguments)
    assert chosen is not None, "argparse ends the program where no command was given"
    return chosen, options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 for a failure, 2 for wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command, options = parse(given)
    except ModuleNotFoundError as error:
        print(f"error: {error}; the benchmarks need: pip install --group test", file=sys.stderr)
        return 1
    try:
        command.run(options)
    except (CrossrankError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
