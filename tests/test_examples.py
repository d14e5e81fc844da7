"""The programs of examples/, apart from rag/: each does what its page says."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from resift import Reranker
from tests.support import children
from tests.support.pages import REPOSITORY, Block, Reader

EXAMPLES = REPOSITORY / "examples"
POOLS = [
    {
        "qid": "1",
        "query": "what causes tides",
        "documents": ["Bread rises by yeast.", "The moon pulls the sea.", "A shop."],
    },
    {"qid": "2", "query": "why does dough rise", "documents": ["Yeast makes gas.", "The sea is salt."]},
]


def program(name, monkeypatch):
    """The module of a file of examples/."""
    spec = spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where pydantic looks for annotations
    spec.loader.exec_module(module)
    return module


# A service


@pytest.fixture
def service(monkeypatch, tmp_path):
    pytest.importorskip("fastapi")
    (tmp_path / "sea.md").write_text("# The sea\n\n## Tides\n\nThe moon pulls the sea.\n\n## Salt\n\nRivers carry salt into it.\n")
    (tmp_path / "bread.md").write_text("# Bread\n\n## Dough\n\nYeast makes the dough rise.\n")
    monkeypatch.setenv("CORPUS", str(tmp_path))
    return program("service/app.py", monkeypatch)


def test_the_service_ranks_what_bm25_finds(service, monkeypatch):
    from fastapi.testclient import TestClient

    monkeypatch.setattr(service, "BUDGET_MS", None)
    with TestClient(service.app) as client:
        assert client.get("/ready").json() == {"passages": 3}
        found = client.get("/search", params={"query": "what pulls the sea", "limit": 1}).json()
        assert found["query"] == "what pulls the sea"
        assert [(hit["source"], hit["text"]) for hit in found["hits"]] == [("sea.md", "The sea: Tides\n\nThe moon pulls the sea.")]
        assert found["hits"][0]["score"] > 0.5
        assert client.get("/search", params={"query": "zebra"}).json()["hits"] == []
        assert client.get("/search", params={"query": "sea", "limit": 0}).status_code == 422
        assert client.get("/search", params={"query": ""}).status_code == 422


def test_the_service_refuses_what_would_wait_too_long(service, monkeypatch):
    from fastapi.testclient import TestClient

    from resift import OverloadedError

    async def overloaded(*_, **__):
        raise OverloadedError("too much is waiting")

    monkeypatch.setattr(Reranker, "arerank", overloaded)
    with TestClient(service.app) as client:
        answer = client.get("/search", params={"query": "sea"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert answer.json() == {"detail": "too much is waiting"}


def test_the_service_tells_that_a_folder_has_no_passages(service, tmp_path):
    with pytest.raises(SystemExit, match="expected files with headings"):
        service.read_passages(tmp_path / "missing")


# Batches over Parquet


@pytest.fixture
def parquet(monkeypatch):
    pytest.importorskip("pyarrow")
    return program("parquet/rerank_parquet.py", monkeypatch)


def test_rows_of_pools_and_of_pairs_come_out_ranked(parquet, monkeypatch, tmp_path, capsys, artifact):
    pq, pa = parquet.pq, parquet.pa
    pq.write_table(pa.Table.from_pylist(POOLS), tmp_path / "pools.parquet")
    pairs = [
        {"qid": pool["qid"], "query": pool["query"], "docid": f"d{number}", "text": text}
        for pool in POOLS
        for number, text in enumerate(pool["documents"])
    ]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    monkeypatch.setattr(parquet, "ROW_GROUP", 2)
    found = {}
    for name in ("pools", "pairs"):
        out = tmp_path / f"{name}-ranked.parquet"
        monkeypatch.setattr("sys.argv", ["rerank_parquet", str(tmp_path / f"{name}.parquet"), str(out), "--model", str(artifact)])
        parquet.main()
        assert capsys.readouterr().out == f"5 rows in {out}\n"
        found[name] = pq.read_table(out).to_pylist()
    assert [{**row, "docid": None} for row in found["pairs"]] == found["pools"]
    assert all(row["docid"] == f"d{row['index']}" for row in found["pairs"])
    with Reranker.load(artifact) as reranker:
        for pool in POOLS:
            ranking = reranker.rerank(pool["query"], pool["documents"])
            rows = [row for row in found["pools"] if row["qid"] == pool["qid"]]
            assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
            assert [(row["document"], row["logit"]) for row in rows] == [(result.document, result.logit) for result in ranking]


def test_an_error_leaves_an_earlier_output_and_is_told_in_a_line(parquet, monkeypatch, tmp_path, artifact):
    source, out = tmp_path / "pools.parquet", tmp_path / "out.parquet"
    out.write_bytes(b"earlier")
    parquet.pq.write_table(parquet.pa.table({"question": ["what causes tides"]}), source)
    monkeypatch.setattr("sys.argv", ["rerank_parquet", str(source), str(out), "--model", str(artifact)])
    with pytest.raises(SystemExit, match="query") as ended:
        parquet.main()
    assert "\n" not in str(ended.value)
    assert out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "pools.parquet"]


# Your own model


def run(*command, before="", **options):
    """Runs a command, for which the programs of a folder come before those that are installed."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([*filter(None, [str(before)]), scripts, os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "RESIFT": os.path.join(scripts, "resift")}  # noqa: PTH118
    return children.run([*map(str, command)], env=environment, capture_output=True, text=True, **options)


