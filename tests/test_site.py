"""The built site: links, headings and alternative texts, and in Chromium, axe and what no window shows, in both colour schemes.

It is built where Sphinx and axe are installed, as .ci/full does.
"""

from __future__ import annotations

import re
import sys
import threading
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("furo")
pytest.importorskip("axe_playwright_python")

from tests.support import children
from tests.support.browser import LOOKS, faults
from tests.support.pages import REPOSITORY, SITE

BY_SPHINX = ("genindex", "search")
PAGES = sorted([*(page.stem for page in SITE), *BY_SPHINX])
looks = pytest.mark.parametrize("options", LOOKS.values(), ids=LOOKS)
pages = pytest.mark.parametrize("name", PAGES)

UNSEEN = """
() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (each) => ["auto", "scroll"].includes(getComputedStyle(each).overflowX);
  const isHeld = (each) => each.tagName !== "ARTICLE" && (scrolls(each) || isHeld(each.parentElement));
  const isCut = (each) => ["hidden", "clip"].includes(getComputedStyle(each).overflowX) && each.scrollWidth > each.clientWidth + 1;
  const isOut = (each) => each.getBoundingClientRect().right > width + 1 && !isHeld(each);
  const found = [...document.querySelectorAll("article *")].filter((each) => each.clientWidth > 1 && (isCut(each) || isOut(each)));
  return found.map((each) => each.outerHTML.slice(0, 200));
}
"""
"""Elements of the page's text that are cut or end beyond the window, in nothing of their own that scrolls."""
TOO_WIDE = """
() => [document.documentElement, document.querySelector(".content")].map((each) => each.scrollWidth - each.clientWidth)
"""
"""Pixels by which the page and the theme's column for its text, which scrolls, are wider than what is seen of them."""


class BuiltPage(HTMLParser):
    """What a file of HTML links to, and what links to it may name."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.anchors, self.links, self.images, self.levels = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.anchors.add(named.get("id"))
        if tag == "a":
            self.links += [named["href"]] if "href" in named else []
        elif tag == "img":
            self.images.append(named)
        elif re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))

    def dead_links(self):
        return [link for link in self.links if not self._leads_somewhere(link)]

    def _leads_somewhere(self, link):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:  # as far as it can be said without a network
            return parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc) and not re.search(r"\s", link)
        target = self.path.parent / unquote(parts.path) if parts.path else self.path
        if not target.is_file():
            return False
        return not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in read(target).anchors


read = cache(BuiltPage)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, which Sphinx builds without a warning."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(out)]
    done = children.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return out


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(site):
    """The site's address: from files, a browser takes no styles by script."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_page_is_built(site):
    assert sorted(path.stem for path in site.glob("*.html")) == PAGES
    assert "--budget-ms" in (site / "options.html").read_text(encoding="utf-8")
    assert {path.name for path in SITE} | {"llms.txt"} <= {path.name for path in site.iterdir()}


@pages
def test_links_headings_and_images(site, name):
    page = read(site / f"{name}.html")
    assert page.dead_links() == []
    assert page.levels.count(1) == 1
    assert page.levels[0] == 1
    assert [pair for pair in pairwise(page.levels) if pair[1] > pair[0] + 1] == []
    assert [image["src"] for image in page.images if len(image.get("alt") or "") < 20] == []


@pages
@looks
def test_in_a_window(served, visit, name, options):
    page = visit(f"{served}/{name}.html", **options)
    assert faults(page) == []
    assert page.evaluate(TOO_WIDE) == [0, 0]
    assert page.evaluate(UNSEEN) == []


def test_what_is_wrong_is_found(served, visit, tmp_path):
    page = visit(f"{served}/index.html", **LOOKS["phone"])
    page.evaluate("document.documentElement.lang = ''")
    page.evaluate("document.querySelector('article h1').insertAdjacentHTML('afterend', '<p style=\"width: 600px\">wide</p>')")
    page.evaluate("document.querySelector('article p').style.color = '#ddd'")
    assert {rule for rule, _ in faults(page)} == {"html-has-lang", "color-contrast"}
    assert page.evaluate(TOO_WIDE)[1] > 200
    assert [text[:25] for text in page.evaluate(UNSEEN)] == ['<p style="width: 600px; c']
    links = ["here.html", "here.html#there", "#there", "here.html#nowhere", "gone.html", "http://example.org", "https://example"]
    content = "".join(f'<a id="there" href="{link}">{link}</a>' for link in [*links, "https://example.org/path#place"])
    (tmp_path / "here.html").write_text(content)
    assert read(tmp_path / "here.html").dead_links() == links[3:]
