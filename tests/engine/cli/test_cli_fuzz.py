"""Whatever files, standard input and options come in: an exit code of the table, and one line where the input is at fault."""

from __future__ import annotations

import gzip
import io
import json
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resift import Reranker
from resift.cli.main import main
from resift.files.escapes import UNSAFE

ANY = st.text(max_size=12) | st.text(st.characters(codec=None), max_size=4)
LINE = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["text", "docid", "score", "given_score", "index", "document", "label"]) | ANY
CANDIDATE = st.dictionaries(NAMES, JSON, max_size=3) | st.builds(
    lambda text, fields: {**fields, "text": text}, LINE, st.dictionaries(NAMES, JSON, max_size=3)
)
POOL = st.fixed_dictionaries(
    {"query": LINE | JSON},
    optional={
        "qid": st.integers() | LINE | JSON,
        "documents": st.lists(LINE | JSON, max_size=3),
        "candidates": st.lists(CANDIDATE, max_size=3),
    },
)
ROWS = st.lists(CANDIDATE | POOL | JSON, max_size=4).map(lambda rows: "\n".join(json.dumps(row) for row in rows))
TEXTS = st.lists(LINE, max_size=5).map("\n".join) | ROWS
ENCODED = st.builds(
    lambda text, encoding: text.encode(encoding, "replace"),
    TEXTS,
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"]),
)
CONTENT = (
    st.binary(max_size=120)
    | ENCODED
    | st.builds(lambda content, end: gzip.compress(content, mtime=0)[:end], ENCODED, st.none() | st.integers(1, 40))
)
POOLS = st.lists(POOL, max_size=4).map(lambda pools: "\n".join(map(json.dumps, pools)).encode())
NUMBER = st.integers(-2, 3).map(str) | st.sampled_from(["99999999999999999999", "x", ""])
OPTIONS = st.lists(
    st.just(["--json"])
    | st.builds(
        lambda name, value: [name, value], st.sampled_from(["--top-k", "--threads", "--max-length", "--max-candidates"]), NUMBER
    )
    | st.sampled_from([["--format", "trec"], ["--on-error", "skip"], ["--overwrite"], ["--precision", "float32"], ["--colour"]])
    | ANY.map(lambda text: [text]),
    max_size=2,
).map(lambda found: [word for words in found for word in words])


@pytest.fixture(scope="module")
def loaded(reranker):
    """The commands rank with the session's Reranker, whatever they ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reranker, "load", lambda *_, **__: nullcontext(reranker))
        yield patch


def run(loaded, arguments, given=b""):
    """What `resift ARGUMENTS` answers, in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    loaded.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given), isatty=lambda: False))
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return SimpleNamespace(code=code, out=out, err=err)


def check(done):
    assert done.code in (0, 1, 2, 3)
    for text in (done.out, done.err):
        assert set(UNSAFE.findall(text)) <= {"\n"}
    if done.code == 1:
        assert done.out == ""
        assert done.err.startswith("resift: ")
        assert done.err.count("\n") == 1
        assert done.err.endswith("\n")
    if done.code == 2:
        assert done.err.startswith("usage: resift")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


FUZZ = settings(max_examples=150)


@FUZZ
@given(query=ANY, content=CONTENT, name=st.sampled_from(["f.txt", "f.gz", "-"]) | ANY, options=OPTIONS)
@example(query="q", content=b"a\0", name="f.txt", options=[])
@example(query="q", content=b'{"text": "\\ud800"}', name="f.txt", options=[])
@example(query="\udcff", content=b"a", name="f.txt", options=[])
@example(query="q", content=b"a", name="\udcff\0", options=["--json"])
@example(query="q", content=b"a", name="\ud800", options=[])
@example(query="q", content=b"a\x1b[2J\xc2\x9b\xe2\x80\xae", name="f.txt", options=[])
@example(query="q\u202e", content=b'{"text": "a", "\\u009b": "\xc2\x9b"}', name="-", options=["--json"])
@example(query="q", content=b'{"text": "a", "x": ' + b"[" * 990 + b"]" * 990 + b"}", name="-", options=["--json"])
@example(query="q", content=b'{"text": "a", "x": [1e999]}', name="f.txt", options=["--json"])
def test_documents_of_anything(loaded, folder, query, content, name, options):
    (folder / "f.txt").write_bytes(content)
    (folder / "f.gz").write_bytes(content)
    path = str(folder / name) if name.startswith("f.") else name
    done = run(loaded, ["rerank", query, path, *options], content)
    check(done)
    if done.code == 0 and "--json" in options:
        json.loads(done.out)


@FUZZ
@given(content=CONTENT | POOLS, name=st.sampled_from(["p.jsonl", "p.gz", "-"]) | ANY, options=OPTIONS)
@example(content=b'{"query": "a", "documents": []}\n' * 3, name="p.jsonl", options=["--top-k", "1"])
@example(content=b"x", name="-", options=["--on-error", "skip"])
@example(content=b"", name="\udcff\0", options=["--on-error", "skip"])
@example(content=b"", name="\ud800", options=[])
def test_pools_of_anything(loaded, folder, content, name, options):
    for path in folder.iterdir():
        path.unlink()
    (folder / "p.jsonl").write_bytes(content)
    (folder / "p.gz").write_bytes(content)
    source = str(folder / name) if name.startswith("p.") else name
    out = folder / "out"
    done = run(loaded, ["rerank", f"--pools={source}", "--out", str(out), *options], content)
    check(done)
    assert done.out == ""
    assert out.exists() == (done.code == 0)
