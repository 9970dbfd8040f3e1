"""Goals: what crossrank is meant to reach, and whether figures at hand say that it does; one table for all.

Two lists: beside other engines, from the suite's results; and with many callers, from the rounds of a run. `gpu` has
those on one H100. A goal compares figures that were taken in turns, with one exception: long calls beside short ones.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from benchmarks.engines.registry import ENGINES, Kind
from benchmarks.inputs.models import title_of
from benchmarks.measure import rounds
from benchmarks.measure.rounds import Found
from benchmarks.measure.turns import Spread, spread

from .result import AFTER_PAUSE, Result, Results
from .tables import number

Source = TypeVar("Source")


class NotMeasuredError(Exception):
    """There is nothing to compare; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A figure; what it compares, such as "crossrank int8 / fastembed qint8"; and its spread over rounds."""

    value: float
    of: str = ""
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class Goal(Generic[Source]):
    """One claim.

    Attributes:
        claim: In words.
        wanted: The figure that meets it.
        find: Gives the figure; None, or NotMeasuredError, where it was not measured.
        stretch: What would be better still.
        at_most: The figure may be `wanted` at most; otherwise it must be that at least.
        share: Whether the figure is a share, shown in percent.
    """

    claim: str
    wanted: float
    find: Callable[[Source], Reached | float | None]
    stretch: float | None = None
    at_most: bool = False
    share: bool = False

    def check(self, source: Source) -> "Checked":
        """What the figures say of it."""
        try:
            found = self.find(source)
        except NotMeasuredError as error:
            return Checked(self, None, str(error))
        return Checked(self, found if found is None or isinstance(found, Reached) else Reached(found))


@dataclass(frozen=True, slots=True)
class Checked:
    """A goal with what was reached, None where it was not measured, and why that is."""

    goal: Goal[Any]
    reached: Reached | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the figure reaches it."""
        if self.reached is None:
            return None
        wanted, value = self.goal.wanted, self.reached.value
        return value <= wanted if self.goal.at_most else value >= wanted

    @property
    def state(self) -> str:
        """In words; of what was not measured with the reason where there is one."""
        if self.reached is None:
            return f"not measured: {self.why}" if self.why else "not measured"
        return "met" if self.met else "not met"

    def describe(self) -> dict[str, object]:
        """As JSON has it."""
        goal, found = self.goal, self.reached and self.reached.spread
        values = {"wanted": goal.wanted, "at_most": goal.at_most, "reached": found and asdict(found)}
        return {"claim": goal.claim, **values, "met": self.met}

    def row(self) -> list[str]:
        """Of the table."""
        goal, reached = self.goal, self.reached
        wanted = f"{'≤' if goal.at_most else '≥'} {self._show(goal.wanted)}"
        wanted += f" ({self._show(goal.stretch)})" if goal.stretch else ""
        if reached is None:
            return [goal.claim, wanted, "", "", "", self.state, ""]
        range_ = [self._show(v) for v in (reached.spread.min, reached.spread.max)] if reached.spread else ["", ""]
        return [goal.claim, wanted, self._show(reached.value), *range_, self.state, reached.of]

    def _show(self, value: float) -> str:
        return f"{value:.1%}" if self.goal.share else number(value)


def goals_table(checked: Sequence[Checked], *, rehearsal: bool = False) -> list[list[str]]:
    """A row for each goal, below the headings; of min, max and what is compared only columns that hold something."""
    rows = [["", "wanted", "reached", "min", "max", "", "of"], *(one.row() for one in checked)]
    kept = [i for i in range(7) if i not in (3, 4, 6) or any(row[i] for row in rows[1:])]
    if rehearsal:
        for row, one in zip(rows[1:], checked, strict=True):
            row[5] = "rehearsed" if one.reached else row[5]
    return [[row[i] for i in kept] for row in rows]


# --- Beside other engines, from the suite's results.

_OURS = ("crossrank-fp32", "crossrank-int8")
LONG_CALLS = ("tinybert-l2", 1000, 100_000)

Cell = tuple[str, str, int | None]  # command, model, documents of a call


@dataclass(frozen=True, slots=True)
class _Peers:
    """Whom to compare with, in words: the best engine of some kinds, or one."""

    words: str
    kinds: tuple[Kind, ...] = ()
    key: str = ""
    expert: bool | None = None  # only those of experts, or only the others; else all, an expert's among them

    def fit(self, name: str, kind: str) -> bool:
        """Whether an engine of a result is one of them."""
        return kind in self.kinds and is_peer(name) and self.expert in (None, is_expert(name))


