"""One round of loads: which systems get which, in turns, and what they gave."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from benchmarks.engines.registry import ENGINES, EngineSpec
from benchmarks.engines.worker import EngineUnavailable, WorkerError
from benchmarks.inputs.models import BenchmarkModel
from benchmarks.reporting.load_goals import (
    ALONE,
    BESIDE,
    IDLE,
    LOADED,
    MIX,
    ONE_LARGE,
    OURS,
    OVERHEAD,
    SIXTEEN,
    TIMES,
    closed_load,
    open_load,
)

from .load_process import BOUNDED, DEADLINE, DIRECT, LOCKED, ROOMY, SHARED, Group, Measured, Subject, open_subject

UNITS = 46  # of time in a round: 16 + 5 closed, 17 open, 3 beside, 4 deadlines, 1 overhead

_LOCK = "crossrank under a lock"
_CALLERS = (1, 4, 16, 64)
# In open loops: enough callers for ours to fill its queue; a lock and a pool are kept busy by fewer.
_OURS_AT_ONCE, _OTHERS_AT_ONCE = 256, 16
_WARM_UP_S = 1.0  # at least; less where loads are shorter
_PAUSE_S = 0.05  # idle threads spin for some milliseconds before they sleep

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class System:
    """One that takes requests: a process, and how it is called in closed and in open loops."""

    subject: Subject
    closed: str = SHARED
    open: str = SHARED
    callers: int = _OTHERS_AT_ONCE


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
) -> dict[str, System]:
    """The systems that serve a model, by name.

    Args:
        model: What they load.
        precision: Of ours.
        peer: Whom to compare with.
        threads: Of each system.
        unit_s: Of a load; the warm-up is not longer.
        stack: Ends the processes.
        unavailable: Gets why the peer cannot be measured.

    Raises:
        EngineUnavailable: If ours cannot be opened.
    """
    warm_up_s = min(_WARM_UP_S, unit_s)

    def subject(spec: EngineSpec) -> Subject:
        return stack.enter_context(open_subject(spec, model, threads=threads, warm_up_s=warm_up_s))

    ours = subject(ENGINES[f"crossrank-{precision}"])
    fleet = {OURS: System(ours, open=BOUNDED, callers=_OURS_AT_ONCE), _LOCK: System(ours, closed=LOCKED, open=LOCKED)}
    try:
        fleet[pool_of(peer)] = System(subject(peer))
    except EngineUnavailable as error:
        unavailable[f"{pool_of(peer)}, {model.name}"] = str(error)
    return fleet


@dataclass(frozen=True, slots=True)
class Round:
    """A round.

    Attributes:
        number: From 0; chooses the order of systems and of sizes.
        unit_s: How long a load lasts; some take two or four such units.
        unavailable: Gets why a system or a load gave nothing.
        found: Load -> system -> figures.
    """

    number: int
    unit_s: float
    unavailable: dict[str, str]
    found: dict[str, dict[str, Figures]] = field(default_factory=dict)

    def measure(self, fleet: Mapping[str, System], int8: Mapping[str, System], int8_model: str) -> None:
        """All loads.

        Args:
            fleet: The systems of the model that all of them are for.
            int8: Those of the one for a single comparison, or none.
            int8_model: Its name.

        Raises:
            WorkerError: If our process ended.
        """
        alone = {OURS: fleet[OURS]}
        self._closed(ONE_LARGE, alone, 1, 1000)
        for callers in _CALLERS:
            self._closed(closed_load(callers, "10"), fleet, callers, 10)
        self._closed(closed_load(16, MIX), fleet, 16, None)
        self._closed(f"{int8_model}: {ONE_LARGE}", {name: it for name, it in int8.items() if name == OURS}, 1, 1000)
        self._closed(f"{int8_model}: {SIXTEEN}", {name: it for name, it in int8.items() if name != _LOCK}, 16, 10, 2)
        for times in TIMES:
            self._open(times, MIX, fleet, None)
        for times in (1, TIMES[-1]):
            self._open(times, "10", alone, 10)
        small, large, busy = Group(SHARED, 1, 10), Group(SHARED, 2, 1000), Group(SHARED, 16, 10)
        late = Group(DEADLINE, 1, 1000)
        for load, groups, units in (
            (ALONE, [small], 1),
            (BESIDE, [small, large], 2),
            (IDLE, [late], 2),
            (LOADED, [late, busy], 2),
        ):
            self._turns(load, alone, partial(self._ask, groups=groups, units=units))
        overhead = fleet[OURS].subject.overhead(SHARED, DIRECT, 10, seconds=self.unit_s)
        self.found[OVERHEAD] = {OURS: {"overhead": round(overhead, 4)}}

    def _closed(
        self, load: str, systems: Mapping[str, System], callers: int, documents: int | None, units: int = 1
    ) -> None:
        self._turns(load, systems, lambda it: self._ask(it, [Group(it.closed, callers, documents)], units))

    def _ask(self, system: System, groups: Sequence[Group], units: int) -> Measured:
        return system.subject.closed(groups, seconds=units * self.unit_s, seed=self.number)

    def _open(self, times: float, size: str, systems: Mapping[str, System], documents: int | None) -> None:
        capacity = self.found[closed_load(16, size)][OURS]["docs_per_s"]
        assert capacity, "ours answered, or the load before had ended the run"

        def ask(system: System) -> Measured:
            return system.subject.open(
                ROOMY if system.open == BOUNDED and documents is None else system.open,
                times * capacity,
                documents,
                seconds=self.unit_s,
                callers=system.callers,
                seed=self.number,
            )

        self._turns(open_load(times, size), systems, ask)

    def _turns(self, load: str, systems: Mapping[str, System], ask: Callable[[System], Measured]) -> None:
        names = list(systems)
        first = self.number % max(1, len(names))
        figures = self.found.setdefault(load, {})
        for name in names[first:] + names[:first]:
            time.sleep(_PAUSE_S)
            try:
                measured = ask(systems[name])
            except WorkerError as error:
                if name == OURS:
                    raise
                self.unavailable[f"{name}, {load}"] = str(error)
                continue
            answers = measured.groups[0]
            figures[name] = answers.figures() | {"batch_ms": measured.batch_ms}
            if answers.error:
                self.unavailable[f"{name}, {load}"] = answers.error
