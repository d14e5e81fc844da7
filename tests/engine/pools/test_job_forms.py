"""Jobs whose pools come from tables, runs and folders: the same output, the same resuming, the same refusals."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from resift import InputError, OutputError, Reranker, Settings
from resift.pools.collection import rerank_pools
from resift.pools.job import Job, rerank_file
from tests.support import tiny
from tests.support.jobs import files

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 8
TEXTS = [f"{place} {text[:60]}" for place, text in enumerate(tiny.texts()[: COUNT * 3])]
POOLS = [
    {
        "qid": f"q{number}",
        "query": tiny.texts()[number],
        "candidates": [{"docid": f"d{place}", "text": TEXTS[place]} for place in range(number * 3, number * 3 + 3)],
    }
    for number in range(COUNT)
]


def write_rows(path: Path, pools=POOLS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["qid", "query", "docid", "document"])
        for pool in pools:
            writer.writerows([pool["qid"], pool["query"], each["docid"], each["text"]] for each in pool["candidates"])
    return path


def write_parquet(path: Path) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(POOLS), path)
    return path


def write_folder(path: Path) -> Path:
    path.mkdir()
    found = [each for pool in POOLS for each in pool["candidates"]]
    (path / "corpus.jsonl").write_text("".join(json.dumps({"_id": each["docid"], "text": each["text"]}) + "\n" for each in found))
    (path / "queries.jsonl").write_text("".join(json.dumps({"_id": pool["qid"], "text": pool["query"]}) + "\n" for pool in POOLS))
    rows = [
        f"{pool['qid']} Q0 {each['docid']} {place} {-place} other\n"
        for pool in POOLS
        for place, each in enumerate(pool["candidates"])
    ]
    (path / "run.trec").write_text("".join(rows))
    return path


FORMS = {
    "csv": lambda folder: {"source": write_rows(folder / "pairs.csv")},
    "parquet": lambda folder: {"source": write_parquet(folder / "pools.parquet")},
    "BEIR": lambda folder: {"source": write_folder(folder / "beir"), "run": folder / "beir" / "run.trec"},
    "run": lambda folder: {
        "source": write_folder(folder / "beir") / "run.trec",
        "texts": folder / "beir" / "corpus.jsonl",
        "queries": folder / "beir" / "queries.jsonl",
    },
}


def job(tmp_path, inputs, name="out.jsonl", **more) -> Job:
    return Job(out=tmp_path / name, **{field: str(path) for field, path in inputs.items()}, **more)


@pytest.fixture
def expected(reranker, tmp_path):
    """OUT of the same pools in JSON Lines."""
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(pool) + "\n" for pool in POOLS))
    rerank_file(reranker, Job(source=str(tmp_path / "given.jsonl"), out=tmp_path / "expected.jsonl"))
    return (tmp_path / "expected.jsonl").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_pools_has_the_same_output(reranker, tmp_path, expected, form):
    done = []
    rerank_file(reranker, job(tmp_path, FORMS[form](tmp_path)), progress=lambda **told: done.append(told))
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert [told["pools"] for told in done] == list(range(1, COUNT + 1))
    assert 0 < done[0]["share"] <= done[-1]["share"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_job_goes_on_where_it_stopped(reranker, tmp_path, expected, monkeypatch, form):
    ranked = []

    def stopping(reranker, pools, **more):
        for pool, ranking in rerank_pools(reranker, pools, **more):
            ranked.append(pool.qid)
            if len(ranked) == 4:
                raise KeyboardInterrupt
            yield pool, ranking

    monkeypatch.setattr("resift.pools.job.rerank_pools", stopping)
    work = job(tmp_path, FORMS[form](tmp_path))
    with pytest.raises(KeyboardInterrupt):
        rerank_file(reranker, work)
    assert len((tmp_path / "out.jsonl.partial").read_bytes().splitlines()) == 3
    rerank_file(reranker, work)
    assert ranked == ["q0", "q1", "q2", "q3", *(f"q{number}" for number in range(3, COUNT))]
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def interrupted(reranker, work, monkeypatch, pools=3):
    """Runs a job and interrupts it after so many pools."""

    def stopping(reranker, source, **more):
        for number, found in enumerate(rerank_pools(reranker, source, **more)):
            if number == pools:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr("resift.pools.job.rerank_pools", stopping)
        with pytest.raises(KeyboardInterrupt):
            rerank_file(reranker, work)


def test_another_corpus_is_refused_when_a_job_goes_on(reranker, tmp_path, monkeypatch):
    work = job(tmp_path, FORMS["BEIR"](tmp_path))
    interrupted(reranker, work, monkeypatch)
    corpus = tmp_path / "beir" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace(TEXTS[4], f"{TEXTS[4]}!"))
    before = files(tmp_path)
    with pytest.raises(OutputError, match=r"pool 2, about .* is not the one that was ranked"):
        rerank_file(reranker, work)
    assert files(tmp_path) == before
    rerank_file(reranker, work, overwrite=True)
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == COUNT


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"instruction": "find: "}, "instruction was None, now find: "),
        ({"with_documents": True}, "with_documents was None, now True"),
    ],
    ids=["instruction", "with documents"],
)
def test_other_options_are_refused_when_a_job_goes_on(reranker, tmp_path, monkeypatch, more, said):
    inputs = FORMS["csv"](tmp_path)
    interrupted(reranker, job(tmp_path, inputs), monkeypatch)
    with pytest.raises(OutputError, match=said):
        rerank_file(reranker, job(tmp_path, inputs, **more))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"document_template": "{docid}: {text}"}, "document_template was None, now {docid}: {text}"),
        ({"scores": "logit"}, "scores was None, now logit"),
    ],
    ids=["template", "scores"],
)
def test_other_settings_are_refused_when_a_job_goes_on(artifact, reranker, tmp_path, monkeypatch, settings, said):
    work = job(tmp_path, FORMS["csv"](tmp_path))
    interrupted(reranker, work, monkeypatch)
    with Reranker.load(artifact, settings=Settings(**settings)) as other, pytest.raises(OutputError) as caught:
        rerank_file(other, work)
    assert said in str(caught.value)


def test_a_template_says_what_is_read_and_the_fields_come_out_again(artifact, reranker, tmp_path):
    work = job(tmp_path, FORMS["csv"](tmp_path), with_documents=True)
    with Reranker.load(artifact, settings=Settings(document_template="{docid}: {text}", scores="logit")) as other:
        rerank_file(other, work)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    for row, pool in zip(found, POOLS, strict=True):
        texts = [f"{each['docid']}: {each['text']}" for each in pool["candidates"]]
        ranking = reranker.rerank(pool["query"], texts)
        assert [(each["index"], each["logit"], each["document"]) for each in row["results"]] == [
            (each.index, each.logit, each.document) for each in ranking
        ]
        assert all(each["score"] == each["logit"] for each in row["results"])
        assert all(each["docid"] == pool["candidates"][each["index"]]["docid"] for each in row["results"])


def test_bad_rows_are_skipped_and_told(reranker, tmp_path, expected):
    path = write_rows(tmp_path / "pairs.csv")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"q0,x\n", *lines[3:], b"q0,again,d,e\n"]))
    work = job(tmp_path, {"source": path}, on_error="skip")
    assert rerank_file(reranker, work) == 2
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    found = [json.loads(line) for line in work.errors.read_bytes().splitlines()]
    assert [(row["line"], row["content"]) for row in found] == [(4, "q0,x"), (len(lines) + 2, "q0,again,d,e")]
    with pytest.raises(InputError, match=r"pairs\.csv, line 4: 2 cells; expected 4"):
        rerank_file(reranker, job(tmp_path, {"source": path}, "other.jsonl"))


def test_an_output_that_is_one_of_the_inputs_is_refused(reranker, tmp_path):
    inputs = FORMS["run"](tmp_path)
    before = files(tmp_path / "beir")
    for path in inputs.values():
        with pytest.raises(OutputError, match="is also its input"):
            rerank_file(reranker, Job(out=path, **{field: str(found) for field, found in inputs.items()}), overwrite=True)
    inputs = {"source": tmp_path / "beir", "run": tmp_path / "beir" / "run.trec"}
    for name in ("corpus.jsonl", "run.trec"):
        with pytest.raises(OutputError, match="is also its input"):
            rerank_file(reranker, job(tmp_path, inputs, f"beir/{name}"), overwrite=True)
    assert files(tmp_path / "beir") == before


def test_a_run_without_its_texts_is_refused_before_anything_is_written(reranker, tmp_path):
    path = FORMS["run"](tmp_path)["source"]
    with pytest.raises(InputError, match="is a TREC run, which holds no texts"):
        rerank_file(reranker, job(tmp_path, {"source": path}))
    assert files(tmp_path) == {}


def test_a_reranked_run_is_read_by_trec_eval_in_its_order(reranker, tmp_path):
    """Documents with equal texts have equal logits; trec_eval alone would put the higher id first."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    docids = ["a", "b", "c", "d"]
    pool = {"qid": "q", "query": "tides", "candidates": [{"id": docid, "text": "The moon."} for docid in docids]}
    (tmp_path / "pools.jsonl").write_text(json.dumps(pool))
    rerank_file(reranker, job(tmp_path, {"source": tmp_path / "pools.jsonl"}, "run.trec", format="trec"))
    rows = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("q", "Q0", docid, str(rank), "resift") for rank, docid in enumerate(docids, 1)
    ]
    scores = [float(row[4]) for row in rows]
    logits = reranker.logits("tides", ["The moon."] * 4).tolist()
    assert scores[0] == logits[0] == logits[3]
    assert scores == pytest.approx(logits, rel=1e-6)
    run = {"q": dict(zip(docids, scores, strict=True))}
    for rank, docid in enumerate(docids, 1):
        measured = pytrec_eval.RelevanceEvaluator({"q": {docid: 1}}, {"recip_rank"}).evaluate(run)
        assert measured["q"]["recip_rank"] == pytest.approx(1 / rank)


