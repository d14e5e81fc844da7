"""figures: the report's figures, drawn by matplotlib, each with the words beside it and its alternative text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from resift.evaluate.formats import axis, brief, count, many, milliseconds, percent, signed, value
from resift.evaluate.svg import FIRST, INK, LINE, MUTED, PAPER, SECOND, STYLE, inline
from resift.evaluate.verdict import SAME, baseline, enough, gains, rivals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from resift.evaluate.results import Evaluation, System

WIDTH = 400
"""Points across a figure, the same for all: at the width of a phone, text of 12 points has 10 pixels."""
PANELS = 6
"""Most systems whose scores are drawn."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a system is drawn: told apart by form as well as by color."""

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


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of the report."""

    title: str
    svg: str
    caption: str


def draw(evaluation: Evaluation) -> dict[str, Plot]:
    """The figures that the evaluation has data for, by name: quality, gains, latency, sizes, lengths, scores."""
    import matplotlib

    makers = {"quality": quality, "gains": changes, "latency": latency, "sizes": sizes, "lengths": lengths, "scores": scores}
    with matplotlib.rc_context(STYLE):
        plots = {name: make(evaluation) for name, make in makers.items() if evaluation.queries}
    return {name: plot for name, plot in plots.items() if plot}


def quality(evaluation: Evaluation) -> Plot | None:
    """Each system's mean with the interval of its difference, next to the baseline's mean."""
    measure, first, others = evaluation.measures[0], baseline(evaluation), rivals(evaluation)
    if not others:
        return None
    start = first.measures[measure]
    figure, (axes,) = _panels([34 * (len(others) + 1) + 24])
    axes.vlines(start, -0.2, len(others) + 0.4, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    told, reach = [], [start]
    for row, system in enumerate([first, *others]):
        mean, difference = system.measures[measure], system.differences.get(measure)
        if difference:
            ends = [start + difference.low, start + difference.high]
            reach.extend(ends)
            axes.plot(ends, [row, row], color=FIRST, linewidth=2.5, solid_capstyle="butt")
        axes.plot([mean], [row], "o", color=INK if system is first else FIRST, markersize=6)
        axes.text(0, row - 0.33, brief(system.name, 44), bbox=behind, transform=axes.get_yaxis_transform())
        axes.text(1, row - 0.33, value(mean), ha="right", bbox=behind, transform=axes.get_yaxis_transform())
        reach.append(mean)
        interval = f" ({value(start + difference.low)} to {value(start + difference.high)})" if difference else ""
        told.append(f"{brief(system.name)} {value(mean)}{interval}")
    _limits(axes, reach, least=0.02)
    axes.set_ylim(len(others) + 0.4, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    caption = (
        f"Dots: mean {measure}. Bars: 95 % interval of the paired difference from {brief(first.name)}, whose mean is the dashed"
        " line; a bar that touches the line shows no measurable difference."
    )
    return Plot(f"{measure} of each system", inline(figure, "quality", f"{measure}: {'; '.join(told)}."), caption)


def changes(evaluation: Evaluation) -> Plot | None:
    """The best system's change of every query, sorted."""
    measure, others = evaluation.measures[0], rivals(evaluation)
    if not others or len(evaluation.queries) < 2:
        return None
    found = sorted(gains(evaluation, others[0]), reverse=True)
    up, down = sum(change > SAME for change in found), sum(change < -SAME for change in found)
    figure, (axes,) = _panels([170])
    places = range(1, len(found) + 1)
    width = 0.8 if len(found) < 60 else 1
    axes.bar(places, [max(change, 0) for change in found], width, color=FIRST)
    axes.bar(places, [min(change, 0) for change in found], width, color=SECOND)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("queries, from most gained to most lost")
    axes.set_ylabel(f"change of {measure}")
    axes.set_xlim(0.4, len(found) + 0.6)
    least = max(0.01, max(map(abs, found)) * 0.15)
    axes.set_ylim(min(found[-1], -least) * 1.1, max(found[0], least) * 1.1)
    axes.text(0.98, 0.95, f"{count(up)} better, {count(down)} worse", ha="right", va="top", transform=axes.transAxes)
    alt = (
        f"Change of {measure} by query: {count(up)} of {count(len(found))} better, {count(down)} worse, from {signed(found[0])} to"
        f" {signed(found[-1])}."
    )
    caption = f"{brief(others[0].name)} against {brief(evaluation.baseline)}: a gain of a few queries looks different from a gain of most."
    return Plot("Who gains, who loses", inline(figure, "gains", alt), caption)


