"""What evaluations and tuning tell of documents that a split graph reads: new, prepared, and in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import resift_export
from resift import Reranker, Settings
from resift.cli.main import main
from resift.evaluate import ArtifactSystem, evaluate, read_dataset
from resift.evaluate.doctor.diagnosis import diagnose
from resift.evaluate.known import KnownDocuments
from resift.evaluate.tuning.timing import Bench
from resift.pools.preparation import fill_store, header_of
from resift.pools.reading import CandidatePool
from resift.states.document_states import StatesCounts
from resift.states.writer import StoreWriter
from tests.support.columns import columns_of
from tests.support.splits import POSITION
from tests.support.stores import unsynchronized  # noqa: F401 - a fixture

pytest.importorskip("ir_measures")
pytestmark = pytest.mark.usefixtures("unsynchronized")

GATE = Path(resift_export.__file__).parent / "data" / "gate.jsonl"
LOOK = "first-look"
POOLS = 4


@pytest.fixture(scope="module")
def reranker(split_artifact):
    with Reranker.load(split_artifact) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def pools_file(tmp_path_factory):
    """The gate's first pools, with queries that fit into their slot."""
    rows = [json.loads(line) for line in GATE.read_text().splitlines()[:POOLS]]
    return written(tmp_path_factory.mktemp("known") / "pools.jsonl", rows)


