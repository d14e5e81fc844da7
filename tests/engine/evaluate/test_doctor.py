from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from resift import Reranker, Settings
from resift.artifact.certificate import Certificate
from resift.artifact.coverage import ClassAgreement, PartAgreement, class_bounds
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import InputError
from resift.evaluate.data.pool_judgements import PoolJudgements
from resift.evaluate.doctor import checks
from resift.evaluate.doctor.diagnosis import SEVERITIES, diagnose
from resift.evaluate.doctor.evidence import Evidence
from resift.pools.reading import CandidatePool
from tests.support.columns import columns_of

pytestmark = pytest.mark.filterwarnings("error")

GOOD = np.array([4.0, -3.0, 6.0, -5.0, 0.5, -1.0, 2.0, -8.0, 3.0, -4.0, 1.0, -6.0], np.float32)
"""Logits of a pool that nothing is wrong with; the best is the third."""
WORDS = "moon tide water harbour boat light earth coast"


def pool(size=12, *, qid=None, labels=None, texts=None):
    documents = [f"{WORDS} {place}" for place in range(size)] if texts is None else texts
    fields = [] if labels is None else [{"docid": f"d{place}", "label": label} for place, label in enumerate(labels)]
    return CandidatePool("how do tides work", documents, qid, fields)


def scored(logits=GOOD, *, cut=None, at_least=False, query_cut=0):
    cut = np.zeros(len(logits), np.int32) if cut is None else np.array(cut, np.int32)
    bounds = np.full(len(logits), at_least) & (cut > 0)
    return columns_of(logits, tokens_cut=cut, tokens_cut_at_least=bounds, query_tokens_cut=query_cut)


def labels_at(*places):
    return [int(place in places) for place in range(len(GOOD))]


def found(reranker, pools, columns=None, **options):
    """The findings by name."""
    columns = [scored(np.resize(GOOD, len(each.documents))) for each in pools] if columns is None else columns
    return {finding.name: finding for finding in diagnose(reranker, pools, scored=columns, **options)}


@pytest.fixture(scope="module")
def gate(artifact):
    from resift.artifact.folder import Artifact

    return Certificate.read(Artifact.open(artifact)).pools


def test_nothing_is_wrong_with_the_gate_pools(reranker, gate):
    pools = [CandidatePool(each.query, each.documents, each.qid, [{"label": label} for label in each.labels]) for each in gate]
    shuffled = np.random.default_rng(3)
    orders = [shuffled.permutation(len(each.documents)) for each in gate]
    pools = [
        replace(each, documents=[each.documents[place] for place in order], fields=[each.fields[place] for place in order])
        for each, order in zip(pools, orders, strict=True)
    ]
    columns = [scored(np.array(each.checkpoint)[order]) for each, order in zip(gate, orders, strict=True)]
    findings = found(reranker, pools, columns)
    findings.pop("uncalibrated", None)  # the logits of a tiny model are no log-odds
    assert {name: finding.words for name, finding in findings.items()} == {}


def test_a_query_among_its_own_candidates_is_left_out_and_reported(reranker):
    labels = [0, *labels_at(2)]
    documents = ["how do tides work", *pool().documents]
    own = [CandidatePool("how do tides work", documents, "d0", pool(13, labels=labels).fields)] * 12
    columns = [scored(np.concatenate([[99.0], GOOD]).astype(np.float32))] * 12
    assert set(found(reranker, own, columns)) == {
        "self-candidates"
    }  # not given-better: the model ranks the relevant document first
    assert found(reranker, own, columns)["self-candidates"].words.startswith("12 of 12 queries are among their own candidates")
    with pytest.raises(InputError, match="no candidates"):
        diagnose(reranker, [own[0].first(1)])