def latency(evaluation: Evaluation) -> Plot | None:
    """Quality against latency."""
    measure = evaluation.measures[0]
    timed = [(system, system.latency_ms) for system in evaluation.systems if system.latency_ms and system.latency_ms.p50 > 0]
    if not timed:
        return None
    untimed = [system for system in evaluation.systems if system.latency_ms is None]
    marks = _marks(evaluation)
    figure, (axes,) = _panels([190 + 17 * len(evaluation.systems)])
    axes.set_xscale("log")
    for system, found in timed:
        mean, mark = system.measures[measure], marks[system.name]
        axes.plot([found.p50, max(found.p50, found.p95)], [mean, mean], color=mark.color, linewidth=1.5)
        axes.plot([found.p50], [mean], mark.marker, color=mark.color, markersize=7, label=brief(system.name, 44))
    for system in untimed:
        mark = marks[system.name]
        axes.axhline(system.measures[measure], color=mark.color, linestyle=mark.line, linewidth=1.5, label=brief(system.name, 44))
    _limits(axes, [system.measures[measure] for system in evaluation.systems], least=0.05, vertical=True)
    times = [time for _, found in timed for time in (found.p50, found.p95)]
    _log_ticks(axes, min(times) / 1.5, max(times) * 1.5)
    _legend(axes)
    axes.set_xlabel("milliseconds a pool")
    axes.set_ylabel(measure)
    told = [
        f"{brief(system.name)} {value(system.measures[measure])} at {milliseconds(found.p50)} (p95 {milliseconds(found.p95)})"
        for system, found in timed
    ]
    told += [f"{brief(system.name)} {value(system.measures[measure])}, not timed" for system in untimed]
    across = " Lines all the way across: systems that were not timed." if untimed else ""
    caption = f"Marks: p50; lines reach to p95.{across} Higher and further left is better."
    return Plot("Quality against latency", inline(figure, "latency", f"{measure} and latency: {'; '.join(told)}."), caption)


def sizes(evaluation: Evaluation) -> Plot | None:
    """Recall of the pool, and the systems' quality when they rank only its beginning, by its size."""
    measure, found = evaluation.measures[0], evaluation.sizes
    curves = [system for system in [*rivals(evaluation), baseline(evaluation)] if system.by_size.get(measure)]
    if len(found) < 2 or not (evaluation.recall or curves):
        return None
    figure, panels = _panels([130] * bool(evaluation.recall) + [150 + 17 * len(curves)] * bool(curves))
    told = []
    if evaluation.recall:
        panels[0].fill_between(found, 0, evaluation.recall, color=LINE, linewidth=0)
        panels[0].plot(found, evaluation.recall, color=INK, linewidth=1.8, marker="o", markersize=3.5)
        panels[0].set_ylim(0, 1.02)
        panels[0].set_ylabel("recall of the pool")
        told.append(_points("Recall of the pool", found, evaluation.recall))
    if curves:
        told.append(_curves(panels[-1], evaluation, curves))
    panels[-1].set_xlabel("first candidates, as given")
    panels[-1].set_xlim(0, found[-1] * 1.02)
    caption = (
        "Above: the share of relevant documents that the pool holds, the ceiling of any reranker. " if evaluation.recall else ""
    )
    if curves:
        caption += f"{'Below: ' if caption else ''}{measure} when only so many candidates are reranked (dotted: {brief(evaluation.baseline)})."
    return Plot("How many candidates", inline(figure, "sizes", " ".join(told)), caption)


def _curves(axes: Axes, evaluation: Evaluation, curves: list[System]) -> str:
    """Draws the systems' quality by size; returns it in words."""
    measure, found, told, marks = evaluation.measures[0], evaluation.sizes, [], _marks(evaluation)
    for system in curves:
        values, mark = system.by_size[measure], marks[system.name]
        style = (
            {"linestyle": ":", "marker": ""}
            if system.name == evaluation.baseline
            else {"linestyle": mark.line, "marker": mark.marker}
        )
        axes.plot(found, values, color=mark.color, markersize=4, linewidth=1.8, label=brief(system.name, 44), **style)
        told.append(_points(f"{measure} of {brief(system.name)}", found, values))
    if curves[0].name != evaluation.baseline:
        size = enough(found, curves[0].by_size[measure])
        axes.axvline(size, color=MUTED, linewidth=0.8)
        last = size > found[-1] / 2
        axes.text(size, 0.03, f"  enough: {axis(size)}  ", ha="right" if last else "left", transform=axes.get_xaxis_transform())
    axes.set_ylabel(measure)
    axes.margins(y=0.2)
    _legend(axes)
    return " ".join(told)


