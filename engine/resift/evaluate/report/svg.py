"""Turns a matplotlib figure into inline SVG that takes its colours and its font from the page."""

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
"""The colours that figures.py draws with, and the page's variables for them, which differ in the light, dark and printed page."""
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
"""rcParams while a figure is drawn and written. DejaVu Sans, which comes with matplotlib, is wide: text that fits in it also fits
in the page's font."""

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
DROPPED_PROPERTIES = {"font-family", "font", "stroke-linejoin", "stroke-linecap"}
"""Style properties that the page sets, or that have no effect at these sizes."""
REFERENCE = re.compile(r"#([\w.-]+)")
"""A color or an id; matplotlib's ids are longer than six characters."""


def inline(figure: Figure, name: str, alt: str) -> str:
    """The figure as an `<svg role="img">` without style attributes, whose ids begin with `name`.

    Equal figures give equal bytes. Style attributes become presentation attributes, so that the page's Content-Security-Policy
    does not have to allow inline styles.
    """
    import matplotlib as mpl

    file = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's fonts draw the text
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ET.fromstring(file.getvalue())  # noqa: S314 - matplotlib's own output
    referenced_ids = {found for node in root.iter() for text in node.attrib.values() for found in REFERENCE.findall(text)}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{SVG}metadata", f"{SVG}style"}:
                parent.remove(child)
    for node in root.iter():
        _clean(node, name, referenced_ids)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt, "xmlns": SVG[1:-1]}
    return ET.tostring(root, encoding="unicode")


def _clean(node: ET.Element, name: str, referenced_ids: set[str]) -> None:
    """Makes an element plain SVG for HTML: without namespaces and style attributes, and without ids that nothing refers to."""
    node.tag = node.tag.removeprefix(SVG)
    properties = dict(node.attrib)
    for declaration in properties.pop("style", "").split(";"):
        key, _, setting = declaration.partition(":")
        if key.strip() not in DROPPED_PROPERTIES | {""}:
            properties[key.strip()] = setting.strip()
    if properties.get("id") not in referenced_ids:
        properties.pop("id", None)
    attributes = {}
    for key, setting in properties.items():
        is_literal = key in {"d", "id"}
        attributes[key.removeprefix(XLINK)] = (
            setting if is_literal else REFERENCE.sub(lambda match: _rewrite_reference(match, name), setting)
        )
    if "id" in attributes:
        attributes["id"] = f"{name}-{attributes['id']}"
    if "d" in attributes:
        attributes["d"] = " ".join(attributes["d"].split())
    node.attrib = attributes
    node.text, node.tail = (None if not text or text.isspace() else text for text in (node.text, node.tail))


def _rewrite_reference(match: re.Match[str], name: str) -> str:
    """The page's variable for a color, or an id with its prefix."""
    return COLORS[match[0]] if len(match[1]) == 6 else f"#{name}-{match[1]}"