_TORCH = _Peers("sentence-transformers torch fp32", key="st-torch-fp32")
_FASTEMBED = _Peers("fastembed's", key="fastembed-fp32")
_FASTEMBED_INT8 = _Peers("fastembed's qint8", key="fastembed-qint8")
_EXACT = _Peers("the best exact peer as packaged", ("exact",), expert=False)
_QUANTIZED = _Peers("the best quantized peer as packaged", ("int8",), expert=False)
_LOW_PACKAGED = _Peers("the best quantized or bf16 peer as packaged", ("int8", "bf16"), expert=False)
_LOW = _Peers("the best quantized or bf16 peer", ("int8", "bf16"))
_NNCF = _Peers("expert openvino NNCF int8", key="expert-openvino-int8")
_CTRANSLATE2 = _Peers("expert ctranslate2 fp32", key="expert-ctranslate2-fp32")
_GRAPH = _Peers("onnxruntime's graph", key="crossrank-int8")
_KINDS: tuple[Kind, ...] = ("exact", "approximate", "bf16", "int8")
_ANY, _ANYS = _Peers("the best peer", _KINDS), _Peers("the best peer's", _KINDS)
_EXPERT = _Peers("the best expert peer", _KINDS, expert=True)
_EXPERTS = {spec.name: spec.expert for spec in ENGINES.values()}


def is_ours(engine: str) -> bool:
    """Whether an engine of a result is one of ours, by its name."""
    return engine.split(" ")[0] == "crossrank"


def is_expert(engine: str) -> bool:
    """Whether an engine of a result is set up as an expert would."""
    return _EXPERTS.get(engine, False)


def is_peer(engine: str) -> bool:
    """Whether an engine of a result is another's, which the registry still has."""
    return engine in _EXPERTS and not is_ours(engine)


def _result(results: Results, cell: Cell) -> Result:
    benchmark, model, size = cell
    found = results.find(benchmark, model, size)
    if found is None:
        at = "" if size is None else f" at {size:,} documents"
        raise NotMeasuredError(f"no {benchmark} of {model}{at}")
    return found


def _figure(result: Result, engine: str, path: str) -> float:
    value = result.figure(engine, path)
    if value is None:
        reason = result.unavailable.get(engine, f"no {path} in {result.benchmark} of {result.model}")
        raise NotMeasuredError(f"{engine}: {reason}")
    return value


def _best(result: Result, engines: Sequence[str], path: str, lowest: bool) -> str:
    best = engines[0] if len(engines) == 1 else result.best(engines, path, lowest=lowest)
    if best is None:
        raise NotMeasuredError(f"no engine to compare with in {result.benchmark} of {result.model}")
    return best


def _quotient(
    cell: Cell, path: str, ours: Sequence[str], peers: _Peers, results: Results, *, lowest: bool = False
) -> Reached:
    """The best of ours over the best of some peers."""
    result = _result(results, cell)
    theirs = [name for name, kind in result.kinds.items() if peers.fit(name, kind)]
    if not peers.key and peers.expert is None and not any(map(is_expert, theirs)):
        raise NotMeasuredError(f"no expert's peer in {result.benchmark} of {result.model}")
    our = _best(result, [ENGINES[key].name for key in ours], path, lowest)
    their = _best(result, [ENGINES[peers.key].name] if peers.key else theirs, path, lowest)
    return Reached(_figure(result, our, path) / _figure(result, their, path), f"{our} / {their}")


# Speeds are compared by their ratios to the baseline of the same round, not by documents per second: what slows the
# machine for a while slows both sides of a ratio.
def _speed(model: str, ours: str, peers: _Peers, wanted: float, stretch: float | None = None) -> Goal[Results]:
    options, keys = ENGINES[ours].options, (ours, "crossrank-int8-kernels") if ours == "crossrank-int8" else (ours,)
    what, to = (" with encoded documents", " with texts") if options["encoded"] else ("", "")
    what = " by kernels" if options["kernels"] else what
    claim = f"{title_of(model)} {options['precision']}{what}, docs/s to {peers.words}{to}"
    find = partial(_quotient, ("throughput", model, 100), "ratio.median", keys, peers)
    return Goal(claim, wanted, find, stretch)


def _share_of_peak(model: str, ours: str, wanted: float, stretch: float | None = None) -> Goal[Results]:
    name, precision = ENGINES[ours].name, ENGINES[ours].options["precision"]

    def find(results: Results) -> Reached:
        return Reached(_figure(_result(results, ("throughput", model, 100)), name, "share_of_peak"), name)

    peak = f"share of its {precision} products' speed, by the operations of the whole model"
    return Goal(f"{title_of(model)} {precision}, {peak}", wanted, find, stretch)


