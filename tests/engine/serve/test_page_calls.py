"""The page at / in a browser: files, keys, refusals, and the same call as curl and Python."""

from __future__ import annotations

import json
import os
import sys

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.support import children
from tests.support.browser import DOCUMENTS, QUERY, copied, rerank
from tests.support.serving import serving

HOSTILE = [
    'it\'s "quoted" and `ticked` $(echo run) ${HOME} $HOME',
    "back\\slash \\n \\u0041 \\' and a trailing one \\",
    "wow! !! !$ !foo",
    "JSON",
    "überall 雪 🦉 e\u0301 \u202e right to left \u2066 zero\u200bwidth \ufeff \u2028 line \u00a0",
    "control \x01 \x1b[31m \x7f tab\tend",
    "'''triple''' \"\"\"triple\"\"\" {braces} %s #comment",
    "several\nlines\nJSON\n",
    "</script><img src=x onerror=alert(1)>",
]


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}) as running:
        yield running


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_call_as_curl(visit, served, tmp_path, shell):
    page = visit(served.url)
    rerank(page, HOSTILE[0], HOSTILE)
    (tmp_path / "call").write_text('curl() { printf "%s\\0" "$@" > arguments; cat > body; }\n' + copied(page, "curl"))
    children.run([shell, "call"], cwd=tmp_path, check=True)
    assert (tmp_path / "arguments").read_text().split("\0")[:-1] == [
        "-sS", f"{served.url}/rerank", "-H", "Content-Type: application/json", "--data-binary", "@-",
    ]  # fmt: skip
    body = json.loads((tmp_path / "body").read_text())
    assert body == {"query": HOSTILE[0], "texts": HOSTILE, "raw_scores": True, "return_tokens_cut": True}
    assert "!" not in (tmp_path / "body").read_text(), "interactive shells replace it"


def test_the_call_as_python(visit, served, reranker):
    page = visit(served.url)
    rerank(page, HOSTILE[0], HOSTILE)
    program = copied(page, "python")
    ran = children.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    logits = {result.index: result.logit for result in reranker.rerank(HOSTILE[0], HOSTILE)}
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [(int(index), float(score)) for index, score in lines] == [
        (index, pytest.approx(logit, rel=1e-6)) for index, logit in logits.items()
    ]


def test_a_key_is_asked_for_used_and_kept_nowhere(visit, reranker, tmp_path):
    with serving({"org/tiny": reranker}, api_key="a-secret") as keyed:
        page = visit(keyed.url, expected=["status of 401"])
        page.fill("#query", QUERY)
        page.fill("#documents", "\n".join(DOCUMENTS))
        page.click("#rerank")
        page.locator("#fault", has_text="401: invalid API key").wait_for()
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.locator("#fault", has_text="401: invalid API key").wait_for()
        page.fill("#key", "schlüssel→")
        page.click("#rerank")
        page.locator("#fault", has_text="a header cannot carry").wait_for()
        page.fill("#key", "a-secret")
        page.click("#rerank")
        page.locator("#timing").wait_for()
        page.locator("#about", has_text="org/tiny").wait_for()
        assert page.inner_text("#fault") == ""
        for name in ("curl", "python"):
            snippet = copied(page, name)
            assert "a-secret" not in snippet
            assert "RESIFT_SERVE_API_KEY" in snippet
        environment = {**os.environ, "RESIFT_SERVE_API_KEY": "a-secret"}
        ran = children.run([sys.executable, "-c", snippet], check=True, capture_output=True, env=environment)
        assert len(ran.stdout.splitlines()) == len(DOCUMENTS)
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]") == [
            0, 0, "", f"{keyed.url}/",
        ]  # fmt: skip
        page.reload()
        assert page.input_value("#key") == ""


def test_refusals_are_shown_in_words(visit, reranker):
    with serving({"org/tiny": reranker}, max_client_batch_size=3) as limited:
        page = visit(limited.url, expected=["status of 413", "ERR_CONNECTION_REFUSED"])
        page.click("#rerank")
        page.locator("#fault", has_text="There is no query").wait_for()
        assert page.evaluate("document.activeElement.id") == "query"
        page.fill("#query", QUERY)
        page.click("#rerank")
        page.locator("#fault", has_text="There are no documents").wait_for()
        assert page.get_attribute("#documents", "aria-invalid") == "true"
        rerank(page, documents=DOCUMENTS[:3])
        assert page.inner_text("#fault") == ""
        assert page.get_attribute("#documents", "aria-invalid") is None
        page.fill("#documents", "\n".join(DOCUMENTS))
        page.click("#rerank")
        page.locator("#fault", has_text="413: ").wait_for()
        assert page.locator("#results > li").count() == 0
        assert page.inner_text("#status") == "Not reranked."
    page.click("#rerank")
    page.locator("#fault", has_text="cannot be reached").wait_for()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"status": 502, "body": "<h1>Bad gateway</h1>", "content_type": "text/html"}, "is not JSON, with status 502"),
        ({"status": 429, "json": {"error": "busy"}, "headers": {"retry-after": "2"}}, "429: busy. Try again in 2 seconds."),
        ({"status": 500, "json": {"message": "of another server"}}, "500: of another server."),
        ({"status": 500, "body": "null"}, "500: the request was refused."),
    ],
)
def test_answers_of_what_stands_between(visit, served, reply, words):
    page = visit(served.url, expected=["status of"])
    page.route("**/rerank", lambda route: route.fulfill(**reply))
    page.fill("#query", QUERY)
    page.fill("#documents", "one")
    page.click("#rerank")
    page.locator("#fault", has_text=words).wait_for()


