"""One round of loads: which systems get which, in turns, and what they gave."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engines.registry import ENGINES, EngineSpec, EngineUnavailable, WorkerError
from benchmarks.inputs.models import BenchmarkModel

from .subject import BOUNDED, DEADLINE, ROOMY, SHARED, Group, Subject
from .turns import Spread, Turns, spread

UNITS = 20  # of time in a round: 4 + 5 closed, 4 open, 3 beside, 4 deadlines

# Systems and loads, by name.
OURS = "crossrank"
ONE_LARGE, SIXTEEN = "1 caller x 1,000", "16 callers x 10"
MIX = "1-1,000"
ALONE, BESIDE = "10, alone", "10, beside 2 callers x 1,000"
IDLE, LOADED = "deadline, idle", "deadline, beside 16 callers x 10"
FULL, OVER = 1, 3  # times capacity

_AT_ONCE = 256  # callers of an open loop: enough to fill the queue
_WARM_UP_S = 1.0  # at least; less where loads are shorter
_PAUSE_S = 0.05  # idle threads spin for some milliseconds before they sleep

# Load -> system -> figure: of a round, and over the rounds.
Found = Mapping[str, Mapping[str, Mapping[str, float | None]]]
Measured = dict[str, Any]  # as `Subject.load` gives it
Spreads = dict[str, dict[str, dict[str, Spread]]]


def closed_load(callers: int, size: str) -> str:
    """The name of a closed loop."""
    return f"{callers} callers x {size}" if callers > 1 else f"{callers} caller x {size}"


def open_load(times: float, size: str) -> str:
    """The name of an open loop.

    >>> open_load(3, "10")
    'arriving, 3 x capacity, 10'
    """
    return f"arriving, {times:g} x capacity, {size}"


def pool_of(peer: EngineSpec) -> str:
    """A peer's name as a system."""
    return f"{peer.name} in a thread pool"


def open_fleet(
    model: BenchmarkModel,
    precision: str,
    peer: EngineSpec,
    *,
    threads: int,
    unit_s: float,
    stack: ExitStack,
    unavailable: dict[str, str],
) -> dict[str, Subject]:
    """The systems that serve a model in a precision, by name; ``unavailable`` gets why the peer cannot be measured.

    The stack ends the processes; a warm-up is not longer than a load. EngineUnavailable is raised where ours cannot be
    opened.
    """

    def subject(spec: EngineSpec) -> Subject:
        return stack.enter_context(Subject(spec, model, threads=threads, warm_up_s=min(_WARM_UP_S, unit_s)))

    fleet = {OURS: subject(ENGINES[f"crossrank-{precision}"])}
    try:
        fleet[pool_of(peer)] = subject(peer)
    except EngineUnavailable as error:
        unavailable[f"{pool_of(peer)}, {model.name}"] = str(error)
    return fleet


@dataclass(frozen=True, slots=True)
class Round:
    """A round: its number, which chooses the order of systems and sizes, and load -> system -> what was found.

    A load lasts for one or two times ``unit_s``; ``unavailable`` gets why a system or a load gave nothing.
    """

    number: int
    unit_s: float
    unavailable: dict[str, str]
    found: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)

    def measure(self, fleet: Mapping[str, Subject], int8: Mapping[str, Subject], int8_model: str) -> None:
        """All loads on the systems of one model, and two on those, if any, of the one that is called ``int8_model``.

        Raises:
            WorkerError: If our process ended.
        """
        alone, int8_alone = {OURS: fleet[OURS]}, {name: it for name, it in int8.items() if name == OURS}
        one, sixteen, mixed = (SHARED, 1, 1000), (SHARED, 16, 10), (SHARED, 16, None)
        self._closed(ONE_LARGE, alone, [one])
        self._closed(SIXTEEN, fleet, [sixteen])
        self._closed(closed_load(16, MIX), alone, [mixed])
        self._closed(f"{int8_model}: {ONE_LARGE}", int8_alone, [one])
        self._closed(f"{int8_model}: {SIXTEEN}", int8, [sixteen], 2)
        for size, documents, way in ((MIX, None, ROOMY), ("10", 10, BOUNDED)):
            for times in (FULL, OVER):
                self._open(times, size, alone, documents, way)
        small, late = (SHARED, 1, 10), (DEADLINE, 1, 1000)
        self._closed(ALONE, alone, [small])
        self._closed(BESIDE, alone, [small, (SHARED, 2, 1000)], 2)
        self._closed(IDLE, alone, [late], 2)
        self._closed(LOADED, alone, [late, sixteen], 2)

    def _closed(self, load: str, systems: Mapping[str, Subject], groups: Sequence[Group], units: int = 1) -> None:
        seconds = units * self.unit_s
        self._turns(load, systems, lambda it: it.load("closed", groups=groups, seconds=seconds, seed=self.number))

    def _open(self, times: float, size: str, systems: Mapping[str, Subject], documents: int | None, way: str) -> None:
        capacity = self.found[closed_load(16, size)][OURS]["docs_per_s"]
        assert capacity, "ours answered, or the load before had ended the run"
        load = {"way": way, "docs_per_s": times * capacity, "documents": documents, "callers": _AT_ONCE}
        self._turns(
            open_load(times, size),
            systems,
            lambda it: it.load("arriving", seconds=self.unit_s, seed=self.number, **load),
        )

    def _turns(self, load: str, systems: Mapping[str, Subject], ask: Callable[[Subject], Measured]) -> None:
        def measure(name: str) -> Measured:
            time.sleep(_PAUSE_S)
            return ask(systems[name])

        turns = Turns(systems, first=self.number)
        measured = turns.each(measure)
        if OURS in turns.failed:
            raise WorkerError(turns.failed[OURS])
        self.found[load] = {name: one["figures"] for name, one in measured.items()}
        failed = turns.failed | {name: one["failure"] for name, one in measured.items() if one["failure"]}
        self.unavailable.update({f"{name}, {load}": why for name, why in failed.items()})


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
