"""A Reranker that follows plans: a tiny artifact with a first look."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from resift import ArtifactError, InputError, Plan, ProviderError, Ranking, Reranker, Settings, Stage
from resift.artifact.folder import Artifact
from resift.cli.main import main
from resift.evaluate import tune
from resift.evaluate.tuning.quality import top_agreement
from resift.pools.collection import rerank_pools
from resift.pools.job import Job, rerank_file
from resift.pools.reading import CandidatePool
from resift.runtime.session import Session
from tests.conftest import edit
from tests.support import tiny
from tests.support.commands import QUERY, answered, complaint, resift
from tests.support.forks import beside_threads, can_fork
from tests.support.jobs import forked, lines

DOCUMENTS = [text[:80] for text in tiny.texts()[1:120:2]]
LOOK = Plan([Stage("first-look")])
OWN = 12
"""Candidates that the artifact's own plan, first-look:0.2,full, keeps of DOCUMENTS."""


@pytest.fixture
def copy_of_planned(planned_artifact, tmp_path):
    import shutil

    return shutil.copytree(planned_artifact, tmp_path / "planned")


@pytest.fixture
def ran(monkeypatch, planned):
    """{session of `planned`: rows that it read}. A batch of an earlier test's Reranker may still run."""
    rows, lock, run = {}, threading.Lock(), Session.run

    def counted(self, batch):
        with lock:  # two workers at once would count one of their batches only
            if self in planned._sessions._sessions.values():
                rows[self] = rows.get(self, 0) + len(batch["input_ids"])
        return run(self, batch)

    monkeypatch.setattr(Session, "run", counted)
    return rows


@pytest.fixture
def opened(monkeypatch):
    """Files of the graphs that are read."""
    files, read = [], Artifact.read_graph
    monkeypatch.setattr(
        Artifact, "read_graph", lambda self, variant, **how: files.append(variant.file) or read(self, variant, **how)
    )
    return files


def order_of(values) -> list[int]:
    return np.argsort(-np.asarray(values), kind="stable").tolist()


def test_the_documents_are_worth_a_test(planned):
    """The two graphs disagree, on the best as well."""
    look, full = planned.submit(QUERY, DOCUMENTS, plan=LOOK).result().logits, planned.logits(QUERY, DOCUMENTS)
    assert len(DOCUMENTS) == len(set(DOCUMENTS)) == 60
    assert look.tolist() != full.tolist()
    assert order_of(look)[:OWN] != order_of(full)[:OWN]


@pytest.mark.parametrize("keep", [1, 7, 0.25])
def test_the_best_of_the_first_look_are_ranked_by_the_full_graph_and_the_others_below_them(planned, keep):
    look, full = planned.submit(QUERY, DOCUMENTS, plan=LOOK).result().logits, planned.logits(QUERY, DOCUMENTS)
    first = order_of(look)
    size = keep if isinstance(keep, int) else 15
    kept = sorted(first[:size], key=lambda index: (-full[index], index))
    ranking = planned.rerank(QUERY, DOCUMENTS, plan=Plan([Stage("first-look", keep), Stage("full")]))
    assert [result.index for result in ranking] == [*kept, *first[size:]]
    assert [result.scored_by for result in ranking] == ["full"] * size + ["first-look"] * (60 - size)
    assert [result.logit for result in ranking] == [*full[kept].tolist(), *look[first[size:]].tolist()]
    scores = planned.score(QUERY, DOCUMENTS)
    assert [result.score for result in ranking] == [*scores[kept].tolist(), *[None] * (60 - size)]


def test_full_is_the_plain_engine(planned, planned_artifact, ran):
    alone = json.loads((planned_artifact / "manifest.json").read_text())
    assert [graph["name"] for graph in alone["graphs"]] == ["full", "first-look"]
    expected = planned.logits(QUERY, DOCUMENTS).tolist()
    for more in ({}, {"plan": "full"}, {"plan": "full", "top_k": 3}, {"plan": Plan([Stage("full")])}):
        found = planned.rerank(QUERY, DOCUMENTS, **more)
        assert [result.logit for result in found] == [expected[index] for index in order_of(expected)][: more.get("top_k")]
        assert {result.scored_by for result in found} == {"full"}
    assert list(ran.values()) == [5 * 60]


