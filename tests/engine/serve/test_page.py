"""The page at /: its files and headers, and how it shows a ranking in a browser."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.conftest import worst_first
from tests.support.browser import DOCUMENTS, QUERY, rerank
from tests.support.serving import serving

REPOSITORY = Path(__file__).parents[3]
FILES = {
    "/": "text/html; charset=utf-8",
    "/page/page.css": "text/css; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/documents.js": "text/javascript; charset=utf-8",
    "/page/snippets.js": "text/javascript; charset=utf-8",
}


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}) as running:
        yield running


# What is served


@pytest.mark.parametrize("path", FILES)
def test_files_load_and_ask_nothing_but_this_server(served, path):
    reply = served.client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == FILES[path]
    assert reply.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert re.findall(r"\w+://[^'\"\s`]*", reply.text.replace("http://www.w3.org/2000/svg", "")) == []


@pytest.mark.parametrize("path", FILES)
def test_files_are_kept_until_they_change(served, path):
    first = served.client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = served.client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert served.client.get(path, headers={"if-none-match": '"other"'}).content == first.content
    head = served.client.head(path)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(first.content)))


def test_files_of_the_package_are_all_served_and_no_others(served):
    names = {file.name for file in resources.files("resift.serve.page").iterdir() if not file.name.startswith("__")} - {"routes.py"}
    assert {Path(path).name or "index.html" for path in FILES} == names
    for path in ("/page/routes.py", "/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/page/index.html"):
        assert served.client.get(path).status_code == 404, path
    assert served.client.post("/").status_code == 405


def test_nothing_is_inline_and_texts_are_no_markup(served):
    html = served.client.get("/").text
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|javascript:", html) == []
    for path in FILES:
        if path.endswith(".js"):
            script = served.client.get(path).text
            assert (
                re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|Storage|cookie", script)
                == []
            )


def test_the_example_is_the_repositorys_own(served):
    html = served.client.get("/").text
    assert (REPOSITORY / "examples/tides.txt").read_text().strip() in html
    assert '"why are there two high tides a day" examples/tides.txt' in (REPOSITORY / "README.md").read_text()


def test_the_page_needs_no_key_and_says_that_calls_do(reranker):
    with serving({"org/tiny": reranker}, api_key="secret") as keyed:
        page = keyed.client.get("/")
        assert page.status_code == 200
        assert 'data-key="required"' in page.text
        assert "secret" not in page.text
    with serving({"org/tiny": reranker}) as free:
        assert 'data-key="none"' in free.client.get("/").text


# In a browser


def test_typed_and_reranked(visit, served, reranker):
    page = visit(served.url)
    page.locator("#about", has_text="org/tiny").wait_for()
    documents = worst_first(reranker, QUERY, [*DOCUMENTS, "Rust is red."])
    rerank(page, documents=documents)
    ranking = reranker.rerank(QUERY, documents)
    assert [result.index for result in ranking] == [4, 3, 2, 1, 0]
    items = page.locator("#results > li")
    assert items.locator(".text").all_inner_texts() == [result.document for result in ranking]
    for place, (item, result) in enumerate(zip(items.all(), ranking, strict=True), start=1):
        given = result.index + 1
        assert item.locator(".place").inner_text() == str(place)
        assert item.locator(".path").inner_text() == ("as given" if given == place else f"{given} → {place}")
        arrow = "=" if given == place else f"↑{given - place}" if given > place else f"↓{place - given}"
        assert item.locator(".arrow").inner_text() == arrow
        assert item.locator(".score").inner_text() == f"{1 / (1 + np.exp(-result.logit)):.3f}"
        logit = float(item.locator(".logit").inner_text().removeprefix("logit ").replace("\N{MINUS SIGN}", "-"))
        assert logit == pytest.approx(result.logit, abs=0.005001)
        bar = item.locator(".bar").evaluate("bar => parseFloat(getComputedStyle(bar, '::before').width) / bar.clientWidth")
        assert bar == pytest.approx(1 / (1 + np.exp(-result.logit)), abs=0.01)
    assert "5 documents reranked in" in page.inner_text("#status")


def test_the_times_are_those_the_server_tells(visit, served):
    page = visit(served.url)
    with page.expect_response("**/rerank") as told:
        rerank(page)
    stages = dict(part.split(";dur=") for part in told.value.header_value("server-timing").split(", "))
    shown = dict(
        zip(page.locator("#timing dt").all_inner_texts(), page.locator("#timing dd").all_inner_texts(), strict=True),
    )
    assert list(shown) == ["Tokenize", "Queue", "Run", "Server total", "Round trip"]
    assert all(re.fullmatch(r"\d+(\.\d)? ms", text) for text in shown.values())
    for label, name in {"Tokenize": "tokenize", "Queue": "queue", "Run": "run", "Server total": "total"}.items():
        assert float(shown[label].removesuffix(" ms")) == pytest.approx(float(stages[name]), abs=0.51)


def test_what_was_cut_is_told_and_long_texts_unfold(visit, served, reranker):
    documents = ["owl " * 1000, *DOCUMENTS]
    page = visit(served.url)
    rerank(page, documents=documents)
    [result] = [result for result in reranker.rerank(QUERY, documents) if result.index == 0]
    assert page.locator(".cut").all_inner_texts() == [f"{result.tokens_cut:,} tokens cut"]
    assert "1 document cut" in page.inner_text("#status")
    text, more = page.locator(".text.folded"), page.locator(".more")
    assert text.evaluate("text => text.clientHeight < text.scrollHeight")
    more.click()
    assert more.get_attribute("aria-expanded") == "true"
    assert page.locator(".text.folded").count() == 0
    more.click()
    assert more.get_attribute("aria-expanded") == "false"
    assert text.count() == 1


def test_by_keyboard_alone(visit, served, reranker):
    page = visit(served.url)
    press = page.keyboard.press
    order = []
    for _ in range(6):
        press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", order[-1]
    assert order == ["A", "example", "query", "documents", "rerank", "choose"]
    for _ in range(3):
        press("Shift+Tab")
    page.keyboard.type(QUERY)
    press("Tab")
    page.keyboard.type("\n".join(DOCUMENTS))
    press("Control+Enter")
    page.locator("#timing").wait_for()
    assert page.locator(".text").all_inner_texts() == [result.document for result in reranker.rerank(QUERY, DOCUMENTS)]
    assert page.evaluate("document.activeElement.id") == "documents"
    reached = []
    for _ in range(7):
        press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["rerank", "choose", "The same call as curl and Python", "Copy as curl", "curl", "Copy as Python", "python"]


def test_every_control_has_a_name_and_news_is_announced(visit, served):
    page = visit(served.url)
    rerank(page)
    for name in ("Query", "Documents", "File of documents"):
        assert page.get_by_label(name, exact=True).count() == 1, name
    assert page.get_by_role("status").inner_text().startswith("4 documents reranked")
    assert page.get_by_role("alert").count() == 1
    first = page.locator("#results > li").first.locator(".move .unseen").inner_text()
    assert re.fullmatch(r"moved (up|down) \d+, from \d+ to 1|in the place it was given", first)
    assert page.get_by_role("list").count() == 1


def test_markup_in_texts_is_text(visit, served):
    attacks = [
        "<img src=x onerror='window.hit=1'>",
        "<script>window.hit=1</script>",
        "</textarea></pre><svg onload='window.hit=1'>",
        "{{7*7}} ${7*7} javascript:window.hit=1",
    ]
    page = visit(served.url)
    rerank(page, "<img src=y onerror='window.hit=1'>", attacks)
    assert sorted(page.locator(".text").all_inner_texts()) == sorted(attacks)
    assert page.locator("main img, main script, main svg").count() == 0
    assert page.evaluate("window.hit") is None
    page.fill("#documents", '{"<img src=z onerror=window.hit=1>"')
    page.click("#rerank")
    page.locator("#fault", has_text="not JSON").wait_for()
    assert page.locator("main img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways(visit, served, scheme):
    page = visit(served.url, viewport={"width": 390, "height": 844}, color_scheme=scheme, is_mobile=True, has_touch=True)
    wide = "() => [document.documentElement.scrollWidth, innerWidth]"
    assert page.evaluate(wide) == [390, 390]
    rerank(page, "w" * 300, ["x" * 3000, "many words " * 50, "短い" * 200, *DOCUMENTS])
    page.locator("summary").click()
    assert page.locator("#curl").is_visible()
    assert page.evaluate(wide) == [390, 390]
    clipped = page.evaluate(
        "() => [...document.querySelectorAll('.text')].filter((text) => text.scrollWidth > text.clientWidth).length"
    )
    assert clipped == 0
    small = [box for box in (button.bounding_box() for button in page.locator("button:visible").all()) if box["height"] < 24]
    assert small == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_contrast_with_what_is_behind_them(visit, served, scheme):
    page = visit(served.url, color_scheme=scheme)
    rerank(page, documents=["owl " * 1000, *DOCUMENTS])
    colours = page.evaluate("""() => [...document.querySelectorAll("body *")]
        .filter((node) => node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
        .map((node) => {
            let behind = node;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [node.outerHTML.slice(0, 80), getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
        })""")
    assert len(colours) > 30
    assert [found for found in colours if contrast(*found[1:]) < 4.5] == []


def contrast(*colours: str) -> float:
    """The contrast ratio of WCAG 2, 1 to 21."""
    luminances = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminances.append(np.dot(linear, [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def test_the_example_ranks(visit, served):
    page = visit(served.url)
    page.click("#example")
    assert page.evaluate("document.activeElement.id") == "rerank"
    page.keyboard.press("Enter")
    page.locator("#timing").wait_for()
    assert page.locator("#results > li").count() == 7


def test_behind_a_path_of_a_proxy_the_page_asks_under_that_path(visit, served):
    page = visit(served.url)

    def forward(route):
        route.fulfill(response=route.fetch(url=route.request.url.replace("/below/", "/")))

    page.route("**/below/**", forward)
    page.goto(f"{served.url}/below/")
    rerank(page)
    assert f"'{served.url}/below/rerank'" in page.inner_text("#curl")
