"""Axes, marks and legends that the report's figures share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift.evaluate.report.formats import SPACE, axis, bounds, brief
from resift.evaluate.report.svg import FIRST, INK, MUTED, SECOND
from resift.evaluate.report.verdict import rivals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from resift.evaluate.results import Evaluation, SystemResult

WIDTH = 400
"""Width of every figure in points: at the width of a phone, text of 12 points has 10 pixels."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a system is drawn: marks differ in form as well as in color."""

    color: str
    line: str
    marker: str


MARKS = (
    Mark(FIRST, "-", "o"),
    Mark(SECOND, "-", "s"),
    Mark(INK, "--", "^"),
    Mark(FIRST, "--", "D"),
    Mark(SECOND, "--", "v"),
    Mark(INK, "-.", "P"),
)


def panels(heights: Sequence[int], *, share_x: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of panels of these heights in points, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, (sum(heights) + 34) / 72), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=share_x, squeeze=False, height_ratios=heights)
    return figure, list(panels[:, 0])


def limits(axes: Axes, values: Sequence[float], measure: str, *, min_span: float, vertical: bool = False) -> None:
    """Sets limits around values of `measure`, at least `min_span` apart, but not beyond the values that it can have."""
    low, high = min(values), max(values)
    room = max(high - low, min_span) * 0.15
    middle, half = (low + high) / 2, max(high - low, min_span) / 2 + room
    lowest, highest = bounds(measure)
    margin = half * 0.08  # so that a mark at the end is whole
    (axes.set_ylim if vertical else axes.set_xlim)(max(middle - half, lowest - margin), min(middle + half, highest + margin))


def integer_ticks(axis: Axis) -> None:
    """Sets few ticks, at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, integer=True))


def log_ticks(axes: Axes, low: float, high: float) -> None:
    """Sets the limits of a logarithmic axis, and a few ticks on it with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(ticks) > 7:
        ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    elif len(ticks) < 3:
        ticks = [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: axis(number)))


def marks(evaluation: Evaluation) -> dict[str, Mark]:
    """A mark for each system, the same in every figure."""
    names = [system.name for system in rivals(evaluation)]
    return {evaluation.baseline: Mark(MUTED, ":", "X"), **{name: MARKS[number % len(MARKS)] for number, name in enumerate(names)}}


def label(system: SystemResult) -> str:
    """A system's name in a legend; matplotlib leaves out those that begin with an underscore."""
    name = brief(system.name, 44)
    return f"{SPACE}{name}" if name.startswith("_") else name


def legend(axes: Axes) -> None:
    """Draws the systems' marks and names above the axes, one per line, as names are long and must not cover the plot."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=11.5, borderpad=0, handlelength=2, labelspacing=0.25
    )


def format_axes(axes: Axes) -> None:
    """Sets few ticks on the horizontal axis, and plain numbers on both axes, without offset or powers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: axis(number)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: axis(number)))
