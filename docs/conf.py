"""The documentation site: python -m sphinx -W --keep-going -b html docs BUILD, with the extra docs installed."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "resift"
author = "the authors of resift"
version = release = metadata.version("resift")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"resift {release}"
html_copy_source = False
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
default_role = "code"


def mark_examples(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Shows the indented examples of docstrings as code: in reStructuredText they would be quotations."""
    found: list[str] = []
    for line in lines:
        if line[:1] == " " and not any(found[-1:]) and (len(found) < 2 or found[-2][:1] != " "):
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def setup(app: Sphinx) -> None:
    """Sphinx calls this when it loads the configuration."""
    app.connect("autodoc-process-docstring", mark_examples)
