"""Opens pages in a headless Chromium, where one is installed, and does what people do there."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager

import pytest

from tests.support import children

MILLISECONDS = 1000 * children.SECONDS
"""For what a page or the browser takes longer to do on a busy machine than playwright's 30 seconds."""
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
LOOKS = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": PHONE, "dark phone": PHONE | {"color_scheme": "dark"}}
"""What `visits` is given, by name: both colour schemes, on a screen 1280 pixels wide and on a phone."""
QUERY = "what do owls eat"
DOCUMENTS = [
    "The station clock was mended in spring.",
    "Owls eat mice, voles and now and then a frog.",
    "A barn is dry in winter.",
    "Young owls are fed by both parents.",
]


@contextmanager
def chromium():
    """A browser. Skips the test if there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are driven by playwright, which is not installed")
    names = (os.environ.get("RESIFT_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, filter(None, names))), None)
    if not found:
        pytest.skip("pages are driven in Chromium, which is not on the PATH; RESIFT_CHROMIUM may name it")
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    args = [*quiet, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=args, timeout=MILLISECONDS)
        yield browser
        browser.close()


@contextmanager
def visits(browser):
    """go(url, expected=(), **context) -> the page, open.

    In the end, no page may have reported an error, except those that contain one of the `expected` texts.
    """
    contexts, errors, allowed = [], [], []

    def go(url, expected=(), **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        allowed.extend(expected)
        page = context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and errors.append(said.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda asked: errors.append(f"{asked.url}: {asked.failure}"))
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [error for error in errors if not any(text in error for text in allowed)] == []


def faults(page):
    """The rules of axe that the page breaks, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response
    assert len(found["passes"]) > 15, "axe has not looked at the page"
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]]


def rerank(page, query=QUERY, documents=DOCUMENTS):
    page.fill("#query", query)
    page.fill("#documents", "\n".join(documents) if all("\n" not in text for text in documents) else as_lines(documents))
    page.click("#rerank")
    page.locator("#timing").wait_for()


def as_lines(documents):
    return "\n".join(json.dumps({"text": text}) for text in documents)


def copied(page, name):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(f"[data-copy={name}]")
    page.locator("#status", has_text="Copied as").wait_for()
    return page.evaluate("navigator.clipboard.readText()")
