"""The RAG example, without its embedder; what needs LanceDB is skipped where that is not installed, and runs in .ci/full."""

from __future__ import annotations

import json
import re
import sys
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "rag"


class Embedder:
    """Stands in for the bi-encoder: a vector for each text, and a list of the texts it was asked for."""

    name, width = "stand-in", 8

    def __init__(self):
        self.asked = []

    def embed(self, texts):
        self.asked += texts
        return np.array([[1 + zlib.crc32(f"{text}{place}".encode()) % 97 for place in range(8)] for text in texts], np.float32)


@pytest.fixture(scope="module")
def example():
    """The example's modules rag, chunks and evaluate."""
    names = ("embedder", "chunks", "rag", "evaluate")
    stand_in = ModuleType("embedder")
    stand_in.Embedder = Embedder
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        patch.setitem(sys.modules, "embedder", stand_in)
        import chunks
        import evaluate
        import rag

        yield SimpleNamespace(rag=rag, chunks=chunks, evaluate=evaluate)
        for name in names[1:]:
            sys.modules.pop(name)


def test_every_label_names_a_section_and_the_example_is_small(example):
    chunks = example.chunks.read_corpus(EXAMPLE / "corpus")
    questions = example.evaluate.read_questions(EXAMPLE / "questions.jsonl", chunks)
    assert len(questions) >= 60
    assert {label for _, relevant in questions.values() for label in relevant.values()} == {1, 2}
    assert len({query for query, _ in questions.values()}) == len(questions)
    files = [path for path in EXAMPLE.rglob("*") if path.is_file() and ".index" not in path.parts and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 400_000


def test_a_section_is_a_chunk(example):
    text = "# Pans\nAbout pans.\n\n## Care\nDry it.\n```\n## no heading\n```\n### Care\nOil it.\n## Empty\n## Größe & Maß\n26 cm\n"
    found = [(chunk.section, chunk.text) for chunk in example.chunks.split("a/pans", text)]
    assert found == [
        ("a/pans", "Pans\nAbout pans."),
        ("a/pans#care", "Pans: Care\nDry it.\n```\n## no heading\n```"),
        ("a/pans#care-1", "Pans: Care\nOil it."),
        ("a/pans#größe-maß", "Pans: Größe & Maß\n26 cm"),
    ]


@given(st.lists(st.one_of(st.text(max_size=60), st.text("ab ", min_size=900, max_size=2500), st.just("字" * 2300)), max_size=6))
def test_parts_of_a_long_section_lose_no_text(example, paragraphs):
    parts = list(example.chunks.pack(paragraphs))
    assert all(0 < len(part) <= example.chunks.CHUNK for part in parts)
    assert "".join("".join(parts).split()) == "".join("".join(paragraphs).split())


def test_neighbouring_paragraphs_share_a_chunk(example):
    assert list(example.chunks.pack(["a" * 400, "b" * 400, "c" * 400])) == ["a" * 400 + "\n\n" + "b" * 400, "c" * 400]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe#", r"a\.md is not UTF-8 text .* byte 0"), (b"# only a title\n", "no Markdown file with text")],
)
def test_documents_that_cannot_be_used(example, tmp_path, content, message):
    (tmp_path / "a.md").write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        example.chunks.read_corpus(tmp_path)


def test_fusion_prefers_what_both_found(example):
    assert example.rag.fuse([[1, 2, 3], [4, 2, 5]]) == [2, 1, 4, 3, 5]
    assert example.rag.fuse([[], [7]]) == [7]


QUESTION = {"qid": "q", "query": "how", "relevant": {"a#b": 2}}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", "line 2: .*expected"),
        ("[]", "line 2: .*expected"),
        (json.dumps(QUESTION | {"relevant": {"a#b": "much"}}), "line 2: .*'much'.*expected"),
        (json.dumps(QUESTION | {"qid": "r", "relevant": {"a#z": 2}}), "line 2: the corpus has no section 'a#z'"),
        (json.dumps(QUESTION), "line 2: a second question 'q'"),
    ],
)
def test_a_bad_question_is_named_by_its_line(example, tmp_path, second, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(QUESTION) + "\n" + second + "\n")
    with pytest.raises(SystemExit, match=message):
        example.evaluate.read_questions(path, [example.chunks.Chunk("a#b", "text")])


