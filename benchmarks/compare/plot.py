"""The plot of quality against time, in light and dark, as SVG and PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from benchmarks.compare.catalogue import BY_NAME
from resift.files.outputs import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PANELS = ("-30", "-50")
"""Ends of the names of the cases that are shown, if they have labels."""
TICKS = [part * 10**power for power in range(6) for part in (1, 2, 5)]
"""Milliseconds labelled on the axis."""
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#24292f", "faint": "#d0d7de", "ours": "#b3400a", "rivals": "#57606a"},
    "dark": {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#30363d", "ours": "#ff9b54", "rivals": "#9198a1"},
}
MARKERS = "osD^v<>pPXh*d8HsD^v"
"""Shapes by a contender's place in the catalogue; those of float32 are hollow."""
COLUMNS = 2
"""Panels beside each other."""


def plot(report: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes the plots into `out`; returns their paths. Nothing is written without a labelled case of PANELS."""
    cases = [case for case in report["cases"] if case["case"].endswith(PANELS) and points(case)]
    written = []
    for theme, colours in THEMES.items() if cases else ():
        figure = _figure(cases, report["machine"]["processor"], colours)
        for kind in ("svg", "png"):
            image = io.BytesIO()
            figure.savefig(
                image, format=kind, dpi=150, facecolor=colours["paper"], metadata={"Date": None} if kind == "svg" else None
            )
            written.append(out / f"compare-{theme}.{kind}")
            write_whole(written[-1], image.getvalue())
    return written


def points(case: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Contender, p50 in ms, and share of the reference's nDCG@10 on the same pools."""
    return [
        (row["contender"], row["p50_ms"], row["nDCG@10"] / row["reference_nDCG@10"])
        for row in case["rows"]
        if row["nDCG@10"] is not None and row["reference_nDCG@10"]
    ]


def _figure(cases: Sequence[Mapping[str, Any]], processor: str, colours: Mapping[str, str]) -> Any:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows, columns = -(-len(cases) // COLUMNS), min(len(cases), COLUMNS)
    with mpl.rc_context({"svg.hashsalt": "resift", "svg.fonttype": "path"}):
        figure = Figure(figsize=(4.8 * columns + 0.4, 3.4 * rows + 1.8), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, case in zip(panels.flat, cases, strict=False):
            _panel(axes, case, colours)
        for axes in panels.flat[len(cases) :]:
            axes.set_axis_off()
        # As a title of the whole figure, it would lie on the legend.
        for axes in panels[-1]:
            axes.set_xlabel(
                f"median ms, {cases[0]['threads']} threads, {processor} (left is faster)", color=colours["ink"], fontsize=9
            )
        figure.supylabel("nDCG@10 / that of float32", color=colours["ink"], fontsize=9)
        _legend(figure, [name for case in cases for name, *_ in points(case)], colours)
    return figure


def _panel(axes: Any, case: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    found = points(case)
    axes.set_facecolor(colours["paper"])
    axes.set_xscale("log")
    axes.set_xlim(0.7 * min(at for _, at, _ in found), 1.4 * max(at for _, at, _ in found))
    shares = [share for *_, share in found]
    margin = max(0.01, 0.25 * (max(shares) - min(shares)))
    axes.set_ylim(min(shares) - margin, max(shares) + margin)
    axes.axhline(1, color=colours["faint"], linewidth=1, zorder=0)
    axes.set_title(
        f"{case['case']}: {case['requests']} queries of {case['candidates']} candidates", color=colours["ink"], fontsize=10
    )
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FixedFormatter([str(tick) for tick in TICKS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(colors=colours["ink"], labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(colours["faint"])
    for name, at, share in found:
        axes.plot(at, share, **_mark(name, colours))


def _legend(figure: Any, names: Sequence[str], colours: Mapping[str, str]) -> None:
    """Names below the panels, as many dots lie so near to each other that names beside them would cover them."""
    from matplotlib.lines import Line2D

    found = sorted(set(names), key=list(BY_NAME).index)
    handles = [Line2D([], [], label=BY_NAME[name].title, **_mark(name, colours)) for name in found]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    for name, text in zip(found, legend.get_texts(), strict=True):
        text.set_color(_colour(name, colours))


def _mark(name: str, colours: Mapping[str, str]) -> dict[str, Any]:
    """How matplotlib draws a contender's dot."""
    colour = _colour(name, colours)
    return {
        "linestyle": "none",
        "marker": MARKERS[list(BY_NAME).index(name)],
        "markersize": 7 if BY_NAME[name].is_resift else 6,
        "color": colour,
        "markerfacecolor": colour if "int8" in BY_NAME[name].title else "none",
    }


def _colour(name: str, colours: Mapping[str, str]) -> str:
    return colours["ours" if BY_NAME[name].is_resift else "rivals"]