def test_the_artifacts_own_plan_serves_the_best_and_reads_every_one_in_full(planned, ran):
    best = planned.rerank(QUERY, DOCUMENTS, top_k=5)
    assert sorted(ran.values()) == [OWN, 60]
    assert all(result.scored_by == "full" and result.score is not None for result in best)
    more = planned.rerank(QUERY, DOCUMENTS, top_k=30)
    assert sorted(ran.values()) == [OWN + 30, 120]
    assert all(result.scored_by == "full" for result in more)
    assert len(more) == 30
    assert planned.rerank(QUERY, DOCUMENTS) == planned.rerank(QUERY, DOCUMENTS, plan="full")
    assert planned.rerank(QUERY, DOCUMENTS, top_k=59) == planned.rerank(QUERY, DOCUMENTS, plan="full", top_k=59)
    assert planned.rerank(QUERY, DOCUMENTS, top_k=5, plan="auto") == best


def test_scores_and_logits_are_always_the_full_graphs(planned, planned_artifact):
    pairs = [(QUERY, document) for document in DOCUMENTS]
    with Reranker.load(planned_artifact, plan="first-look:3,full") as asked:
        assert asked.score(QUERY, DOCUMENTS).tolist() == planned.score(QUERY, DOCUMENTS).tolist()
        assert asked.logits(QUERY, DOCUMENTS).tolist() == planned.logits(QUERY, DOCUMENTS).tolist()
        assert asked.score_pairs(pairs).tolist() == planned.score(QUERY, DOCUMENTS).tolist()
        assert asyncio.run(asked.ascore(QUERY, DOCUMENTS)).tolist() == planned.score(QUERY, DOCUMENTS).tolist()
        assert asyncio.run(asked.ascore_pairs(pairs)).tolist() == planned.score(QUERY, DOCUMENTS).tolist()
        assert sum(result.score is not None for result in asked.rerank(QUERY, DOCUMENTS)) == 3


def test_every_way_in_follows_the_plan(planned):
    plan = "first-look:9,full"
    expected = planned.rerank(QUERY, DOCUMENTS, plan=plan, top_k=20)
    assert planned.rerank_many([QUERY] * 2, [DOCUMENTS] * 2, plan=plan, top_k=20) == [expected] * 2
    assert asyncio.run(planned.arerank(QUERY, DOCUMENTS, plan=plan, top_k=20)) == expected
    assert asyncio.run(planned.arerank_many([QUERY], [DOCUMENTS], plan=plan, top_k=20)) == [expected]
    assert Ranking.of(DOCUMENTS, planned.submit(QUERY, DOCUMENTS, plan=plan).result(), top_k=20) == expected
    pool = CandidatePool(QUERY, DOCUMENTS)
    assert [ranking for _, ranking in rerank_pools(planned, [pool] * 2, plan=plan, top_k=20)] == [expected] * 2

    async def encoded():
        return planned.submit_encoded(await planned.aencode(QUERY, DOCUMENTS, plan=plan)).result()

    assert Ranking.of(DOCUMENTS, asyncio.run(encoded()), top_k=20) == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("token_budget", [1, 4096])
def test_a_plan_keeps_the_same_whatever_shares_its_batches(planned, planned_artifact, threads, token_budget):
    expected = planned.rerank(QUERY, DOCUMENTS, plan="first-look:9,full")
    with Reranker.load(planned_artifact, settings=Settings(threads=threads, token_budget=token_budget)) as other:
        answers = [other.submit(QUERY, DOCUMENTS, plan=plan) for plan in ("first-look:9,full", "full", "first-look:20,full") * 2]
        assert Ranking.of(DOCUMENTS, answers[0].result()) == Ranking.of(DOCUMENTS, answers[3].result()) == expected


def test_equal_documents_are_kept_once(planned, ran):
    documents = [DOCUMENTS[0], *DOCUMENTS, DOCUMENTS[0]]
    ranking = planned.rerank(QUERY, documents, plan="first-look:9,full")
    assert sorted(ran.values()) == [9, 60]
    assert sum(result.scored_by == "full" for result in ranking) in (9, 11)
    alike = [result for result in ranking if result.document == DOCUMENTS[0]]
    assert len({(result.logit, result.score, result.scored_by) for result in alike}) == 1
    assert [result.index for result in alike] == [0, 1, 61]