def test_where_candidates_were_cut_the_option_is_to_be_raised(reranker):
    few = [pool(5, labels=labels_at(3)[:5])] * 12
    assert (
        found(reranker, few, cut_at=5)["few-candidates"].advice == "raise --candidates (depth in Python) above 5, such as 30 to 100"
    )
    for options in ({}, {"cut_at": 6}):
        assert found(reranker, few, **options)["few-candidates"].advice.startswith("ask the retriever for more candidates")
    missing = [pool(12, qid="q", labels=labels_at(3))] * 12
    judged = {"q": {f"d{place}": 1 for place in range(3, 30)}}
    assert found(reranker, missing, qrels=judged, cut_at=12)["recall-ceiling"].advice.startswith("raise --candidates")
    assert found(reranker, missing, qrels=judged)["recall-ceiling"].advice.startswith("ask the retriever for more candidates, or")


def test_the_query_itself_counts_where_candidates_were_cut(reranker):
    fields = [{"docid": "q"}, *pool(4, labels=labels_at(1)[:4]).fields]
    own = CandidatePool("how do tides work", ["how do tides work", *pool(4).documents], "q", fields)
    assert found(reranker, [own] * 12, cut_at=5)["few-candidates"].advice.startswith("raise --candidates")
    assert found(reranker, [own] * 12, cut_at=6)["few-candidates"].advice.startswith("ask the retriever")


def test_a_document_with_the_id_and_another_text_is_not_the_query(reranker):
    numbered = [replace(pool(labels=labels_at(2)), qid=f"d{number}") for number in range(12)]
    assert found(reranker, numbered) == {}


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        ({"docid": "q"}, {"docid": "d", "label": "2"}, r"candidates\[1\]: 'label' is a string, '2'"),
        ({"docid": "q", "label": "2"}, {"docid": "d", "label": 1}, r"candidates\[0\]: 'label' is a string, '2'"),
    ],
)
def test_a_bad_label_beside_the_query_itself_is_named_by_its_place_in_the_file(reranker, own, other, said):
    with pytest.raises(InputError, match=said):
        found(reranker, [CandidatePool("tides", ["tides", "moon"], "q", [own, other])])


@pytest.mark.parametrize("docid", [True, [1], None])
def test_a_docid_that_judgements_cannot_name_is_refused(reranker, docid):
    own = CandidatePool("tides", ["tides", "moon", "sun"], str(docid), [{"docid": each} for each in (str(docid), "a", docid)])
    with pytest.raises(InputError, match=r"candidates\[2\]: 'docid' is (a boolean|a list|missing)"):
        found(reranker, [own], qrels={str(docid): {"a": 1}})


def test_what_is_scored_already_is_not_scored_again(reranker, monkeypatch):
    monkeypatch.setattr(Reranker, "submit", lambda *_: pytest.fail("scored again"))
    assert found(reranker, [pool()] * 3) == {}


def test_the_gravest_findings_come_first(reranker):
    pools = [pool(2, texts=["", ""])] * 3 + [pool(1, texts=[WORDS * 3])]
    severities = [finding.severity for finding in diagnose(reranker, pools, scored=[scored([0.0, 0.0])] * 3 + [scored([1.0])])]
    assert len(set(severities)) > 1
    assert severities == sorted(severities, key=SEVERITIES.index)


def test_logits_are_those_of_submit_and_progress_is_told(reranker):
    pools = [pool(size, texts=[f"tide {size} {place} " * 90 for place in range(size)]) for size in (3, 0, 5)]
    told = []
    evidence = Evidence.gather(reranker, pools, None, None, lambda **progress: told.append(progress))
    for each, columns in zip(pools, evidence.scored, strict=True):
        expected = reranker.submit(each.query, each.documents).result()
        for name in ("logits", "tokens_cut", "tokens_cut_at_least"):
            assert np.array_equal(getattr(columns, name), getattr(expected, name))
            assert getattr(columns, name).dtype == getattr(expected, name).dtype
    assert (evidence.scored[0].tokens_cut > 0).all()
    assert told == [
        {"pools": 1, "pairs": 3, "share": pytest.approx(1 / 3)},
        {"pools": 2, "pairs": 3, "share": pytest.approx(2 / 3)},
        {"pools": 3, "pairs": 8, "share": 1.0},
    ]


