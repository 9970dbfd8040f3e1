"""Jobs, each in a process of its own: run in their order, within minutes, and none stops the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from benchmarks import ROOT

TIMED_OUT = 124  # an exit status, as of timeout(1)


class Job(Protocol):
    """What is run."""

    @property
    def name(self) -> str:
        """Of its result, without the ending."""

    @property
    def estimate_s(self) -> float:
        """A guess of its time."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the jobs, by name: failed with an exit status, or left for want of time."""

    failed: dict[str, int]
    left: list[str]


def run_jobs(todo: Sequence[J], launch: Callable[[J, float | None], int], *, minutes: float | None = None) -> Outcome:
    """Run jobs in their order; one that fails does not stop the others, and none begins that would end too late.

    ``launch`` runs one, which may take so many seconds (None: any), and returns its exit status.
    """
    begin = time.monotonic()
    guessed = measured = 0.0  # of the jobs that have run; their quotient corrects the guesses of the others
    failed: dict[str, int] = {}
    left: list[str] = []
    for i, job in enumerate(todo):
        elapsed = time.monotonic() - begin
        pace = measured / guessed if guessed else 1.0
        if minutes is not None and elapsed + pace * job.estimate_s > 60 * minutes:
            left.append(job.name)
            continue
        remaining = pace * sum(other.estimate_s for other in todo[i:])
        say(f"[{i + 1}/{len(todo)}] {job.name}: {in_words(elapsed)} gone, about {in_words(remaining)} to go")
        start = time.monotonic()
        status = launch(job, None if minutes is None else 60 * minutes - elapsed)
        measured, guessed = measured + time.monotonic() - start, guessed + job.estimate_s
        if status:
            failed[job.name] = status
            say(f"{job.name} failed with exit status {status}")
    for name in left:
        say(f"left for the next run: {name}")
    return Outcome(failed, left)


def run_command(arguments: Sequence[str], *, limit_s: float | None = None) -> int:
    """Run ``python -m benchmarks`` with these arguments, as `run` does it; returns its exit status."""
    return run([sys.executable, "-m", "benchmarks", *arguments], limit_s=limit_s)


def run(command: Sequence[str], *, limit_s: float | None = None) -> int:
    """Run a command; returns its exit status.

    At the limit, or where this is interrupted, it ends, and the processes that it has started end with it.
    """
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        with suppress(ProcessLookupError):  # of its session; nobody may be left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def in_words(seconds: float) -> str:
    """A time.

    >>> in_words(200), in_words(3 * 3600)
    ('3 min', '3.0 h')
    """
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)
