"""The plot that people choose a model by: quality over documents per second."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .plots import OURS, TEXT, THEIRS, new_figure


@dataclass(frozen=True, slots=True)
class Point:
    """A system: documents per second, its quality, and what stands beside the dot."""

    docs_per_s: float
    quality: float
    label: str


def draw_tradeoff(
    models: Sequence[Point], cascade: Sequence[Point], *, curve: str, line: tuple[str, float], heading: str
) -> bytes:
    """Draw a dot for each model, a curve through a cascade's, and the first stage as a horizontal line.

    Args:
        models: At least one.
        cascade: By depth; none where there is no cascade.
        curve: The cascade's name.
        line: The first stage's name and quality.
        heading: What the quality is, and of which data.

    Returns:
        A PNG on no background.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    with new_figure(8.0, 4.5) as (figure, written):
        from matplotlib.ticker import FuncFormatter  # there, since there is a figure

        axis = figure.subplots()
        axis.plot(*_xy(cascade), color=THEIRS, marker="o", ms=4, label=curve)
        axis.plot(*_xy(models), color=OURS, marker="o", ms=7, ls="")
        # A cascade's points lie near each other and its models: its labels rise from the dots, theirs fall.
        rising: dict[str, Any] = {"xytext": (2, 4), "rotation": 45, "color": TEXT}
        falling: dict[str, Any] = {
            "xytext": (3, -4),
            "rotation": -35,
            "va": "top",
            "rotation_mode": "anchor",
            "color": OURS,
        }
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