def test_a_section_counts_at_the_rank_of_its_best_chunk(example):
    chunks = [example.chunks.Chunk(section, "") for section in ("a", "a", "b", "c")]
    questions = {"q": ("", {"b": 2})}
    rankings = {"first": [[2, 0, 1]], "second": [[0, 1, 2]], "missed": [[3, 0]]}
    values = example.evaluate.measure(rankings, questions, chunks)
    assert [values[name][0].round(3).tolist() for name in rankings] == [[1, 1, 1], [0.631, 1, 0.5], [0, 0, 0]]
    assert example.evaluate.found(rankings["missed"], questions, chunks) == 0


def test_the_table_has_a_row_for_each_stage(example, capsys):
    chunks = [example.chunks.Chunk(section, "") for section in "abcd"]
    questions = {f"q{number}": (str(number), {section: 2}) for number, section in enumerate("abcd")}
    stages = {
        "dense": lambda _: [0, 1, 2, 3],
        "BM25": lambda _: [],
        "hybrid": lambda query: [1, int(query)],
        "reranked": lambda query: [int(query)] if query != "1" else [0, 1],
    }
    rankings, times = example.evaluate.rank_all(stages, questions)
    values = example.evaluate.measure(rankings, questions, chunks)
    example.evaluate.print_table(values, times)
    example.evaluate.print_changes(values, rankings, questions, chunks)
    out = capsys.readouterr().out.splitlines()
    interval = r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] +"
    for row, name in zip(out[1:5], stages, strict=True):
        assert re.fullmatch(rf"{name} +({interval}){{3}}[\d.]+ ms +[\d.]+ ms", row)
    assert out[2].startswith("BM25                0.000 [0.000, 0.000]")
    assert out[5].startswith("reranked - hybrid   +0.185 [")
    assert "better in 3 questions, worse in 1, equal in 0." in "\n".join(out)
    assert out[-1] == "         first: a; expected: b"


# An OpenAI-compatible endpoint