@pytest.mark.parametrize("name", ["id", "_id", "docid", "doc_id"])
def test_an_id_may_have_any_of_its_names(reranker, tmp_path, name):
    pool = {"qid": 1, "query": "tides", "candidates": [{name: "x1", "text": "The moon."}]}
    (tmp_path / "pools.jsonl").write_text(json.dumps(pool))
    rerank_file(reranker, job(tmp_path, {"source": tmp_path / "pools.jsonl"}, "run.trec", format="trec"))
    assert (tmp_path / "run.trec").read_text().startswith("1 Q0 x1 1 ")
    rerank_file(reranker, job(tmp_path, {"source": tmp_path / "pools.jsonl"}))
    assert json.loads((tmp_path / "out.jsonl").read_text())["results"][0][name] == "x1"


def test_a_candidates_text_may_be_called_content(reranker, tmp_path):
    for name in ("content", "page_content"):
        pool = {"query": "tides", "candidates": [{name: "The moon.", "title": "Moon"}]}
        (tmp_path / "pools.jsonl").write_text(json.dumps(pool))
        rerank_file(reranker, job(tmp_path, {"source": tmp_path / "pools.jsonl"}, with_documents=True), overwrite=True)
        (result,) = json.loads((tmp_path / "out.jsonl").read_text())["results"]
        assert (result["document"], result["title"], name in result) == ("The moon.", "Moon", False)


def test_what_a_job_cannot_have_is_refused(tmp_path):
    for name in ("run", "texts", "queries"):
        with pytest.raises(InputError, match=f"{name} is ''; expected a file name"):
            Job(source="a", out=tmp_path / "b", **{name: ""})
    with pytest.raises(InputError, match="with_documents is for JSON Lines"):
        Job(source="a", out=tmp_path / "b", format="trec", with_documents=True)