def lengths(evaluation: Evaluation) -> Plot | None:
    """Tokens of pairs, and where they are cut."""
    found = evaluation.lengths
    if not found or not found.pairs:
        return None
    figure, (axes,) = _panels([170])
    starts, widths = found.edges[:-1], [high - low for low, high in pairwise(found.edges)]
    for over, style in ((False, {"color": FIRST}), (True, {"facecolor": SECOND, "edgecolor": PAPER, "hatch": "///"})):
        bars = [
            (start, number, width)
            for start, number, width in zip(starts, found.counts, widths, strict=True)
            if over == (start >= found.max_length)
        ]
        if bars:
            axes.bar(
                [bar[0] for bar in bars], [bar[1] for bar in bars], [bar[2] for bar in bars], align="edge", linewidth=0, **style
            )
    axes.axvline(found.max_length, color=INK, linewidth=1)
    right = found.max_length > (found.edges[0] + found.edges[-1]) / 2
    words = f"  cut at {count(found.max_length)}  "
    axes.text(found.max_length, 0.97, words, ha="right" if right else "left", va="top", transform=axes.get_xaxis_transform())
    axes.set_xlabel("tokens of a pair, before it is cut")
    axes.set_ylabel("pairs")
    axes.set_ylim(0, max(*found.counts, 1) * 1.15)
    _plain(axes)
    share = f"{count(found.pairs_cut)} of {many(found.pairs, 'pair')} cut ({percent(found.pairs_cut / found.pairs)})"
    lost = f"; those lose {percent(found.mean_share_cut)} of their document's tokens on average" if found.pairs_cut else ""
    return Plot(
        "Lengths", inline(figure, "lengths", f"Histogram of tokens a pair, cut at {found.max_length}: {share}."), f"{share}{lost}."
    )


def scores(evaluation: Evaluation) -> Plot | None:
    """Scores of relevant documents and of all others."""
    shown = [(system, system.scores) for system in evaluation.systems if system.scores and len(system.scores.edges) > 1][:PANELS]
    if not shown:
        return None
    figure, panels = _panels([105] * len(shown), share=False)
    told = []
    for axes, (system, found) in zip(panels, shown, strict=True):
        for counts, color, dashes in ((found.other, SECOND, (0, (4, 2))), (found.relevant, FIRST, "-")):
            total = sum(counts) or 1
            axes.stairs([number / total for number in counts], found.edges, color=color, linestyle=dashes, linewidth=1.8)
        axes.stairs(
            [number / (sum(found.relevant) or 1) for number in found.relevant], found.edges, color=FIRST, alpha=0.2, fill=True
        )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(brief(system.name), loc="left", fontsize=12)
        _plain(axes)
        told.append(
            f"{brief(system.name)}: relevant mostly {_mode(found.edges, found.relevant)}, others {_mode(found.edges, found.other)}"
        )
    panels[-1].set_xlabel("score")
    caption = (
        "Solid and filled: documents judged relevant; dashed: all others; each by its share. The less they overlap, the better."
    )
    return Plot("Scores", inline(figure, "scores", f"Scores. {'; '.join(told)}."), caption)


def _panels(heights: Sequence[int], *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of panels of these heights in points, above one another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, (sum(heights) + 34) / 72), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=share, squeeze=False, height_ratios=heights)
    return figure, list(panels[:, 0])


def _limits(axes: Axes, values: Sequence[float], *, least: float, vertical: bool = False) -> tuple[float, float]:
    """Limits around the values, at least `least` apart."""
    low, high = min(values), max(values)
    room = max(high - low, least) * 0.15
    middle, half = (low + high) / 2, max(high - low, least) / 2 + room
    (axes.set_ylim if vertical else axes.set_xlim)(middle - half, middle + half)
    return middle - half, middle + half


def _log_ticks(axes: Axes, left: float, right: float) -> None:
    """Limits of a logarithmic axis, and a few ticks on it, written out."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    powers = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5) if left <= step * 10.0**power <= right]
    if len(ticks) > 7:
        ticks = [10.0**power for power in powers if left <= 10.0**power <= right]
    elif len(ticks) < 3:
        ticks = [float(tick) for tick in MaxNLocator(4).tick_values(left, right) if left <= tick <= right]
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: axis(number)))


def _marks(evaluation: Evaluation) -> dict[str, Mark]:
    """A mark for each system, the same in every figure."""
    names = [system.name for system in rivals(evaluation)]
    return {evaluation.baseline: Mark(MUTED, ":", "X"), **{name: MARKS[number % len(MARKS)] for number, name in enumerate(names)}}


def _legend(axes: Axes) -> None:
    """The systems' marks with their names, above the axes, one a line: names are long and never cover what is drawn."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=11.5, borderpad=0, handlelength=2, labelspacing=0.25
    )


def _plain(axes: Axes) -> None:
    """Numbers on both axes written out, without offset or powers."""
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: axis(number)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: axis(number)))


def _points(name: str, found: Sequence[int], values: Sequence[float]) -> str:
    return f"{name}: {', '.join(f'{value(height, 3)} at {count(size)}' for size, height in zip(found, values, strict=True))}."


def _mode(edges: Sequence[float], counts: Sequence[int]) -> str:
    """Where most of a histogram's mass is, in words."""
    if not sum(counts):
        return "none"
    fullest = max(range(len(counts)), key=counts.__getitem__)
    return f"from {edges[fullest]:.3g} to {edges[fullest + 1]:.3g}"