def written(path, rows):
    path.write_text("".join(json.dumps({**row, "query": " ".join(row["query"].split()[:4])}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(pools_file):
    """Pools of ten documents, which are all different."""
    dataset = read_dataset(pools_file)
    texts = [text for pool in dataset.pools for text in pool.documents]
    assert len(set(texts)) == len(texts) == 10 * POOLS
    return dataset


@pytest.fixture
def prepared(reranker, tmp_path):
    """prepared(texts): a store with their states."""

    def fill(texts):
        with StoreWriter(tmp_path / "states", header_of(reranker)) as writer:
            fill_store(reranker, texts, writer)
        return tmp_path / "states"

    return fill


def first_texts(dataset, count=3):
    """The first documents of each pool."""
    return [text for pool in dataset.pools for text in pool.documents[:count]]


# Evaluations


def test_documents_are_counted_and_both_ways_are_timed(split_artifact, data, prepared):
    store = prepared(first_texts(data))
    systems = [
        ArtifactSystem(split_artifact, Settings(plan=LOOK), name="new"),
        ArtifactSystem(split_artifact, Settings(plan=LOOK, store=store), name="some prepared"),
        ArtifactSystem(split_artifact, name="full"),
        ArtifactSystem(split_artifact, Settings(plan=LOOK, document_cache=100), name="no room"),
    ]
    given, new, some, full, small = evaluate(data, systems).systems
    assert given.documents is full.documents is None
    assert [(each.documents.prepared, each.documents.new) for each in (new, some, small)] == [(0, 40), (12, 28), (0, 40)]
    assert new.documents.known_latency_ms.p95 >= new.documents.known_latency_ms.p50 > 0
    assert some.documents.known_latency_ms is not None
    assert small.documents.known_latency_ms is None
    assert new.per_query == some.per_query == small.per_query != full.per_query


def test_a_document_that_comes_back_is_new_in_every_pool(split_artifact, tmp_path):
    """As it is if each query comes an hour after the other; equal ones of a pool count once."""
    rows = [json.loads(line) for line in GATE.read_text().splitlines()[:2]]
    rows[1]["candidates"] = [*rows[0]["candidates"][:3], *rows[0]["candidates"][:3], *rows[1]["candidates"][:2]]
    for row in rows:
        row["candidates"] = [{**candidate, "docid": str(place)} for place, candidate in enumerate(row["candidates"])]
    path = written(tmp_path / "pools.jsonl", rows)
    [_, found] = evaluate(read_dataset(path), [ArtifactSystem(split_artifact, Settings(plan=LOOK))]).systems
    assert (found.documents.prepared, found.documents.new) == (0, 10 + 5)


def test_a_query_that_only_the_full_graph_reads_takes_what_it_takes():
    known = KnownDocuments()
    known.add(None, 3.0, lambda: pytest.fail("made again"))
    assert known.figures() is None
    known.add(StatesCounts(1, 0, 2), 3.0, lambda: StatesCounts(0, 3, 0))
    found = known.figures()
    assert (found.prepared, found.new) == (1, 2)
    assert 2000 < found.known_latency_ms.p95 < 3000
    known.add(StatesCounts(1, 0, 2), 3.0, lambda: StatesCounts(0, 2, 1))
    assert known.figures().known_latency_ms is None


def test_the_table_has_a_row_for_known_documents(split_artifact, capsys, pools_file):
    arguments = ["eval", pools_file, "--limit", 3, "--model", split_artifact, "--plan", LOOK, "--plan", "full"]
    assert main([*map(str, arguments)]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("latency"))
    assert [line.split("  ")[0] for line in lines[place + 1 : place + 5]] == [
        "bert-split int8 first-look",
        "bert-split int8 first-look, documents known",
        "bert-split int8",
        "",
    ]
    assert f"bert-split int8 {LOOK}: states of 0 documents were prepared, of 30 new" in lines
    assert any(line.startswith("documents known: each pool again") for line in lines)


# Tuning


def test_a_bench_times_documents_as_new_every_time_and_as_known(split_artifact, data, prepared):
    pools = data.pools[:2]
    with Bench(split_artifact, Settings(plan=LOOK, store=prepared(first_texts(data)))) as bench:
        settings = bench.settings("int8", 1, 256)
        assert bench.reads_states
        for _ in range(2):
            found = bench.document_figures(settings, pools)
            assert (found.prepared, found.new) == (6, 14)
            assert found.known_latency_ms is not None
    with Bench(split_artifact, Settings()) as bench:
        assert not bench.reads_states
        assert bench.document_figures(bench.settings("int8", 1, 256), pools) is None


def test_the_tuned_table_has_columns_for_known_documents(split_artifact, capsys, monkeypatch, tmp_path, pools_file):
    monkeypatch.setattr(Bench, "milliseconds", lambda self, settings, pool: len(pool.documents) / settings.threads)
    (tmp_path / "settings.toml").write_text('[settings]\nplan = "first-look"\n')
    options = ["--model", split_artifact, "--threads", 1, "--precision", "int8", "--candidates", 2, 8, "--limit", 3]
    arguments = ["tune", pools_file, *options]
    assert main([*map(str, [*arguments, "--settings", tmp_path / "settings.toml"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads, *rows = [line.split() for line in lines if line.startswith("  candidates") or " int8  " in line]
    assert heads[-5:] == ["p50", "known", "p95", "known", "nDCG@10"]
    assert all(len(row) == 9 + (row[0] == "*") for row in rows)
    assert any(line.startswith("states of 0 documents were prepared, of 24 new; known: each pool again") for line in lines)
    assert main([*map(str, arguments)]) == 0
    assert "known" not in capsys.readouterr().out


# Diagnosis


def findings(reranker, pools):
    """The findings about prepared documents, by name."""
    scored = [columns_of(np.linspace(-5, 5, len(pool.documents)).astype(np.float32)) for pool in pools]
    found = diagnose(reranker, pools, scored=scored)
    return {each.name: each for each in found if each.name in ("preparing", "not-prepared")}


def test_documents_that_come_back_are_reported_with_what_preparing_takes(reranker, data):
    first, *others = data.pools
    assert findings(reranker, data.pools) == {}
    again = CandidatePool("another query", [*first.documents[:5], *first.documents[:5]])
    [found] = findings(reranker, [*data.pools, again]).values()
    assert (found.severity, found.value) == ("note", pytest.approx(5 / 45))
    assert found.words.startswith("11% of the candidates are documents of an earlier one of these 5 pools (5 of 45)")
    kilobytes = np.mean([states.nbytes for _, states in reranker.prepare(first_texts(data, 10))]) / 1000
    assert f" ms and {kilobytes:.1f} kB; the 40 different ones here take " in found.words
    graph = next(graph for graph in reranker.artifact.manifest.graphs if graph.name == LOOK)
    saved = 1 - (graph.split.query_operations / 8 + graph.split.reading_operations * 7 / 8) / graph.operations
    assert f"{LOOK} reads prepared ones in {saved:.0%} fewer operations" in found.words
    assert 0.2 < saved < 0.95
    assert findings(reranker, [*others, again]) == {}
    long = CandidatePool("the " * POSITION, again.documents)  # the full graph reads its documents
    assert findings(reranker, [*data.pools, long]) == findings(reranker, [long] * 2) == {}


def test_a_store_of_another_model_or_machine_is_reported(reranker, split_artifact, data, tmp_path, monkeypatch, prepared):
    store = prepared(first_texts(data, 10))
    monkeypatch.setattr("resift.machine.instruction_sets", lambda: {"avx2"})
    with Reranker.load(split_artifact, settings=Settings(store=store)) as elsewhere:
        [found] = findings(elsewhere, data.pools).values()
    assert (found.name, found.severity, found.value) == ("not-prepared", "warning", 1.0)
    assert f"100% of 40 documents examined are not in the store {store}" in found.words
    assert "it has states of 1 other models, versions or machines, and none of " in found.words
    assert found.words.endswith(" avx2")


@pytest.mark.parametrize(("count", "expected"), [(10, None), (9, ("warning", 0.1)), (3, ("warning", 0.7))])
def test_documents_that_a_store_lacks_are_reported(split_artifact, data, prepared, count, expected):
    with Reranker.load(split_artifact, settings=Settings(store=prepared(first_texts(data, count)))) as with_store:
        found = findings(with_store, [*data.pools, data.pools[0]])
        assert with_store.document_states.counts == StatesCounts(0, 0, 0)
    if expected is None:
        assert found == {}
    else:
        severity, share = expected
        assert (found["not-prepared"].severity, found["not-prepared"].value) == (severity, pytest.approx(share))
        assert "other models" not in found["not-prepared"].words


def test_nothing_is_said_where_nothing_can_be_prepared(artifact, split_artifact, data, tmp_path):
    """Without a split graph, and with pairs too short for one."""
    twice = [data.pools[0]] * 2
    for folder, settings in [(artifact, Settings()), (split_artifact, Settings(max_length=2 * POSITION - 1))]:
        with Reranker.load(folder, settings=settings) as without:
            assert findings(without, twice) == {}
    with Reranker.load(split_artifact, settings=Settings(max_length=2 * POSITION)) as short:
        assert [*findings(short, twice)] == ["preparing"]
