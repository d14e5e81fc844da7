"""axe-core looks at the page in each of its states, in both colour schemes and on a phone."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("axe_playwright_python")

from tests.support.browser import DOCUMENTS, LOOKS, faults, rerank
from tests.support.serving import serving

looks = pytest.mark.parametrize("options", LOOKS.values(), ids=LOOKS)


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}) as running:
        yield running


@looks
def test_before_and_after_a_ranking(visit, served, options):
    page = visit(served.url, **options)
    assert faults(page) == []
    rerank(page, documents=["owl " * 1000, *DOCUMENTS])
    assert faults(page) == []
    page.locator("#call").evaluate("call => { call.open = !call.open }")
    page.locator(".more").click()
    assert faults(page) == []


@looks
def test_beside_a_fault(visit, served, options):
    page = visit(served.url, **options)
    page.click("#rerank")
    page.locator("#fault", has_text="no query").wait_for()
    assert faults(page) == []


@looks
def test_with_a_key_and_several_models(visit, reranker, options):
    with serving({"org/one": reranker, "org/two": reranker}, api_key="key") as keyed:
        page = visit(keyed.url, **options)
        page.fill("#key", "key")
        page.locator("#key").blur()
        page.locator("#model").wait_for()
        rerank(page)
        assert faults(page) == []


def test_axe_finds_what_is_wrong(visit, served):
    page = visit(served.url)
    page.evaluate("document.querySelector('label[for=query]').remove()")
    page.evaluate("document.querySelector('#query').placeholder = ''")
    page.evaluate("document.documentElement.lang = ''")
    assert {rule for rule, _ in faults(page)} == {"html-has-lang", "label"}