@pytest.mark.parametrize("pools", [[], [CandidatePool("tides", [])]], ids=["no pools", "no candidates"])
def test_nothing_to_look_at_is_an_error(reranker, pools):
    with pytest.raises(InputError, match="no candidates"):
        diagnose(reranker, pools, scored=[scored([]) for _ in pools])


# Pairs and queries that are cut


def test_pairs_cut_says_how_many_and_how_much(artifact):
    texts = [*["tide " * 60] * 3, *["tide"] * 9]
    with Reranker.load(artifact, settings=Settings(max_length=64)) as short:
        [finding] = [each for each in diagnose(short, [pool(texts=texts)]) if each.name == "pairs-cut"]
        lost = int(short.submit("how do tides work", texts).result().tokens_cut[0])
        tokenizer = PairTokenizer(short.artifact.read("tokenizer.json"), 192)
    empty, whole = tokenizer.encode("", ["", texts[0]]).lengths.tolist()
    assert (finding.severity, finding.value) == ("warning", 0.25)
    assert f"25.0% of the pairs are longer than 64 tokens; in the median, these lose {lost} tokens" in finding.words
    assert f"{lost / (whole - empty):.0%} of the document" in finding.words
    assert "raise --max-length (64) towards the model's limit of 192" in finding.advice


@pytest.mark.parametrize(
    ("count", "severity"), [(0, None), (1, "note"), (20, "warning"), (100, "problem")], ids=["none", "few", "some", "most"]
)
def test_pairs_cut_is_as_grave_as_common(reranker, count, severity):
    cut = [7] * count + [0] * (100 - count)
    finding = found(reranker, [pool(100)], [scored(np.resize(GOOD, 100), cut=cut)]).get("pairs-cut")
    assert (finding and finding.severity) == severity
    if finding:
        assert "--max-length" not in finding.advice  # it is the model's limit already


def test_a_lower_bound_is_called_one(reranker):
    finding = found(reranker, [pool()], [scored(cut=[90_000] * 12, at_least=True)])["pairs-cut"]
    assert "these lose at least 90000 tokens" in finding.words


def test_queries_cut(reranker):
    pools, columns = [pool()] * 4, [scored(query_cut=cut) for cut in (0, 30, 50, 0)]
    finding = found(reranker, pools, columns)["query-cut"]
    assert (finding.severity, finding.value) == ("problem", 0.5)
    assert finding.words.startswith("2 of 4 queries")
    assert "lose 40 tokens" in finding.words
    assert "query-cut" not in found(reranker, pools, [scored()] * 4)


# Candidates


@pytest.mark.parametrize(
    ("sizes", "severity"),
    [([10] * 5, None), ([9] * 5, "warning"), ([1, 1, 1, 40], "problem"), ([1, *[40] * 4], "warning"), ([1, *[40] * 20], None)],
)
def test_few_candidates(reranker, sizes, severity):
    finding = found(reranker, [pool(size) for size in sizes]).get("few-candidates")
    assert (finding and finding.severity) == severity


def test_duplicates_differ_at_most_in_case_and_white_space(reranker):
    texts = [f"{WORDS} {place}" for place in range(16)] + [f"  {WORDS.upper()}\n\t0", f"{WORDS} 1", "straße", "STRASSE"]
    finding = found(reranker, [pool(texts=texts)])["duplicates"]
    assert (finding.value, finding.severity) == (3 / 20, "warning")


def test_the_same_text_in_two_pools_is_no_duplicate(reranker):
    assert "duplicates" not in found(reranker, [pool()] * 3)


def test_ten_thousand_duplicates(reranker):
    finding = found(reranker, [pool(texts=["the tide comes in"] * 10_000)], [scored(np.ones(10_000))])
    assert finding["duplicates"].value == 0.9999
    assert finding["duplicates"].severity == "problem"
    assert finding["flat"].value == 0


