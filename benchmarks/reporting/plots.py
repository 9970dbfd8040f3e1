"""The plot of quality over documents per second, which people choose a model by.

Drawn on no background, so that a page's own shows through. Each colour is therefore near the grey whose contrast to
white equals that to GitHub's dark page, 4.35; none can have more on both.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossrank import MissingDependencyError

TEXT = "#777b82"
OURS = "#d9480f"
THEIRS = "#868e96"


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

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure  # not pyplot, which looks for a display
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise MissingDependencyError(
            "the plot needs matplotlib: pip install matplotlib (or, in a checkout, pip install --group test)"
        ) from error

    # The font that matplotlib brings, so that all draw the same.
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
        figure, written = Figure(figsize=(8.0, 4.5), dpi=115, layout="constrained"), io.BytesIO()
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
        # Without the version of matplotlib in it: the same figures give the same file.
        figure.savefig(
            written, format="png", transparent=True, metadata={"Software": None}, pil_kwargs={"optimize": True}
        )
    return written.getvalue()


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.docs_per_s for point in points], [point.quality for point in points]