@contextmanager
def endpoint(answer, status=200, headers=()):
    """(address, requests): a server that answers every request alike, and the headers and body of those it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, dict(self.headers), self.rfile.read(int(self.headers.get("Content-Length", 0)))))
            self.send_response(status)
            for header in headers:
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815 - http.server names it

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", got
        finally:
            server.shutdown()
            thread.join()


ANSWER = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Yes [1]."}}]}).encode()


def test_the_prompt_goes_to_the_endpoint(example):
    chunk = example.chunks.Chunk("pans#care", "Pans: Care\nDry it.")
    prompt = example.rag.make_prompt("how?", [chunk])
    assert "[1] pans#care\nPans: Care\nDry it." in prompt
    assert prompt.endswith("Question: how?")
    with endpoint(ANSWER) as (address, got):
        assert example.rag.ask(prompt, address + "/", "small", "key") == "Yes [1]."
    ((path, headers, body),) = got
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer key"
    assert json.loads(body) == {"model": "small", "messages": [{"role": "user", "content": prompt}]}


def test_the_key_is_not_sent_on_to_another_address(example):
    with endpoint(ANSWER) as (other, elsewhere), endpoint(b"", 302, [("Location", other)]) as (address, got):
        example.rag.ask("prompt", address, "small", "key")
    assert "Authorization" in got[0][1]
    assert "Authorization" not in elsewhere[0][1]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b'{"error": "no such model"}', 404, "refused the request: 404 .*no such model"),
        (b"<html>", 200, "did not answer with a chat completion"),
        (b'{"choices": []}', 200, "did not answer with a chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', 200, "did not answer with a chat completion.*None"),
    ],
)
def test_an_endpoint_that_does_not_answer(example, answer, status, message):
    with endpoint(answer, status) as (address, _), pytest.raises(SystemExit, match=message):
        example.rag.ask("prompt", address, "small", None)


def test_an_endpoint_that_is_not_there(example):
    with endpoint(ANSWER) as (address, _):
        pass
    with pytest.raises(SystemExit, match="cannot be reached"):
        example.rag.ask("prompt", address, "small", None)
    with pytest.raises(SystemExit, match="expected http"):
        example.rag.ask("prompt", "file:///etc/hostname", "small", None)


@pytest.mark.parametrize(
    ("question", "message"),
    [(" ", "the question is empty"), ("so\udcffap", "not text in this terminal's encoding"), ("soap", "OPENAI_MODEL is not")],
)
def test_a_command_line_that_cannot_be_used(example, monkeypatch, capsys, question, message):
    monkeypatch.setattr(sys, "argv", ["rag.py", question, "--corpus", "missing"])
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    with pytest.raises(SystemExit, match="2"):
        example.rag.main()
    assert message in capsys.readouterr().err


# The index


@pytest.fixture
def lancedb():
    return pytest.importorskip("lancedb")


def texts_of(table):
    return table.to_arrow().sort_by("position")["text"].to_pylist()


def test_only_new_texts_are_embedded(example, tmp_path, lancedb):
    chunks = [example.chunks.Chunk("a", text) for text in ("one", "two", "two", "three")]
    first, again, changed = Embedder(), Embedder(), Embedder()
    example.rag.open_index(tmp_path, chunks, first)
    table = example.rag.open_index(tmp_path, chunks, again)
    assert (first.asked, again.asked) == (["one", "two", "three"], [])
    assert texts_of(table) == ["one", "two", "two", "three"]
    new = [example.chunks.Chunk("a", text) for text in ("four", "two", "one")]
    after = example.rag.open_index(tmp_path, new, changed)
    assert changed.asked == ["four"]
    assert texts_of(after) == ["four", "two", "one"]
    vectors = np.array(after.to_arrow().sort_by("position")["vector"].to_pylist(), np.float32)
    assert np.array_equal(vectors, Embedder().embed(["four", "two", "one"]))
    assert texts_of(table) == ["one", "two", "two", "three"]  # who reads meanwhile goes on with the rows it opened


def test_an_embedding_that_fails_leaves_the_index_as_it_was(example, tmp_path, lancedb):
    class Interrupted(Embedder):
        def embed(self, texts):
            raise KeyboardInterrupt

    chunks = [example.chunks.Chunk("a", "one")]
    example.rag.open_index(tmp_path, chunks, Embedder())
    with pytest.raises(KeyboardInterrupt):
        example.rag.open_index(tmp_path, [*chunks, example.chunks.Chunk("a", "two")], Interrupted())
    later = Embedder()
    assert texts_of(example.rag.open_index(tmp_path, chunks, later)) == ["one"]
    assert later.asked == []


def test_a_damaged_index_is_told(example, tmp_path, lancedb):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("text")
    example.rag.load(tmp_path / "corpus", tmp_path / "index")
    for path in (tmp_path / "index").rglob("*.manifest"):
        path.write_bytes(b"damaged")
    with pytest.raises(SystemExit, match=r"index cannot be used.*\nDelete the folder"):
        example.rag.load(tmp_path / "corpus", tmp_path / "index")


def test_retrieval(example, tmp_path, lancedb):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, text in (("a", "Yeast raises bread."), ("b", "Chains want oil."), ("c", "Mice eat bread.")):
        (corpus / f"{name}.md").write_text(text)
    retriever = example.rag.load(corpus, tmp_path / "index")
    assert sorted(retriever.lexical("bread")) == [0, 2]
    assert retriever.lexical("the") == retriever.lexical("zebra") == retriever.lexical("") == []
    exact = retriever.chunks[1].text
    assert retriever.dense(exact, 2)[0] == 1
    assert set(retriever.hybrid("bread")) == {0, 1, 2}


def test_a_corpus_of_stop_words_is_found_by_vectors_alone(example, tmp_path, lancedb):
    (tmp_path / "the.md").write_text("the")
    retriever = example.rag.load(tmp_path, tmp_path / "index")
    assert (retriever.lexical("the"), retriever.hybrid("the")) == ([], [0])
