"""SVG: a matplotlib figure as inline SVG that takes its colours and its font from the page."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--first)",
    "#000005": "var(--second)",
    "#000006": "var(--paper)",
}
"""What figures.py draws with, and the page's colour for it: the page has a light, a dark and a printed one."""
INK, MUTED, LINE, FIRST, SECOND, PAPER = COLORS

STYLE = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 1.2,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.color": MUTED,
    "ytick.labelcolor": MUTED,
}
"""rcParams while a figure is drawn and written. DejaVu Sans, which matplotlib brings, is wide: what fits in it fits
in the page's font."""

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
DROPPED = {"font-family", "font", "stroke-linejoin", "stroke-linecap"}
"""Properties left to the page, or without effect at these sizes."""
REFERENCE = re.compile(r"#([\w.-]+)")
"""A color or an id; matplotlib's ids are longer than six characters."""


def inline(figure: Figure, name: str, alt: str) -> str:
    """The figure as an `<svg role="img">` without style attributes, whose ids begin with `name`.

    Equal figures give equal bytes. Style attributes become presentation attributes, so that the page's Content-Security-Policy
    need not allow inline styles.
    """
    import matplotlib as mpl

    file = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's fonts draw the text
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ET.fromstring(file.getvalue())  # noqa: S314 - matplotlib's own output
    referred = {found for node in root.iter() for text in node.attrib.values() for found in REFERENCE.findall(text)}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{SVG}metadata", f"{SVG}style"}:
                parent.remove(child)
    for node in root.iter():
        _clean(node, name, referred)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt, "xmlns": SVG[1:-1]}
    return ET.tostring(root, encoding="unicode")


def _clean(node: ET.Element, name: str, referred: set[str]) -> None:
    """Makes an element plain SVG of HTML: no namespaces, no style attributes, ids only where they are referred to."""
    node.tag = node.tag.removeprefix(SVG)
    found = dict(node.attrib)
    for declaration in found.pop("style", "").split(";"):
        key, _, setting = declaration.partition(":")
        if key.strip() not in DROPPED | {""}:
            found[key.strip()] = setting.strip()
    if found.get("id") not in referred:
        found.pop("id", None)
    kept = {}
    for key, setting in found.items():
        kept[key.removeprefix(XLINK)] = setting if key in {"d", "id"} else REFERENCE.sub(lambda text: _renamed(text, name), setting)
    if "id" in kept:
        kept["id"] = f"{name}-{kept['id']}"
    if "d" in kept:
        kept["d"] = " ".join(kept["d"].split())
    node.attrib = kept
    node.text, node.tail = (None if not text or text.isspace() else text for text in (node.text, node.tail))


def _renamed(found: re.Match[str], name: str) -> str:
    return COLORS[found[0]] if len(found[1]) == 6 else f"#{name}-{found[1]}"
