"""The plot of quality against latency for every point that `tune` measured."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING

from resift.errors import ExtraError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from resift.evaluate.tuning.records import Point, Tuning

FORMATS = ("svg", "png", "pdf")
MARKERS = {"int8": "o", "float32": "s"}


def check_plot(path: Path) -> str:
    """The format given by the ending of the file's name; called before there is anything to plot.

    Raises InputError if it is not one of FORMATS, and ExtraError if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ExtraError("plotting needs matplotlib, which is not installed: pip install 'resift[eval]'")
    found = path.suffix.removeprefix(".").lower()
    if found not in FORMATS:
        raise InputError(
            f"{path.name!r:.100} is not the name of a plot; expected one that ends in {', '.join(f'.{name}' for name in FORMATS)}"
        )
    return found


def draw(tuning: Tuning, kind: str) -> bytes:
    """The plot as an image of `kind`, one of FORMATS: p50 and p95 of each point, the frontier, the budget and the chosen point."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    frontier = sorted((point for point in tuning.points if point.is_on_frontier), key=lambda point: point.latency_ms.p95)
    axes.plot([point.latency_ms.p95 for point in frontier], [point.quality for point in frontier], "-", color="0.6", zorder=1)
    for precision in dict.fromkeys(point.settings.precision for point in tuning.points):
        _scatter(axes, precision, [point for point in tuning.points if point.settings.precision == precision])
    for point in tuning.points:
        axes.annotate(str(point.candidates), (point.latency_ms.p95, point.quality), xytext=(4, -11), textcoords="offset points")
    if tuning.chosen is not None:
        chosen = (tuning.chosen.latency_ms.p95, tuning.chosen.quality)
        axes.plot(*chosen, "o", markersize=15, markerfacecolor="none", markeredgecolor="C3", label="chosen")
    if tuning.budget_ms is not None:
        axes.axvline(tuning.budget_ms, linestyle="--", color="C3", label=f"budget, {tuning.budget_ms:g} ms")
    if tuning.given is not None:
        axes.axhline(tuning.given, linestyle=":", color="0.3", label="order given")
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds per pool: mark at p95, line from p50")
    axes.set_ylabel(f"{tuning.measure}, mean of {tuning.judged} pools")
    axes.set_title("Quality against latency, by number of candidates", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    image = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "resift"}):
        figure.savefig(image, format=kind, dpi=150)
    return image.getvalue()


def _scatter(axes: Axes, precision: str, points: list[Point]) -> None:
    quality = [point.quality for point in points]
    p50, p95 = ([getattr(point.latency_ms, name) for point in points] for name in ("p50", "p95"))
    axes.hlines(quality, p50, p95, color="0.75", zorder=0)
    axes.scatter(p95, quality, marker=MARKERS.get(precision, "^"), label=precision, zorder=2)