def test_sections_become_documents(tmp_path):
    (tmp_path / "inner").mkdir()
    text = "The moon pulls the sea into two bulges, one on each side."
    (tmp_path / "sea.md").write_text(f"# The sea\n\n## Tides\n\n{text}\n\n## Short\n\nNo.\n")
    (tmp_path / "inner" / "bread.txt").write_text(f"Bread\n{text}\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    done = run(sys.executable, EXAMPLES / "own-model" / "corpus.py", tmp_path, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"docid": "bread-0", "text": f"Bread: {text}"},
        {"docid": "sea-1", "text": f"The sea: Tides\n\n{text}"},
    ]
    (tmp_path / "empty").mkdir()
    done = run(sys.executable, EXAMPLES / "own-model" / "corpus.py", tmp_path / "empty")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


WITHOUT_SERVER = """#!/bin/sh
[ "$1" = serve ] && exit 77
exec "$RESIFT" "$@"
"""


@pytest.mark.slow
def test_documents_become_a_trained_checkpoint_and_then_a_server(checkpoint_of, artifact, tmp_path):
    for name in ("sentence_transformers", "accelerate", "datasets"):
        pytest.importorskip(name)
    documents, out, programs = tmp_path / "documents", tmp_path / "out", tmp_path / "programs"
    documents.mkdir()
    for path in sorted((EXAMPLES / "rag" / "corpus").glob("*.md"))[:24]:
        shutil.copy(path, documents)
    programs.mkdir()
    (programs / "resift").write_text(WITHOUT_SERVER)
    (programs / "resift").chmod(0o755)
    script = ["bash", EXAMPLES / "own-model" / "run.sh", documents, checkpoint_of("bert"), out]
    options = ["--force", "--epochs", "1", "--evaluations", "2", "--max-length", "48", "--threads", "1"]
    done = run(*script, *options, before=programs)
    # 3: the gate refuses the artifact of a checkpoint as tiny as this.
    assert done.returncode in (3, 77), done.stderr
    assert {"corpus.jsonl", "queries.jsonl", "pairs.jsonl.gz"} <= {path.name for path in out.iterdir()}
    assert (out / "checkpoint" / "recipe.json").exists()
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    if done.returncode == 3:
        shutil.copytree(artifact, out / "artifact")

    (tmp_path / "reader").mkdir()
    reader = Reader(tmp_path / "reader")
    try:
        reader.follow(Block("run.sh", 1, "sh", shlex.join(map(str, script)) + "\n", {"background": ""}))
        assert {path: path.stat().st_mtime_ns for path in written} == written
        asked = json.dumps({"query": "what causes tides", "documents": ["Bread rises.", "The moon pulls the sea."]})
        ask = f"curl -s -H 'Content-Type: application/json' -d {shlex.quote(asked)} http://127.0.0.1:8787/v1/rerank"
        reader.follow(Block("run.sh", 2, "sh", f"{ask} | grep -q relevance_score\n"))
    finally:
        reader.close()
