"""Whatever bytes come in, what comes out is an answer or one of our own errors."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resift import ArtifactError, InputError, Reranker, ResiftError
from resift.artifact.manifest import MANIFEST, Manifest, decode_manifest
from resift.pools.documents import read_documents
from resift.pools.reading import CandidatePool, decode_pool
from resift.pools.source import read_pools

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["qid", "query", "documents", "candidates", "text", "docid"])
POOLISH = st.dictionaries(
    NAMES, JSON | st.lists(st.text(max_size=4) | st.dictionaries(NAMES, JSON, max_size=2), max_size=3), max_size=4
)
DEEP = b"[" * 100_000


@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | POOLISH.map(lambda value: json.dumps(value).encode())
)
@example(DEEP)
@example(b'{"query": "a", "documents": ' + DEEP)
@example(b'{"query": "\\ud800", "documents": []}')
@example(b'{"query": "a", "documents": [], "documents": ["b"]}')
def test_a_line_is_a_pool_or_an_input_error_that_names_it(line):
    try:
        pool = decode_pool(line, "here, line 7")
    except InputError as error:
        assert str(error).startswith("here, line 7: ")
    else:
        assert isinstance(pool, CandidatePool)
        assert all(isinstance(document, str) for document in pool.documents)
        assert len(pool.fields) in (0, len(pool.documents))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), name=st.sampled_from(["file.txt", "file.jsonl.gz"]))
@example(content=b"\xef\xbb\xbf{}", name="file.txt")
@example(content=b"\x1f\x8b\x08", name="file.jsonl.gz")
def test_a_file_of_anything_is_read_or_named(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (lambda: read_documents(path, "q"), lambda: list(read_pools(path))):
        try:
            read()
        except InputError as error:
            assert str(path) in str(error)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(DEEP)
@example(b'{"format": 1}')
@example(b'{"format": 1e400}')
def test_a_manifest_of_anything_is_an_artifact_error(content):
    with pytest.raises(ArtifactError):
        decode_manifest(content)


@pytest.fixture(scope="module")
def spoilt(artifact, tmp_path_factory):
    return shutil.copytree(artifact, tmp_path_factory.mktemp("fuzz") / "artifact")


@settings(max_examples=150)
@given(data=st.data())
def test_a_manifest_with_one_value_changed_loads_or_is_refused(artifact, spoilt, data):
    manifest = json.loads((artifact / MANIFEST).read_bytes())
    place = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    (spoilt / MANIFEST).write_text(json.dumps(manifest))
    try:
        with Reranker.load(spoilt) as reranker:
            reranker.score("a", ["b"])
            assert isinstance(reranker.artifact.manifest, Manifest)
    except ResiftError as error:
        assert len(str(error)) > 20