def test_a_small_pool_is_read_in_full_and_nothing_is_loaded_for_it(planned_artifact, opened):
    with Reranker.load(planned_artifact, plan="full") as fresh:
        for documents in ([], DOCUMENTS[:1], DOCUMENTS[:10]):
            ranking = fresh.rerank(QUERY, documents, plan="first-look:10,full")
            assert all(result.scored_by == "full" for result in ranking)
        assert opened == ["model.int8.onnx"]


def test_a_graph_is_loaded_at_its_first_use_or_with_what_calls_without_a_plan_follow(planned_artifact, opened):
    with Reranker.load(planned_artifact, plan="full") as fresh:
        fresh.rerank(QUERY, DOCUMENTS, top_k=3)
        assert opened == ["model.int8.onnx"]
        fresh.rerank(QUERY, DOCUMENTS, plan="fast")
        fresh.rerank(QUERY, DOCUMENTS, plan="fast")
        assert opened == ["model.int8.onnx", "first-look.int8.onnx"]
    for settings in (Settings(), Settings(plan="fast")):
        del opened[:]
        with Reranker.load(planned_artifact, settings=settings) as fresh:
            assert opened == ["model.int8.onnx", "first-look.int8.onnx"]
            fresh.rerank(QUERY, DOCUMENTS, budget_ms=1000)
            assert len(opened) == 2


@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        ([], ["model.int8.onnx"]),
        (["--top-k", "3"], ["model.int8.onnx", "first-look.int8.onnx"]),
        (["--budget-ms", "1000"], ["model.int8.onnx", "first-look.int8.onnx"]),
        (["--plan", "fast"], ["model.int8.onnx", "first-look.int8.onnx"]),
    ],
)
def test_the_command_loads_no_first_look_for_a_query_that_is_read_in_full(planned_artifact, opened, tmp_path, options, graphs):
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS), encoding="utf-8")
    assert main(["rerank", QUERY, str(documents), "--model", str(planned_artifact), *options]) == 0
    assert opened == graphs


def test_with_time_to_read_all_in_full_no_first_look_says_in_which_order(planned, ran):
    expected = planned.rerank(QUERY, DOCUMENTS)
    ran.clear()
    assert planned.rerank(QUERY, DOCUMENTS, budget_ms=1e6) == expected
    assert list(ran.values()) == [len(DOCUMENTS)]


def test_threads_that_come_at_once_load_a_graph_once(planned, planned_artifact, opened):
    expected, together = planned.rerank(QUERY, DOCUMENTS, top_k=3), threading.Barrier(6, timeout=60)

    def ask(_):
        together.wait()
        return fresh.rerank(QUERY, DOCUMENTS, top_k=3, plan="first-look:0.2,full")

    del opened[:]
    with Reranker.load(planned_artifact, plan="full") as fresh, ThreadPoolExecutor(6) as callers:
        assert list(callers.map(ask, range(6))) == [expected] * 6
    assert opened == ["model.int8.onnx", "first-look.int8.onnx"]


@can_fork
@beside_threads
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_child_follows_plans(planned_artifact, used):
    with Reranker.load(planned_artifact) as fresh:
        expected = Reranker.load(planned_artifact).rerank(QUERY, DOCUMENTS, top_k=3)
        if used:
            fresh.rerank(QUERY, DOCUMENTS, top_k=3)
        assert forked(lambda: sys.exit(0 if fresh.rerank(QUERY, DOCUMENTS, top_k=3) == expected else 1)) == 0


def test_a_reranker_pickles_with_its_plan(planned_artifact):
    with Reranker.load(planned_artifact, plan=Plan([Stage("first-look", 4), Stage("full")])) as asked:
        expected = asked.rerank(QUERY, DOCUMENTS)
        with pickle.loads(pickle.dumps(asked)) as again:
            assert again.rerank(QUERY, DOCUMENTS) == expected