def test_a_call_can_be_stopped(visit, served):
    page = visit(served.url, expected=["ERR_ABORTED"])
    page.route("**/rerank", lambda route: None)  # never answered
    page.fill("#query", QUERY)
    page.fill("#documents", "one")
    page.click("#rerank")
    page.locator("#rerank", has_text="Stop").click()
    page.locator("#status", has_text="Stopped.").wait_for()
    assert page.inner_text("#rerank") == "Rerank"
    page.unroute("**/rerank")
    rerank(page)


FILES_OF_DOCUMENTS = {
    "lines.txt": ("\ufeffone\r\n\r\n  two \nthree", None, ["one", "  two ", "three"]),
    "rows.jsonl": ('{"text": "one\\nmore", "id": 4}\n\n{"text": "two"}\n', None, ["one\nmore", "two"]),
    "pool.jsonl": ('{"qid": 1, "query": "asked", "documents": ["one", "two"]}\n', "asked", ["one", "two"]),
    "pools.jsonl": (
        '{"query": "asked", "candidates": [{"text": "one", "docid": "a"}]}\n{"query": "next", "documents": ["other"]}\n',
        "asked",
        ["one"],
    ),
}


@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted"])
@pytest.mark.parametrize("name", FILES_OF_DOCUMENTS)
def test_files(visit, served, name, way):
    text, query, documents = FILES_OF_DOCUMENTS[name]
    page = visit(served.url)
    if way == "chosen":
        page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": text.encode()})
    elif way == "dropped":
        drop(page, name, text.encode())
    else:
        page.fill("#documents", text.removeprefix("\ufeff"))
    noun = "document" if len(documents) == 1 else "documents"
    page.locator("#count", has_text=f"{len(documents)} {noun}").wait_for()
    if query is None:
        page.fill("#query", "asked")
    with page.expect_request("**/rerank") as asked:
        page.click("#rerank")
    assert asked.value.post_data_json["query"] == "asked"
    assert asked.value.post_data_json["texts"] == documents
    page.locator("#timing").wait_for()
    if name == "pools.jsonl" and way == "pasted":
        assert page.inner_text("#count") == "1 document, the first of 2 pools"


def drop(page, name, content):
    page.evaluate(
        """([name, content]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(content)], name));
            const on = (type) => new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(on("dragover"));
            if (document.body.dispatchEvent(on("drop"))) throw new Error("the browser would leave the page");
        }""",
        [name, list(content)],
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfeo\x00n\x00e\x00", "odd.bin is not UTF-8 text"),
        (b"\x1f\x8b\x08\x00\x00", "odd.bin is not UTF-8 text"),
        (b"one\x00two", "odd.bin is not UTF-8 text"),
        (b'{"text": "one"}\nplain', "Line 2 is not JSON"),
        (b'{"text": "one"}\n\n[1]', "Line 3 is not a JSON object"),
        (b'{"text": "one"}\n{"text": 2}', "No text in line 2"),
        (b'{"title": "one"}', "No text in line 1"),
        (b'{"query": "a", "documents": ["b", null]}', "No text in line 1, document 2"),
        (b'{"query": 1, "documents": []}', "Line 1 is not a candidate pool"),
    ],
)
def test_files_that_cannot_be_read(visit, served, content, words):
    page = visit(served.url)
    page.fill("#documents", "kept")
    page.set_input_files("#file", {"name": "odd.bin", "mimeType": "", "buffer": content})
    page.locator("#fault", has_text=words).wait_for()
    assert page.input_value("#documents") == "kept"


def test_500_documents_of_2000_characters(visit, served):
    documents = [f"{number} " + "long text of owls and barns " * 80 for number in range(500)]
    documents = [text[:2000] for text in documents]
    page = visit(served.url)
    rerank(page, documents=documents)
    assert page.locator("#results > li").count() == 500
    assert sorted(page.locator(".text").all_text_contents()) == sorted(documents)
    assert len(page.inner_text("#curl")) < 7000
    assert "more characters, which Copy includes" in page.inner_text("#curl")
    snippet = copied(page, "curl")
    assert json.loads(snippet.split("<<'JSON'\n")[1].removesuffix("\nJSON\n"))["texts"] == documents


def test_one_of_several_models_is_chosen(visit, reranker):
    with serving({"org/one": reranker, "org/two": reranker}) as several:
        page = visit(several.url)
        page.select_option("#model", "org/two")
        page.locator("#about", has_text="2 models").wait_for()
        with page.expect_request("**/rerank") as asked:
            rerank(page)
        assert asked.value.post_data_json["model"] == "org/two"
        assert '"model": "org/two"' in page.inner_text("#python")