def _lowest(claim: str, wanted: float, cell: Cell, path: str, ours: Sequence[str], peers: _Peers) -> Goal[Results]:
    find = partial(_quotient, cell, path, ours, peers, lowest=True)
    return Goal(f"{claim} to {peers.words}", wanted, find, at_most=True)


def _long_calls(results: Results) -> Reached:
    """Documents per second of long calls beside those of short ones, of whichever of our precisions loses more."""
    model, short, long = LONG_CALLS
    results_of = [_result(results, ("throughput", model, size)) for size in (long, short)]
    speeds = {
        name: [_figure(result, name, "docs_per_s.median") for result in results_of]
        for name in (ENGINES[key].name for key in _OURS)
    }
    ratios = {name: at_long / at_short for name, (at_long, at_short) in speeds.items()}
    worst = min(ratios, key=lambda name: ratios[name])
    return Reached(ratios[worst], f"{worst}, {long:,} / {short:,} documents")


def _of_service(claim: str, wanted: float) -> Goal[Results]:
    """One of `load_goals`, as a result of `service` has it."""

    def find(results: Results) -> Reached:
        found = results.service.get(claim, {}).get("reached")
        if found is None:
            raise NotMeasuredError("no service of tinybert-l2")
        return Reached(found["median"], spread=Spread(**found))

    return Goal(claim, wanted, find, share=True)


_ETTIN = ("ettin-17m", "ettin-32m")
_START: Cell = ("startup", "tinybert-l2", None)
_MEMORY: Cell = ("memory", "minilm-l12", None)
_PEAK_MB = "peak_rss_mb"
_LONG = f"TinyBERT-L-2, docs/s of calls of {LONG_CALLS[2]:,} documents to those of {LONG_CALLS[1]:,}"
_KERNELS = ("crossrank-int8-kernels",)
_TEN: Cell = ("latency", "tinybert-l2", 10)
_LONG_DOCUMENT: Cell = ("latency", "minilm-l12-synthetic-long", 1)
_BEGIN = "TinyBERT-L-2 fp32, import, load and first score"
_LONG_CLAIM = "MiniLM-L12 int8 by kernels, p50 of one document of 512 tokens"
# What the library is built for.
TARGETS: tuple[Goal[Results], ...] = (
    _speed("minilm-l12", "crossrank-int8", _NNCF, 1.5, stretch=1.7),
    _speed("tinybert-l2", "crossrank-int8", _EXPERT, 3, stretch=3.5),
    # The embedded model has this shape.
    _speed("minilm-l6", "crossrank-int8-kernels", _GRAPH, 1.4),
    _speed("minilm-l12", "crossrank-fp32", _CTRANSLATE2, 1.15, stretch=1.25),
    _lowest(_LONG_CLAIM, 1 / 1.4, _LONG_DOCUMENT, "p50_ms", _KERNELS, _GRAPH),
    _lowest("TinyBERT-L-2, p50 of 10 documents", 1 / 3, _TEN, "p50_ms", (*_OURS, *_KERNELS), _ANYS),
    _lowest("TinyBERT-L-2, p50 of 10 documents after a pause", 1 / 3, _TEN, AFTER_PAUSE, (*_OURS, *_KERNELS), _ANYS),
    _of_service(f"docs/s of {rounds.SIXTEEN} to {rounds.ONE_LARGE}, TinyBERT-L-2 fp32", 0.95),
    _of_service("goodput at 3x capacity to peak, requests of 10", 0.95),
    _lowest(_BEGIN, 1 / 2, _START, "total_s.median", _OURS[:1], _FASTEMBED),
)
GOALS: tuple[Goal[Results], ...] = (
    *TARGETS,
    *(_speed(model, "crossrank-fp32", _TORCH, 3) for model in _ETTIN),
    *(_speed(model, "crossrank-int8", _LOW, 1.8) for model in _ETTIN),
    _speed("gte-modernbert-base", "crossrank-fp32", _TORCH, 1.7),
    _speed("gte-modernbert-base", "crossrank-int8", _TORCH, 4),
    _speed("mxbai-xsmall", "crossrank-fp32", _TORCH, 3),
    _speed("mxbai-xsmall", "crossrank-int8", _TORCH, 5),
    _speed("tinybert-l2", "crossrank-fp32", _TORCH, 4.2, stretch=5),
    _speed("tinybert-l2", "crossrank-fp32", _EXACT, 3),
    _speed("tinybert-l2", "crossrank-int8", _QUANTIZED, 3, stretch=3.8),
    _speed("tinybert-l2", "crossrank-int8-encoded", _TORCH, 7, stretch=8),
    _speed("minilm-l12", "crossrank-fp32", _EXACT, 1.8),
    _share_of_peak("minilm-l12", "crossrank-fp32", 1),
    _speed("minilm-l12", "crossrank-int8", _LOW_PACKAGED, 1.8, stretch=2.3),
    _share_of_peak("minilm-l12", "crossrank-int8", 0.6, stretch=0.75),
    _speed("bert-base", "crossrank-int8", _ANY, 1.5, stretch=2),
    _lowest("MiniLM-L12 fp32, peak memory", 1 / 2, _MEMORY, _PEAK_MB, _OURS[:1], _FASTEMBED),
    _lowest("MiniLM-L12 int8, peak memory", 1 / 2, _MEMORY, _PEAK_MB, _OURS[1:], _FASTEMBED_INT8),
    Goal(_LONG, 0.95, _long_calls),
)


