"""What many callers are meant to get of one model, and what the rounds of a run say of it; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.measure.turns import Spread, spread

# Load -> system -> figure.
Found = Mapping[str, Mapping[str, Mapping[str, float | None]]]

OURS = "crossrank"
ONE_LARGE, SIXTEEN = "1 caller x 1,000", "16 callers x 10"
MIX = "1-1,000"
ALONE, BESIDE = "10, alone", "10, beside 2 callers x 1,000"
IDLE, LOADED = "deadline, idle", "deadline, beside 16 callers x 10"
OVERHEAD = "scheduler"
TIMES = (0.1, 0.5, 1, 2, 3)  # of capacity


def closed_load(callers: int, size: str) -> str:
    """The name of a closed loop."""
    return f"{callers} callers x {size}" if callers > 1 else f"{callers} caller x {size}"


def open_load(times: float, size: str) -> str:
    """The name of an open loop.

    >>> open_load(3, "10")
    'arriving, 3 x capacity, 10'
    """
    return f"arriving, {times:g} x capacity, {size}"


@dataclass(frozen=True, slots=True)
class Target:
    """One claim.

    Attributes:
        claim: In words.
        wanted: The figure that reaches it.
        find: Gives the figure of a round; KeyError, TypeError or ZeroDivisionError where it was not measured.
        at_most: The figure may be `wanted` at most; otherwise it must be that at least.
        unit: "%" for a share, "x" for a ratio.
    """

    claim: str
    wanted: float
    find: Callable[[Found], float]
    at_most: bool = False
    unit: str = "x"


@dataclass(frozen=True, slots=True)
class Reached:
    """A target with its figure over the rounds, None where no round has it."""

    target: Target
    figure: Spread | None

    @property
    def met(self) -> bool | None:
        """Whether the median reaches it."""
        if self.figure is None:
            return None
        wanted, median = self.target.wanted, self.figure.median
        return median <= wanted if self.target.at_most else median >= wanted

    def describe(self) -> dict[str, object]:
        """As JSON has it."""
        target, figure = self.target, self.figure
        values = {"wanted": target.wanted, "at_most": target.at_most, "reached": figure and asdict(figure)}
        return {"claim": target.claim, **values, "met": self.met}

    def row(self) -> tuple[str, ...]:
        """Of the table: claim, wanted, reached, minimum and maximum, and whether it is met."""
        sign, figure = "<=" if self.target.at_most else ">=", self.figure
        if figure is None:
            return (self.target.claim, f"{sign} {self._show(self.target.wanted)}", "-", "-", "-", "not measured")
        shown = (self._show(value) for value in (figure.median, figure.min, figure.max))
        wanted = f"{sign} {self._show(self.target.wanted)}"
        return (self.target.claim, wanted, *shown, "met" if self.met else "not met")

    def _show(self, value: float) -> str:
        return f"{value:.1%}" if self.target.unit == "%" else f"{value:.2f}x"


def reach(targets: Sequence[Target], rounds: Sequence[Found]) -> list[Reached]:
    """Each target's figure: median and range over the rounds that have it."""
    found = []
    for target in targets:
        figures = []
        for figures_of_round in rounds:
            try:
                figures.append(target.find(figures_of_round))
            except (KeyError, TypeError, ZeroDivisionError):  # a system fell out, or answered nothing
                continue
        found.append(Reached(target, spread(figures) if figures else None))
    return found


def targets(model: str, int8_model: str, peer: str, deadline_ms: float) -> list[Target]:
    """What is claimed.

    Args:
        model: The name of the model whose loads have no name before them.
        int8_model: The name of the one whose loads begin with it.
        peer: The name of the system to compare with.
        deadline_ms: Of the calls with one.
    """
    sixteen_int8 = f"{int8_model}: {SIXTEEN}"

    def docs_per_s(found: Found, load: str, system: str = OURS) -> float:
        return _number(found[load][system]["docs_per_s"])

    def joined(before: str) -> Callable[[Found], float]:
        return lambda found: docs_per_s(found, before + SIXTEEN) / docs_per_s(found, before + ONE_LARGE)

    def goodput(size: str) -> Callable[[Found], float]:
        full, most = open_load(1, size), open_load(TIMES[-1], size)
        peak = (closed_load(16, size), full, most)
        return lambda found: docs_per_s(found, most) / max(docs_per_s(found, load) for load in peak)

    def tail(size: str) -> Callable[[Found], float]:
        full, most = open_load(1, size), open_load(TIMES[-1], size)
        return lambda found: _p99(found, most) / _p99(found, full)

    def overrun(load: str) -> Callable[[Found], float]:
        return lambda found: (_p99(found, load) - _batch(found, load) - deadline_ms) / deadline_ms

    return [
        Target(f"docs/s of 16 callers x 10 to 1 caller x 1,000, {model} fp32", 0.9, joined(""), unit="%"),
        Target(
            f"docs/s of 16 callers x 10 to 1 caller x 1,000, {int8_model} int8",
            0.9,
            joined(f"{int8_model}: "),
            unit="%",
        ),
        Target(
            f"docs/s to {peer}, 16 callers x 10, {int8_model} int8",
            4,
            lambda found: docs_per_s(found, sixteen_int8) / docs_per_s(found, sixteen_int8, peer),
        ),
        Target(
            f"docs/s to {peer}, 16 callers x 10, {model} fp32",
            5,
            lambda found: docs_per_s(found, SIXTEEN) / docs_per_s(found, SIXTEEN, peer),
        ),
        *(
            target
            for size in (MIX, "10")
            for target in (
                Target(f"goodput at 3x capacity to peak, requests of {size}", 0.95, goodput(size), unit="%"),
                Target(f"p99 of accepted at 3x capacity to p99 at 1x, requests of {size}", 2, tail(size), at_most=True),
            )
        ),
        Target(
            "scheduler overhead of a lone caller x 10",
            0.05,
            lambda found: _number(found[OVERHEAD][OURS]["overhead"]),
            at_most=True,
            unit="%",
        ),
        Target(
            "p99 of 10 beside 2 callers x 1,000, less one batch, to p99 alone",
            3,
            lambda found: (_p99(found, BESIDE) - _batch(found, BESIDE)) / _p99(found, ALONE),
            at_most=True,
        ),
        *(
            Target(
                f"overrun at p99 of rank(deadline_ms={deadline_ms:g}), {state}, less one batch, of the deadline",
                0.1,
                overrun(load),
                at_most=True,
                unit="%",
            )
            for state, load in (("idle", IDLE), ("loaded", LOADED))
        ),
    ]


def _p99(found: Found, load: str) -> float:
    return _number(found[load][OURS]["p99_ms"])


def _batch(found: Found, load: str) -> float:
    return _number(found[load][OURS]["batch_ms"])


def _number(value: float | None) -> float:
    if value is None:
        raise TypeError("not measured")
    return value
