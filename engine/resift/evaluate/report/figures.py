"""The report's figures, drawn by matplotlib, each with its caption and alternative text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from resift.evaluate.report.axes import format_axes, integer_ticks, label, legend, limits, log_ticks, marks, panels
from resift.evaluate.report.formats import SPACE, axis, bounds, brief, count, many, milliseconds, percent, signed, value
from resift.evaluate.report.svg import FIRST, INK, LINE, MUTED, PAPER, SECOND, STYLE, inline
from resift.evaluate.report.verdict import ROUNDING, baseline, gains, rivals, sufficient_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from resift.evaluate.results import Evaluation, SystemResult

PANELS = 6
"""Maximum number of systems whose scores are drawn."""
STEPS = 500
"""Maximum number of steps in the plot of the queries' changes."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of the report."""

    title: str
    svg: str
    caption: str


def draw(evaluation: Evaluation) -> dict[str, Plot]:
    """The figures that the evaluation has data for, by name: quality, gains, latency, sizes, lengths, scores."""
    import matplotlib as mpl

    makers = {"quality": quality, "gains": changes, "latency": latency, "sizes": sizes, "lengths": lengths, "scores": scores}
    with mpl.rc_context(STYLE):
        plots = {name: make(evaluation) for name, make in makers.items() if evaluation.queries}
    return {name: plot for name, plot in plots.items() if plot}