def test_empty_documents_are_not_duplicates(reranker):
    findings = found(reranker, [pool(texts=[WORDS, "", " \n", "\u3000", *(f"{WORDS} {place}" for place in range(8))])])
    assert findings["empty-documents"].value == 0.25
    assert "duplicates" not in findings


# Scores


@pytest.mark.parametrize(("factor", "noted"), [(1, False), (20, True)])
def test_saturated_scores_are_noted(reranker, factor, noted):
    finding = found(reranker, [pool()], [scored(GOOD * factor)]).get("saturated")
    assert (finding is not None) == noted
    assert not finding or (finding.severity, finding.value) == ("note", 1.0)


def test_the_same_order_with_flat_logits_is_a_warning(reranker, gate):
    usual = np.median([np.std(each.variants[reranker.variant.file]) for each in gate])
    level = GOOD / np.std(GOOD) * usual * checks.FLAT_RATIO
    finding = found(reranker, [pool()] * 3, [scored(level * 0.98)] * 3)["flat"]
    assert finding.severity == "warning"
    assert finding.value == pytest.approx(usual * checks.FLAT_RATIO * 0.98, rel=1e-4)
    assert "flat" not in found(reranker, [pool()] * 3, [scored(level * 1.02)] * 3)
    assert "flat" not in found(reranker, [pool(1)] * 3)


# Labels


def test_an_order_given_that_is_better_for_sure_is_a_problem(reranker):
    pools, columns = [pool(labels=labels_at(0))] * 12, [scored()] * 12
    finding = found(reranker, pools, columns)["given-better"]
    expected = 1 - 1 / np.log2(1 + 1 + int(np.sum(GOOD[0] < GOOD)))
    assert finding.severity == "problem"
    assert finding.value == pytest.approx(expected)
    assert f"nDCG@10 is 1.0000 in the order given and {1 - expected:.4f} in the model's" in finding.words


def test_few_queries_prove_nothing(reranker):
    finding = found(reranker, [pool(labels=labels_at(0))] * 3, [scored()] * 3)["given-better"]
    assert finding.severity == "warning"
    assert "may be chance" in finding.words


def test_a_loss_within_its_interval_is_a_warning_and_says_so(reranker):
    pools = [pool(labels=labels_at(0))] * 8 + [pool(labels=labels_at(2))] * 4
    finding = found(reranker, pools)["given-better"]
    assert finding.severity == "warning"
    assert "[-" in finding.words
    assert "may be chance" in finding.words


@pytest.mark.parametrize(("equal", "severity"), [(99, None), (50, "warning")])
def test_a_loss_too_small_to_matter_is_not_reported(reranker, equal, severity):
    pools = [pool(labels=labels_at(0))] + [pool(labels=labels_at(0), texts=[WORDS] * 12)] * equal
    finding = found(reranker, pools, [scored()] + [scored(-np.arange(12))] * equal).get("given-better")
    assert (finding and finding.severity) == severity


def test_a_model_that_ranks_better_is_no_finding(reranker):
    assert "given-better" not in found(reranker, [pool(labels=labels_at(2))] * 12)


@pytest.mark.parametrize(("first", "noted"), [(18, False), (19, True), (20, True)])
def test_first_places_that_are_right_already_are_noted(reranker, first, noted):
    pools = [pool(labels=labels_at(0, 2))] * first + [pool(labels=labels_at(2))] * (20 - first)
    finding = found(reranker, pools).get("good-first")
    assert (finding is not None) == noted
    assert not finding or (finding.severity, finding.value) == ("note", first / 20)


def test_nine_queries_are_too_few_for_a_statement_about_first_places(reranker):
    assert "good-first" not in found(reranker, [pool(labels=labels_at(0))] * 9)


