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
OFFSETS = [
    (8, 0),
    (8, 10),
    (8, -10),
    (0, 13),
    (0, -13),
    (-8, 10),
    (-8, -10),
    (8, 22),
    (8, -22),
    (0, 26),
    (0, -26),
    (-8, 34),
    (8, -34),
    (0, 42),
    (0, -42),
]
"""Where a label may stand, in points from its dot; the first place that is free is taken."""


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

    with mpl.rc_context({"svg.hashsalt": "resift", "svg.fonttype": "path"}):
        figure = Figure(figsize=(6.2 * len(cases), 5.2), layout="constrained")
        for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
            _panel(axes, case, colours)
        figure.supxlabel(
            f"median ms of a pool, {cases[0]['threads']} threads, {processor} (log scale: left is faster)",
            color=colours["ink"],
            fontsize=9,
        )
        figure.supylabel("nDCG@10 / that of float32", color=colours["ink"], fontsize=9)
    return figure


def _panel(axes: Any, case: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    found = points(case)
    axes.set_facecolor(colours["paper"])
    axes.set_xscale("log")
    axes.set_xlim(0.7 * min(at for _, at, _ in found), 1.6 * max(at for _, at, _ in found))
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
        axes.plot(at, share, "o", color=_colour(name, colours), markersize=7 if _is_ours(name) else 5)
    _label(axes, found, colours)


def _label(axes: Any, found: Sequence[tuple[str, float, float]], colours: Mapping[str, str]) -> None:
    """Names beside their dots, none over another name or dot as far as there is room."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    used = [axes.transData.transform((at, share)) for _, at, share in found]
    boxes: list[Any] = []
    for name, at, share in sorted(found, key=lambda point: point[1]):
        for offset in OFFSETS:
            text = axes.annotate(
                name,
                (at, share),
                offset,
                textcoords="offset points",
                fontsize=8,
                color=_colour(name, colours),
                weight="bold" if _is_ours(name) else "normal",
                ha={-8: "right", 0: "center", 8: "left"}[offset[0]],
                va="center",
                arrowprops={"arrowstyle": "-", "color": colours["faint"], "linewidth": 0.6} if abs(offset[1]) > 15 else None,
            )
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in boxes) and not any(box.contains(*dot) for dot in used):
                boxes.append(box)
                break
            if offset != OFFSETS[-1]:
                text.remove()


def _is_ours(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].is_resift


def _colour(name: str, colours: Mapping[str, str]) -> str:
    return colours["ours" if _is_ours(name) else "rivals"]