def test_a_damaged_first_look_is_found_when_it_is_loaded(copy_of_planned):
    path = copy_of_planned / "first-look.int8.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with Reranker.load(copy_of_planned, plan="full") as loaded:
        assert len(loaded.rerank(QUERY, DOCUMENTS)) == 60
        for _ in range(2):
            with pytest.raises(ArtifactError, match=r"first-look.int8.onnx has SHA-256 .*: the file was changed or damaged"):
                loaded.rerank(QUERY, DOCUMENTS, plan="fast")
        assert len(loaded.rerank(QUERY, DOCUMENTS, top_k=3)) == 3
    for plan in ("auto", "fast"):
        with pytest.raises(ArtifactError, match=r"first-look.int8.onnx has SHA-256"):
            Reranker.load(copy_of_planned, plan=plan)


def only_float32(manifest):
    manifest["graphs"][1]["variants"] = manifest["graphs"][1]["variants"][1:]


def test_a_first_look_without_the_precision_asked_for_is_an_error_at_load(copy_of_planned):
    edit(copy_of_planned, only_float32)
    with pytest.raises(
        ProviderError, match=r"the graph first-look cannot run: the precision int8 was asked for.*; or use the plan full"
    ):
        Reranker.load(copy_of_planned, settings=Settings(precision="int8"))
    with Reranker.load(copy_of_planned, settings=Settings(precision="int8", plan="full")) as loaded:
        assert len(loaded.rerank(QUERY, DOCUMENTS, top_k=3)) == 3
        with pytest.raises(ProviderError, match=r"the graph first-look cannot run"):
            loaded.rerank(QUERY, DOCUMENTS, plan="fast")


BAD_PLANS = {
    "fats:3,full": "needs a graph fats",
    "first-look": "has the plan first-look; expected one that ends with full",
    "first-look:0,full": "a stage keeps 0",
    "full:3,first-look": "expected cheaper graphs first",
}


@pytest.mark.parametrize(("plan", "said"), BAD_PLANS.items())
def test_an_artifact_whose_own_plan_cannot_be_followed_is_refused(copy_of_planned, plan, said):
    edit(copy_of_planned, lambda manifest: manifest.update(plan=plan))
    with pytest.raises(ArtifactError, match=said):
        Artifact.open(copy_of_planned)


def test_an_artifact_without_a_first_look_says_so(artifact, reranker):
    for ask in (lambda: Reranker.load(artifact, plan="fast"), lambda: reranker.rerank(QUERY, DOCUMENTS, plan="fast")):
        with pytest.raises(InputError, match="needs a graph first-look, but this artifact has full; use the plan full"):
            ask()
    assert reranker.rerank(QUERY, DOCUMENTS, top_k=3) == reranker.rerank(QUERY, DOCUMENTS, top_k=3, plan="full")


@pytest.mark.parametrize("plan", [3, ["first-look", "full"], b"fast"])
def test_a_plan_of_another_type_is_a_type_error(planned, planned_artifact, plan):
    with pytest.raises(TypeError, match=r"plan is .*; expected a str or a Plan"):
        planned.rerank(QUERY, DOCUMENTS, plan=plan)
    with pytest.raises(TypeError, match=r"Settings.plan is .*; expected a str or a Plan"):
        Reranker.load(planned_artifact, plan=plan)


def test_two_plans_for_one_reranker_are_refused(planned_artifact):
    with pytest.raises(InputError, match=r"plan is 'fast' but Settings.plan is 'full'; give only one of them"):
        Reranker.load(planned_artifact, plan="fast", settings=Settings(plan="full"))


def test_settings_hold_a_plan_as_text(file):
    assert Settings(plan=Plan([Stage("first-look", 15), Stage("full")])).plan == "first-look:15,full"
    assert Settings.read(file(b'[settings]\nplan = "first-look:15,full"', "s.toml")) == Settings(plan="first-look:15,full")
    for content, said in ((b'[settings]\nplan = "first-look"', None), (b"[settings]\nplan = 3", "Settings.plan is int")):
        path = file(content, "s.toml")
        if said is None:
            assert Settings.read(path).plan == "first-look"
        else:
            with pytest.raises(InputError, match=said):
                Settings.read(path)


