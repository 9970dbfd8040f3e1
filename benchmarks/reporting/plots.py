"""The plots: documents per second of each engine, and quality over them, which people choose a model by.

Drawn on no background, so that a page's own shows through. Each colour is therefore near the grey whose contrast to
white equals that to GitHub's dark page, 4.35; none can have more on both.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossrank import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = "#777b82"
OURS = "#d9480f"
THEIRS = "#868e96"

_WIDTH_INCHES, _ROW_INCHES, _EDGE_INCHES = 10.0, 0.25, 0.5


@dataclass(frozen=True, slots=True)
class Panel:
    """One model: its title, and engine -> documents per second, and the ratio to the baseline where there is one."""

    title: str
    bars: Mapping[str, tuple[float, float | None]]


@contextmanager
def new_figure(width_inches: float, height_inches: float) -> Iterator[tuple["Figure", io.BytesIO]]:
    """A figure to draw on, and the file that holds it afterwards, a PNG.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure  # not pyplot, which looks for a display
    except ImportError as error:
        raise MissingDependencyError(
            "the plot needs matplotlib: pip install matplotlib (or, in a checkout, pip install --group test)"
        ) from error

    # The font that matplotlib brings, so that all draw the same.
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
        figure, written = Figure(figsize=(width_inches, height_inches), dpi=115, layout="constrained"), io.BytesIO()
        yield figure, written
        # Without the version of matplotlib in it: the same figures give the same file.
        figure.savefig(
            written, format="png", transparent=True, metadata={"Software": None}, pil_kwargs={"optimize": True}
        )


def draw(panels: Sequence[Panel], *, highlighted: Sequence[str], engines: Sequence[str]) -> bytes:
    """Draw panels, at least one, of bars to the right, a row for each engine; returns a PNG.

    An engine that a panel lacks has no bar there.
    """
    with new_figure(_WIDTH_INCHES, _EDGE_INCHES + _ROW_INCHES * len(engines)) as (figure, written):
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            top = max((speed for speed, _ in panel.bars.values()), default=1)
            for row, engine in enumerate(engines):
                if engine not in panel.bars:
                    continue
                speed, ratio = panel.bars[engine]
                ours = engine in highlighted
                axis.barh(row, speed, height=0.72, color=OURS if ours else THEIRS)
                label = f" {speed:,.0f}" if speed >= 10 else f" {speed:.1f}"
                label += "" if ratio is None else f"  ({ratio:.1f}×)"
                weight = "bold" if ours else "normal"
                axis.text(speed, row, label, va="center", color=OURS if ours else TEXT, weight=weight)
            axis.set_title(panel.title, color=TEXT, weight="bold")
            axis.set_xlim(0, top * 1.55)  # room for the label of the longest
            axis.set_xticks([])
            axis.tick_params(left=False)
            axis.spines[:].set_visible(False)
        axes[0].set_yticks(range(len(engines)), engines, color=TEXT)
        for name, engine in zip(axes[0].get_yticklabels(), engines, strict=True):
            if engine in highlighted:
                name.set(color=OURS, weight="bold")
        axes[0].set_ylim(len(engines) - 0.5, -0.5)  # from top to bottom; the others share it
    return written.getvalue()


@dataclass(frozen=True, slots=True)
class Point:
    """A system: documents per second, its quality, and what stands beside the dot."""

    docs_per_s: float
    quality: float
    label: str


def draw_tradeoff(
    models: Sequence[Point], cascade: Sequence[Point], *, curve: str, line: tuple[str, float], heading: str
) -> bytes:
    """Draw a dot for each model, a curve through a cascade's, by depth, and the first stage as a line; returns a PNG.

    The curve's name is the cascade's, the line's the first stage's, and the heading's what the quality is.
    """
    with new_figure(8.0, 4.5) as (figure, written):
        from matplotlib.ticker import FuncFormatter  # there, since there is a figure

        axis = figure.subplots()
        axis.plot(*_xy(cascade), color=THEIRS, marker="o", ms=4, label=curve)
        axis.plot(*_xy(models), color=OURS, marker="o", ms=7, ls="")
        # A cascade's points lie near each other and its models: its labels rise from the dots, theirs fall.
        rising: dict[str, Any] = {"xytext": (2, 4), "rotation": 45, "color": TEXT}
        falling: dict[str, Any] = {"xytext": (3, -4), "rotation": -35, "va": "top", "color": OURS}
        falling["rotation_mode"] = "anchor"
        for point, style in [(p, rising) for p in cascade] + [(p, falling) for p in models]:
            axis.annotate(point.label, (point.docs_per_s, point.quality), textcoords="offset points", **style)
        name, quality = line
        axis.axhline(quality, color=TEXT, ls="--", lw=1)
        left = ("axes fraction", "data")
        axis.annotate(name, (0, quality), xycoords=left, xytext=(4, 4), textcoords="offset points", color=TEXT)
        axis.set_xscale("log")
        axis.margins(x=0.25, y=0.15)  # room for the labels
        low, high = axis.get_xlim()
        digits = "125" if high > 10 * low else "123456789"  # of the ticks that get a number
        for numbers in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            numbers(FuncFormatter(lambda value, _: f"{value:,.0f}" if f"{value:e}"[0] in digits else ""))
        axis.set_xlabel("documents per second", color=TEXT)
        axis.set_ylabel(heading, color=TEXT)
        axis.tick_params(which="both", colors=TEXT)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(TEXT)
        if cascade:
            axis.legend(frameon=False, labelcolor=TEXT)
    return written.getvalue()


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.docs_per_s for point in points], [point.quality for point in points]