def test_documents_outside_the_pool_are_a_ceiling(reranker):
    pools = [pool(qid="a", labels=labels_at(2)), pool(qid=7, labels=labels_at())]
    qrels = {"a": {"d2": 1, "x": 1}, "7": {"y": 3}, "unasked": {"z": 1}}
    finding = found(reranker, pools, qrels=qrels)["recall-ceiling"]
    ceiling = 1 / (1 + 1 / np.log2(3)) / 2
    assert (finding.severity, finding.value) == ("warning", 0.25)
    assert "hold 25% of the documents judged relevant, and those of 1 of 2 queries none" in finding.words
    assert f"than {ceiling:.3f}" in finding.words
    assert "recall-ceiling" not in found(reranker, pools)  # by their own labels nothing is missing


def test_a_ceiling_that_leaves_room_is_a_note(reranker):
    many = {"q": {f"d{place}": 1 for place in range(12)} | {f"x{place}": 1 for place in range(12)}}
    finding = found(reranker, [pool(qid="q", labels=labels_at(2))], qrels=many)["recall-ceiling"]
    assert (finding.severity, finding.value) == ("note", 0.5)


def test_labels_that_are_all_zero(reranker):
    findings = found(reranker, [pool(labels=labels_at())] * 12)
    assert (findings["nothing-relevant"].severity, findings["nothing-relevant"].value) == ("problem", 1.0)
    assert not {"given-better", "good-first", "recall-ceiling"} & findings.keys()


def test_without_labels_nothing_is_said_about_relevance(reranker):
    named = {"given-better", "good-first", "recall-ceiling", "nothing-relevant"}
    assert not named & found(reranker, [pool()] * 12).keys()
    assert not named & found(reranker, [pool(labels=[None] * 12)] * 12).keys()
    others = [pool(qid="other", labels=labels_at(0))] * 12
    assert not named & found(reranker, [*others, pool(qid="q", labels=labels_at())], qrels={"q": {"d2": 1}}).keys()


def test_missing_labels_and_labels_below_zero_count_as_zero():
    judged = PoolJudgements.of(pool(4, labels=[None, 2, -2, 0]), None, "")
    assert (judged.labels.tolist(), judged.ideal.tolist()) == ([0, 2, 0, 0], [2, 0, 0, 0])


@pytest.mark.parametrize("label", ["1", 1.0, True, [1], 2**63, 10**400], ids=["text", "float", "bool", "list", "2**63", "10**400"])
def test_a_label_that_is_no_grade_is_refused_by_position(reranker, label):
    message = r"pool 2 \(qid 'q7'\): candidates\[1\]: (the label is \d+; expected .* at most|'label' is .*; expected an integer)"
    with pytest.raises(InputError, match=message):
        found(reranker, [pool(), pool(3, qid="q7", labels=[0, label, 1])])


def test_judgements_of_other_queries_are_refused(reranker):
    with pytest.raises(InputError, match="none of the 2 queries is judged: the pools' first qid is 7, the judgements' 'q7'"):
        found(reranker, [pool(qid=7, labels=labels_at(0))] * 2, qrels={"q7": {"d0": 1}})


def test_a_judgement_beyond_any_grade_is_refused(reranker):
    with pytest.raises(InputError, match="the label is 9223372036854775808; expected a relevance grade of at most 1000000"):
        found(reranker, [pool(qid="q", labels=labels_at(0))], qrels={"q": {"d0": 2**63}})


def test_judgements_need_docids(reranker):
    with pytest.raises(InputError, match=r"pool 1 \(qid 'q'\): candidates\[0\]: 'docid' is missing or null"):
        found(reranker, [pool(qid="q")], qrels={"q": {"d0": 1}})


graded = st.lists(st.integers(-1, 4), min_size=1, max_size=30)