def quality(evaluation: Evaluation) -> Plot | None:
    """Each system's mean with the interval of its difference from the baseline's mean."""
    measure, first, others = evaluation.measures[0], baseline(evaluation), rivals(evaluation)
    if not others:
        return None
    start = first.measures[measure]
    figure, (axes,) = panels([34 * (len(others) + 1) + 24])
    axes.vlines(start, -0.2, len(others) + 0.4, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    (lowest, highest), is_cut = bounds(measure), False
    descriptions, reach = [], [start]
    for row, system in enumerate([first, *others]):
        mean, difference = system.measures[measure], system.differences.get(measure)
        ends = [start, start]
        if difference:
            ends = [max(start + difference.low, lowest), min(start + difference.high, highest)]
            is_cut |= ends[1] - ends[0] < difference.high - difference.low - ROUNDING
            reach.extend(ends)
            axes.plot(ends, [row, row], color=FIRST, linewidth=2.5, solid_capstyle="butt")
        axes.plot([mean], [row], "o", color=INK if system is first else FIRST, markersize=6)
        axes.text(0, row - 0.33, brief(system.name, 44), bbox=behind, transform=axes.get_yaxis_transform())
        axes.text(1, row - 0.33, value(mean), ha="right", bbox=behind, transform=axes.get_yaxis_transform())
        reach.append(mean)
        interval = f" ({value(ends[0])} to {value(ends[1])})" if difference else ""
        descriptions.append(f"{brief(system.name)} {value(mean)}{interval}")
    limits(axes, reach, measure, min_span=0.02)
    axes.set_ylim(len(others) + 0.4, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    caption = (
        f"Dots: mean {measure}. Bars: 95 % interval of the paired difference from {brief(first.name)}, whose mean is the dashed"
        " line; a bar that touches the line shows no measurable difference."
    )
    if is_cut:
        caption += f" Bars end at {lowest:g} and {highest:g}, beyond which {measure} cannot be."
    return Plot(f"{measure} of each system", inline(figure, "quality", f"{measure}: {'; '.join(descriptions)}."), caption)


def changes(evaluation: Evaluation) -> Plot | None:
    """The best system's change for every query, sorted."""
    measure, others = evaluation.measures[0], rivals(evaluation)
    if not others or len(evaluation.queries) < 2:
        return None
    found = sorted(gains(evaluation, others[0]), reverse=True)
    up, down = sum(change > ROUNDING for change in found), sum(change < -ROUNDING for change in found)
    figure, (axes,) = panels([170])
    steps = min(len(found), STEPS)
    drawn = [found[step * (len(found) - 1) // (steps - 1)] for step in range(steps)]
    edges = [0.5 + edge * len(found) / steps for edge in range(steps + 1)]
    axes.stairs([max(change, 0) for change in drawn], edges, color=FIRST, fill=True)
    axes.stairs([min(change, 0) for change in drawn], edges, color=SECOND, fill=True)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    integer_ticks(axes.xaxis)
    axes.set_xlabel("queries, from most gained to most lost")
    axes.set_ylabel(f"change of {measure}")
    axes.set_xlim(0.4, len(found) + 0.6)
    margin = max(0.01, max(map(abs, found)) * 0.15)
    axes.set_ylim(min(found[-1], -margin) * 1.1, max(found[0], margin) * 1.1)
    axes.text(0.98, 0.95, f"{count(up)} better, {count(down)} worse", ha="right", va="top", transform=axes.transAxes)
    alt = (
        f"Change of {measure} by query: {count(up)} of {count(len(found))} better, {count(down)} worse, from {signed(found[0])} to"
        f" {signed(found[-1])}."
    )
    names = f"{brief(others[0].name)} against {brief(evaluation.baseline)}"
    caption = f"{names}: a gain of a few queries looks different from a gain of most."
    return Plot("Who gains, who loses", inline(figure, "gains", alt), caption)


def latency(evaluation: Evaluation) -> Plot | None:
    """Quality against latency."""
    measure = evaluation.measures[0]
    timed = [(system, system.latency_ms) for system in evaluation.systems if system.latency_ms and system.latency_ms.p50 > 0]
    if not timed:
        return None
    untimed = [system for system in evaluation.systems if system.latency_ms is None]
    drawn = marks(evaluation)
    figure, (axes,) = panels([190 + 17 * len(evaluation.systems)])
    axes.set_xscale("log")
    for system, found in timed:
        mean, mark = system.measures[measure], drawn[system.name]
        axes.plot([found.p50, max(found.p50, found.p95)], [mean, mean], color=mark.color, linewidth=1.5)
        axes.plot([found.p50], [mean], mark.marker, color=mark.color, markersize=7, label=label(system))
    for system in untimed:
        mark = drawn[system.name]
        axes.axhline(system.measures[measure], color=mark.color, linestyle=mark.line, linewidth=1.5, label=label(system))
    limits(axes, [system.measures[measure] for system in evaluation.systems], measure, min_span=0.05, vertical=True)
    times = [time for _, found in timed for time in (found.p50, found.p95)]
    log_ticks(axes, min(times) / 1.5, max(times) * 1.5)
    legend(axes)
    axes.set_xlabel("milliseconds a pool")
    axes.set_ylabel(measure)
    descriptions = [
        f"{brief(system.name)} {value(system.measures[measure])} at {milliseconds(found.p50)} (p95 {milliseconds(found.p95)})"
        for system, found in timed
    ]
    descriptions += [f"{brief(system.name)} {value(system.measures[measure])}, not timed" for system in untimed]
    across = " Lines all the way across: systems that were not timed." if untimed else ""
    caption = f"Marks: p50; lines reach to p95.{across} Higher and further left is better."
    return Plot("Quality against latency", inline(figure, "latency", f"{measure} and latency: {'; '.join(descriptions)}."), caption)


def sizes(evaluation: Evaluation) -> Plot | None:
    """Recall of the pool, and the systems' quality when they rank only its first candidates, by their number."""
    measure, found = evaluation.measures[0], evaluation.sizes
    curves = [system for system in [*rivals(evaluation), baseline(evaluation)] if system.by_size.get(measure)]
    if len(found) < 2 or not (evaluation.recall or curves):
        return None
    figure, rows = panels([130] * bool(evaluation.recall) + [150 + 17 * len(curves)] * bool(curves))
    descriptions = []
    if evaluation.recall:
        rows[0].fill_between(found, 0, evaluation.recall, color=LINE, linewidth=0)
        rows[0].plot(found, evaluation.recall, color=INK, linewidth=1.8, marker="o", markersize=3.5)
        rows[0].set_ylim(0, 1.02)
        rows[0].set_ylabel("recall of the pool")
        descriptions.append(_points("Recall of the pool", found, evaluation.recall))
    if curves:
        descriptions.append(_curves(rows[-1], evaluation, curves))
    integer_ticks(rows[-1].xaxis)
    rows[-1].set_xlabel("first candidates, as given")
    rows[-1].set_xlim(0, found[-1] * 1.02)
    caption = (
        "Above: the share of relevant documents that the pool holds, the ceiling of any reranker. " if evaluation.recall else ""
    )
    if curves:
        below = "Below: " if caption else ""
        caption += f"{below}{measure} when only so many candidates are reranked (dotted: {brief(evaluation.baseline)})."
    return Plot("How many candidates", inline(figure, "sizes", " ".join(descriptions)), caption)


def _curves(axes: Axes, evaluation: Evaluation, curves: list[SystemResult]) -> str:
    """Draws the systems' quality by pool size; returns it in words."""
    measure, found, descriptions, drawn = evaluation.measures[0], evaluation.sizes, [], marks(evaluation)
    for system in curves:
        values, mark = system.by_size[measure], drawn[system.name]
        marker = "" if system.name == evaluation.baseline else mark.marker
        style: dict[str, Any] = {"color": mark.color, "linestyle": mark.line, "linewidth": 1.8, "marker": marker, "markersize": 4}
        axes.plot(found, values, label=label(system), **style)
        descriptions.append(_points(f"{measure} of {brief(system.name)}", found, values))
    if curves[0].name != evaluation.baseline:
        size = sufficient_size(found, curves[0].by_size[measure])
        axes.axvline(size, color=MUTED, linewidth=0.8)
        last = size > found[-1] / 2
        words = f"{SPACE}enough: {axis(size)}{SPACE}"
        axes.text(size, 0.03, words, ha="right" if last else "left", transform=axes.get_xaxis_transform())
    axes.set_ylabel(measure)
    limits(axes, [height for system in curves for height in system.by_size[measure]], measure, min_span=0.02, vertical=True)
    legend(axes)
    return " ".join(descriptions)


def lengths(evaluation: Evaluation) -> Plot | None:
    """Histogram of the tokens of pairs, and the length at which they are cut."""
    found = evaluation.lengths
    if not found or not found.pairs:
        return None
    figure, (axes,) = panels([170])
    for (start, end), number in zip(pairwise(found.edges), found.counts, strict=True):
        cut = {"facecolor": SECOND, "edgecolor": PAPER, "hatch": "///"} if start >= found.max_length else {"facecolor": FIRST}
        axes.bar(start, number, end - start, align="edge", linewidth=0, **cut)
    axes.axvline(found.max_length, color=INK, linewidth=1)
    right = found.max_length > (found.edges[0] + found.edges[-1]) / 2
    words = f"{SPACE}cut at {count(found.max_length)}{SPACE}"
    axes.text(found.max_length, 0.97, words, ha="right" if right else "left", va="top", transform=axes.get_xaxis_transform())
    axes.set_xlabel("tokens of a pair, before it is cut")
    axes.set_ylabel("pairs")
    axes.set_ylim(0, max(*found.counts, 1) * 1.15)
    format_axes(axes)
    integer_ticks(axes.xaxis)
    integer_ticks(axes.yaxis)
    share = f"{count(found.pairs_cut)} of {many(found.pairs, 'pair')} cut ({percent(found.pairs_cut / found.pairs)})"
    lost = f"; those lose {percent(found.mean_share_cut)} of their document's tokens on average" if found.pairs_cut else ""
    return Plot(
        "Lengths",
        inline(figure, "lengths", f"Histogram of tokens per pair, cut at {found.max_length}: {share}."),
        f"{share}{lost}.",
    )


def scores(evaluation: Evaluation) -> Plot | None:
    """Histograms of the scores of relevant documents and of all others."""
    scored = [(system, system.scores) for system in [*rivals(evaluation), baseline(evaluation)] if system.scores]
    drawn_systems = [(system, found) for system, found in scored if found.relevant][:PANELS]
    if not drawn_systems:
        return None
    figure, rows = panels([105] * len(drawn_systems), share_x=False)
    descriptions = []
    for axes, (system, found) in zip(rows, drawn_systems, strict=True):
        for counts, color, dashes in ((found.other, SECOND, (0, (4, 2))), (found.relevant, FIRST, "-")):
            total = sum(counts) or 1
            axes.stairs([number / total for number in counts], found.edges, color=color, linestyle=dashes, linewidth=1.8)
        axes.stairs(
            [number / (sum(found.relevant) or 1) for number in found.relevant], found.edges, color=FIRST, alpha=0.2, fill=True
        )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(brief(system.name), loc="left", fontsize=12)
        format_axes(axes)
        descriptions.append(
            f"{brief(system.name)}: relevant mostly {_mode(found.edges, found.relevant)}, others {_mode(found.edges, found.other)}"
        )
    rows[-1].set_xlabel("score")
    caption = "Solid and filled: documents judged relevant; dashed: all others; each by its share. Less overlap is better."
    if len(scored) > len(drawn_systems):
        caption += f" The first {len(drawn_systems)} of {len(scored)} systems."
    return Plot("Scores", inline(figure, "scores", f"Scores. {'; '.join(descriptions)}."), caption)


def _points(name: str, pool_sizes: Sequence[int], values: Sequence[float]) -> str:
    return f"{name}: {', '.join(f'{value(height, 3)} at {count(size)}' for size, height in zip(pool_sizes, values, strict=True))}."


def _mode(edges: Sequence[float], counts: Sequence[int]) -> str:
    """The fullest bin of a histogram, in words."""
    if not sum(counts):
        return "none"
    fullest = max(range(len(counts)), key=counts.__getitem__)
    return f"from {edges[fullest]:.3g} to {edges[fullest + 1]:.3g}"