def service_goals(results: Results) -> list[Checked]:
    """All goals of `service`, as its result has them."""
    checked = []
    for claim, entry in results.service.items():
        wanted, found = entry["wanted"], entry["reached"]
        goal: Goal[Any] = Goal(claim, wanted, lambda _: None, at_most=entry["at_most"], share=wanted < 1)
        checked.append(Checked(goal, found and Reached(found["median"], spread=Spread(**found))))
    return checked


# --- With many callers, from the rounds of a run.

Find = Callable[[Found], float]  # of one round; KeyError, TypeError or ZeroDivisionError where something fell out


def _at(load: str, figure: str = "docs_per_s", system: str = rounds.OURS) -> Find:
    return lambda found: float(found[load][system][figure])  # type: ignore[arg-type]  # None, a TypeError, of no answer


def _over(above: Find, below: Find) -> Find:
    return lambda found: above(found) / below(found)


def _less_one_batch(load: str) -> Find:
    return lambda found: _at(load, "p99_ms")(found) - _at(load, "batch_ms")(found)


def load_goals(model: str, int8_model: str, peer: str, deadline_ms: float) -> list[Goal[Sequence[Found]]]:
    """What many callers are meant to get of one model.

    Args:
        model: The name of the model whose loads have no name before them.
        int8_model: The name of the one whose loads begin with it.
        peer: The name of the system to compare with.
        deadline_ms: Of the calls with one.
    """
    large, many, alone = rounds.ONE_LARGE, rounds.SIXTEEN, _at(rounds.ALONE, "p99_ms")
    fp32, int8, before = f"{model} fp32", f"{int8_model} int8", f"{int8_model}: "
    goals: list[Goal[Sequence[Found]]] = []

    def add(claim: str, wanted: float, find: Find, *, at_most: bool = False, share: bool = False) -> None:
        def over_rounds(all_found: Sequence[Found]) -> Reached | None:
            figures = []
            for found in all_found:
                with suppress(KeyError, TypeError, ZeroDivisionError):
                    figures.append(find(found))
            over = spread(figures) if figures else None
            return Reached(over.median, spread=over) if over else None

        goals.append(Goal(claim, wanted, over_rounds, at_most=at_most, share=share))

    add(f"docs/s of {many} to {large}, {fp32}", 0.95, _over(_at(many), _at(large)), share=True)
    add(f"docs/s of {many} to {large}, {int8}", 0.9, _over(_at(before + many), _at(before + large)), share=True)
    add(f"docs/s to {peer}, {many}, {int8}", 4, _over(_at(before + many), _at(before + many, system=peer)))
    add(f"docs/s to {peer}, {many}, {fp32}", 5, _over(_at(many), _at(many, system=peer)))
    for size in (rounds.MIX, "10"):
        full, most = rounds.open_load(rounds.FULL, size), rounds.open_load(rounds.OVER, size)
        loads = [_at(load) for load in (rounds.closed_load(16, size), full, most)]

        def peak(found: Found, loads: Sequence[Find] = loads) -> float:
            return max(load(found) for load in loads)

        add(f"goodput at 3x capacity to peak, requests of {size}", 0.95, _over(_at(most), peak), share=True)
        tail = _over(_at(most, "p99_ms"), _at(full, "p99_ms"))
        add(f"p99 of accepted at 3x capacity to p99 at 1x, requests of {size}", 2, tail, at_most=True)
    beside = _over(_less_one_batch(rounds.BESIDE), alone)
    add("p99 of 10 beside 2 callers x 1,000, less one batch, to p99 alone", 3, beside, at_most=True)
    for state, load in (("idle", rounds.IDLE), ("loaded", rounds.LOADED)):
        claim = f"overrun at p99 of rank(deadline_ms={deadline_ms:g}), {state}, less one batch, of the deadline"
        late = _less_one_batch(load)
        add(claim, 0.1, lambda found, late=late: late(found) / deadline_ms - 1, at_most=True, share=True)  # type: ignore[misc]
    return goals