@given(graded, st.lists(st.integers(-1, 4), max_size=15), st.randoms(use_true_random=False))
def test_ndcg_and_its_ceiling_are_those_of_trec_eval(labels, outside, random):
    qrels = {f"d{place}": label for place, label in enumerate(labels)} | {f"x{place}": label for place, label in enumerate(outside)}
    judged = PoolJudgements.of(pool(len(labels), qid="q", labels=labels), {"q": qrels}, "")
    assert judged.has_relevant() == any(label > 0 for label in qrels.values())
    if not judged.has_relevant():
        return
    order = random.sample(range(len(labels)), len(labels))
    best = sorted(range(len(labels)), key=lambda place: -labels[place])
    evaluator = pytrec_eval.RelevanceEvaluator({"q": qrels}, {"ndcg_cut.10"})

    def oracle(ranked):
        run = {f"d{place}": float(-rank) for rank, place in enumerate(ranked)}
        return pytest.approx(evaluator.evaluate({"q": run})["q"]["ndcg_cut_10"], abs=1e-6)

    assert judged.ndcg() == oracle(range(len(labels)))
    assert judged.ndcg(np.array(order)) == oracle(order)
    assert judged.ceiling() == oracle(best)


# Anything else


@pytest.mark.parametrize(
    "texts",
    [
        [""],
        ["", " ", "\n"],
        ["🌊🌊🌙👍", "❤️" * 60, "👨‍👩‍👧‍👦" * 30],
        ["for (i = 0; i < n; ++i) { x[i] += *p++; }"] * 3,
        ["12.5 99 1024 3.14159", "2024-11-24T17:03:22Z"],
        ["https://example.org/a?b=c#d", "ftp://example.net/%E6%BD%AE"],
        ["\ud800 lone", "\x00\x1b[31m", "e\u0301" * 500, "\u202eright"],
        ["x" * 150_000],
    ],
    ids=["one empty", "blank", "emoji", "code", "numbers", "addresses", "odd characters", "one long word"],
)
@pytest.mark.parametrize("query", ["tides", ""])
def test_any_text_is_diagnosed(reranker, texts, query):
    findings = diagnose(reranker, [CandidatePool(query, texts)])
    assert msgspec.json.decode(msgspec.json.encode(findings))
    assert all(np.isfinite(finding.value) and "nan" not in finding.words for finding in findings)


# Lengths and scripts


def found_by_scoring(reranker, pools):
    """The findings by name on the pools as the model reads them."""
    return found(reranker, pools, [reranker.submit(each.query, each.documents).result() for each in pools])


def covering(reranker, monkeypatch, covered):
    """Findings of pools of one script each, under a certificate that covers the pairs of Latin script and `covered` lengths."""
    classes = [
        ClassAgreement(up_to=up_to, pairs=100, error=0.01, off=0.0) if up_to in covered else ClassAgreement(up_to=up_to, pairs=3)
        for up_to in class_bounds(192)
    ]
    monkeypatch.setattr(Certificate, "has_classes", property(lambda _: True))
    monkeypatch.setattr(Certificate, "scripts", lambda *_: {"latin": PartAgreement(pairs=100, error=0.01, off=0.0)})
    certificate = msgspec.structs.replace(Certificate.read(reranker.artifact), classes={reranker.variant.file: classes})
    monkeypatch.setattr(Certificate, "read", lambda _: certificate)


def test_lengths_and_scripts_that_the_certificate_does_not_cover_are_named(reranker, monkeypatch):
    covering(reranker, monkeypatch, {8, 16, 32, 64, 128})
    latin, greek = pool(texts=[WORDS] * 12), pool(texts=["τι είναι η παλίρροια και γιατί"] * 12)
    assert "not-covered" not in found_by_scoring(reranker, [latin])
    finding = found_by_scoring(reranker, [latin, greek])["not-covered"]
    assert (finding.severity, finding.value) == ("note", 0.5)
    assert "50% are in the script greek" in finding.words
    finding = found_by_scoring(reranker, [latin, pool(texts=["the tide " * 200] * 12)])["not-covered"]
    assert finding.value == 0.5
    assert "50% have lengths in the classes of up to 192 tokens" in finding.words


def test_pairs_of_a_few_words_are_named(reranker):
    few = CandidatePool("tides", ["moon", "sea", "sun"] * 4, "q", [{}] * 12)
    assert found_by_scoring(reranker, [few])["short-pairs"].value == 1
    assert "short-pairs" not in found_by_scoring(reranker, [pool()])
