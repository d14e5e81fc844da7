"""The documentation site: python -m sphinx -W --keep-going -b html docs BUILD, with the extra docs installed."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from resift.cli.main import parser

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from sphinx.application import Sphinx

PAGES = Path(__file__).parent

project = "resift"
author = "the authors of resift"
version = release = metadata.version("resift")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"resift {release}"
html_copy_source = False
html_favicon = "icon.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
default_role = "code"

FOR_EVERYBODY = {
    '<aside class="sidebar-drawer': '<aside aria-label="All pages" class="sidebar-drawer',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    "<pre>": '<pre tabindex="0">',
    "<p><img ": '<p class="plot" tabindex="0"><img ',
    '<div id="search-results">': '<h1>Search</h1><div aria-live="polite" id="search-results">',
}
"""What the theme writes, and what it should so that screen readers tell its parts and the keyboard scrolls what is wide."""


def mark_examples(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Shows the indented examples of docstrings as code: in reStructuredText they would be quotations."""
    found: list[str] = []
    for line in lines:
        if line[:1] == " " and not any(found[-1:]) and (len(found) < 2 or found[-2][:1] != " "):
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def unlink_addresses(_app: Sphinx, page: nodes.document) -> None:
    """To reStructuredText, nDCG@10 is an address of mail, and a link. The pages have no such address."""
    for link in list(page.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(link.children)


class CommandHelp(SphinxDirective):
    """`{command-help}`: a section for each command of `resift`, with what its --help prints."""

    def run(self) -> list[nodes.Node]:
        """The sections, in the order of `resift --help`."""
        commands = next(action.choices for action in parser()._actions if action.choices)  # noqa: SLF001 - argparse names no other
        return [
            nodes.section(
                "",
                nodes.title(text=f"resift {name}"),
                *(nodes.literal_block(text=each.format_help(), language="text") for each in with_its_own(command)),
                ids=[f"resift-{name}"],
                names=[f"resift {name}"],
            )
            for name, command in commands.items()
        ]


def with_its_own(command: ArgumentParser) -> list[ArgumentParser]:
    """A command, followed by the commands that it has itself."""
    found = [action.choices for action in command._actions if isinstance(action.choices, dict)]  # noqa: SLF001 - as above
    return [command, *(each for choices in found for each in choices.values())]


def copy_texts(app: Sphinx, failure: Exception | None) -> None:
    """Puts llms.txt and the pages as they are beside the built ones, where llms.txt links to them."""
    if failure is None and app.builder.name == "html":
        for path in (PAGES / "llms.txt", *PAGES.glob("*.md")):
            shutil.copy(path, app.outdir)


def mend_theme(app: Sphinx, failure: Exception | None) -> None:
    """Replaces FOR_EVERYBODY in all pages; none of it is found twice, as a build may leave pages as they were."""
    if failure is None and app.builder.name == "html":
        for path in Path(app.outdir).glob("*.html"):
            content = path.read_text(encoding="utf-8")
            for written, mended in FOR_EVERYBODY.items():
                content = content.replace(written, mended)
            path.write_text(content, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Sphinx calls this when it loads the configuration."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", mark_examples)
    app.connect("doctree-read", unlink_addresses)
    app.connect("build-finished", copy_texts)
    app.connect("build-finished", mend_theme)