def test_the_command_line_follows_a_plan_and_json_says_who_read_what(planned, planned_artifact, file):
    given = "".join(f"{document}\n" for document in DOCUMENTS).encode()
    documents = [line for line in given.decode().splitlines() if line.strip()]
    more = ["--model", planned_artifact, "--plan", "first-look:4,full", "--top-k", "6"]
    expected = planned.rerank(QUERY, documents, plan="first-look:4,full", top_k=6)
    found = json.loads(answered(resift("rerank", QUERY, *more, "--json", given=given)))["results"]
    assert [(item["index"], item["score"], item["logit"], item["scored_by"]) for item in found] == [
        (result.index, result.score, result.logit, result.scored_by) for result in expected
    ]
    assert [item["score"] is None for item in found] == [False] * 4 + [True] * 2
    table = answered(resift("rerank", QUERY, *more, given=given)).splitlines()
    assert [line[:14] for line in table[5:7]] == ["   5         -", "   6         -"]
    assert table[-1] == "2 of 6 without a score of the full model rank as a stage before, or as given"
    settings = file(b'[settings]\nplan = "first-look:4,full"', "s.toml")
    by_file = resift("rerank", QUERY, "--model", planned_artifact, "--settings", settings, "--top-k", "6", given=given)
    assert answered(by_file).splitlines() == table
    assert "the plan fats needs a graph fats" in complaint(
        resift("rerank", QUERY, "--model", planned_artifact, "--plan", "fats", given=given)
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "pools.jsonl"
    candidates = [{"docid": f"d{place}", "text": text} for place, text in enumerate(DOCUMENTS)]
    path.write_bytes(lines([{"qid": f"q{number}", "query": f"{QUERY} {number}", "candidates": candidates} for number in range(3)]))
    return path


def job(source, name="out.jsonl", **more):
    return Job(source=str(source), out=source.parent / name, **more)


def test_a_run_of_trec_falls_strictly_in_the_order_of_the_ranking(planned, source):
    rerank_file(planned, job(source, "run.trec", format="trec", plan="first-look:5,full"))
    rows = [line.split() for line in (source.parent / "run.trec").read_text().splitlines()]
    for number in range(3):
        ranking = planned.rerank(f"{QUERY} {number}", DOCUMENTS, plan="first-look:5,full")
        own = [row for row in rows if row[0] == f"q{number}"]
        assert [row[2] for row in own] == [f"d{result.index}" for result in ranking]
        values = [float(row[4]) for row in own]
        assert values[:5] == [result.logit for result in ranking[:5]]
        assert all(above > below for above, below in itertools.pairwise(values[4:]))


def test_a_job_resumes_with_its_own_plan_only(planned, source):
    whole = source.read_bytes()
    source.write_bytes(whole + b"bad\n")
    with pytest.raises(InputError, match="line 4"):
        rerank_file(planned, job(source, plan="first-look:5,full"))
    source.write_bytes(whole)
    for other in ("first-look:6,full", "full", None):
        with pytest.raises(Exception, match="another job"):
            rerank_file(planned, job(source, plan=other))
    rerank_file(planned, job(source, plan=Plan.parse("first-look:5,full")))
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 3


def test_a_job_that_follows_the_artifacts_own_plan_resumes_with_what_keeps_the_same(planned, source):
    whole = source.read_bytes()
    source.write_bytes(whole + b"bad\n")
    with pytest.raises(InputError, match="line 4"):
        rerank_file(planned, job(source, top_k=OWN + 8))
    source.write_bytes(whole)
    # Of DOCUMENTS it keeps OWN alone: results of one file would have a score, and others none.
    with pytest.raises(Exception, match="another job"):
        rerank_file(planned, job(source, top_k=OWN + 8, plan="first-look:0.2,full"))
    rerank_file(planned, job(source, top_k=OWN + 8, plan="auto"))
    for line in (source.parent / "out.jsonl").read_bytes().splitlines():
        assert all(result["score"] is not None for result in json.loads(line)["results"])


@pytest.mark.parametrize(
    ("plan", "least", "text"),
    [
        ("first-look:20,full", 1, "first-look:20,full"),
        ("first-look:20,full", 20, "first-look:20,full"),
        ("first-look:20,full", 30, "first-look:30,full"),
        ("first-look:0.2,full", 1, "first-look:0.2,full"),
        ("first-look:0.2,full", 30, "first-look:0.2 and at least 30,full"),
    ],
)
def test_a_plan_as_text_says_what_it_keeps(planned, plan, least, text):
    assert str(replace(planned.plan_for(plan), min_keep=least)) == text


@pytest.mark.parametrize("plan", ["first-look:0,full", "Fast"])
def test_a_job_with_a_plan_that_is_none_is_refused(source, plan):
    with pytest.raises(InputError, match=r"the plan .* cannot be used"):
        job(source, plan=plan)


def test_verify_and_info_know_the_first_look(planned_artifact):
    found = json.loads(answered(resift("verify", planned_artifact, "--json", "--accept-bounds")))
    looks = found["first_looks"]["first-look.int8.onnx"]
    assert [each["look"] for each in looks["kept"]] == [0.2, 0.3, 0.4, 0.5]
    assert looks["kept"] == looks["at_export"]
    table = answered(resift("verify", planned_artifact, "--accept-bounds"))
    assert "first-look.int8.onnx, a first look: share of the best documents among its first" in table
    record = json.loads(answered(resift("info", planned_artifact, "--json")))
    assert (record["runs"]["plan"], record["runs"]["plan_with_top_k"]) == ("full", "first-look:0.2,full")
    assert list(record["first_looks"]) == ["first-look.int8.onnx", "first-look.float32.onnx"]
    assert [graph["role"] for graph in record["graphs"]] == ["full", "first-look"]


def test_verify_reads_in_full_whatever_plan_the_settings_name(planned_artifact, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text('[settings]\nplan = "first-look:3,full"\n', encoding="utf-8")
    asked = ["verify", planned_artifact, "--json", "--accept-bounds"]
    by_plan, plain = (json.loads(answered(resift(*asked, *more))) for more in (["--settings", settings], []))
    assert by_plan["largest_change_since_export"] == plain["largest_change_since_export"]
    assert by_plan["agreement"] == plain["agreement"]


def test_verify_fails_where_the_first_look_loses_the_best(planned_artifact, monkeypatch, capsys):
    monkeypatch.setattr("resift.artifact.certificate.MIN_RECALL", 1.01)
    assert main(["verify", str(planned_artifact), "--accept-bounds"]) == 3
    assert "(first-look.int8.onnx) is no first look for its model" in capsys.readouterr().err


def test_without_labels_a_plan_is_tuned_against_the_full_ranking_and_at_each_size_by_itself(planned_artifact, planned):
    sizes, plan = (10, 60), "first-look:3,full"
    settings = Settings(plan=plan, precision="int8", threads=1, token_budget=256)
    pools = [CandidatePool(f"{QUERY} {number}", DOCUMENTS) for number in range(3)]
    found = tune(pools, planned_artifact, settings=settings, candidates=sizes)
    assert found.measure == "agreement@10"
    for point, size in zip(found.points, sizes, strict=True):
        orders = [
            [[result.index for result in planned.rerank(pool.query, documents, plan=by)] for pool in pools]
            for by, documents in ((plan, DOCUMENTS[:size]), ("full", DOCUMENTS))
        ]
        assert point.quality == pytest.approx(np.mean([top_agreement(*both) for both in zip(*orders, strict=True)]))
        assert point.quality < 1


def test_an_evaluation_compares_plans_by_rank(planned_artifact, planned, source):
    from resift.evaluate.systems import ArtifactSystem

    pool = CandidatePool(QUERY, DOCUMENTS)
    for plan, name in (("full", ""), ("first-look:9,full", " first-look:9,full")):
        with ArtifactSystem(planned_artifact, Settings(plan=plan)).open([pool]) as scorer:
            columns = scorer.score(pool)
        ranking = planned.rerank(QUERY, DOCUMENTS, plan=plan)
        assert scorer.name == f"bert-planned int8{name}"
        assert order_of(columns.keys) == [result.index for result in ranking]
        assert np.isnan(columns.scores).sum() == sum(result.score is None for result in ranking)
