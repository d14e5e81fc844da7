"""Negatives are documents that look like answers and are none: what may be an answer is left out and counted."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

from resift import ExtraError, InputError
from resift.mining.candidates import COPY, GROUP, ITSELF, PARTLY, POSITIVE, REPEATED, SIBLING
from resift.mining.collection import Collection, MiningDocument, MiningQuery
from resift.mining.mine import NO_CANDIDATE, NO_NEGATIVE, mine
from resift.mining.options import MiningOptions
from resift.mining.teacher import MARGIN, SHARE, Teacher, sigmoid, too_relevant
from resift.retrieval.vectors import Vectors

ANSWER = "The moon pulls the water of the sea and so there are tides twice a day."


class Stub:
    """A teacher whose logits are those of a table, 0 where it has none; `pairs` is what it has read."""

    def __init__(self, table):
        self.table, self.pairs = table, []

    def logits(self, pools):
        for query, texts in pools:
            self.pairs += [(query, text) for text in texts]
            yield [self.table.get(text, 0.0) for text in texts]


def collection(texts, *queries):
    documents = [
        text if isinstance(text, MiningDocument) else MiningDocument(text, f"d{place}") for place, text in enumerate(texts)
    ]
    return Collection("texts", documents, list(queries), len(documents), rows=len(queries))


def pooled(texts, positives=(0,), judged=None, qid="q", text="what causes tides"):
    """A collection of one query with all the texts as its candidates, in their order."""
    return collection(texts, MiningQuery(text, qid, list(positives), judged or {}, 0, list(range(len(texts)))))


def others(count):
    return [f"Number {number} is about bread number {number} and its yeast {'very ' * number}much." for number in range(count)]


def options(**given):
    return MiningOptions(**{"negatives": 3, "hardest": True, "max_overlap": 0.9, **given})


def test_negatives_are_taken_by_rank_and_written_with_their_facts():
    found = mine(pooled([ANSWER, *others(5)]), options(ranks=(3, 9)))
    (pairs,) = found.pairs
    assert (pairs.qid, pairs.query, [each.docid for each in pairs.positive]) == ("q", "what causes tides", ["d0"])
    assert [(each.docid, each.rank, each.score) for each in pairs.negative] == [("d2", 3, None), ("d3", 4, None), ("d4", 5, None)]
    assert (found.negatives(), found.fewer, found.read_by_teacher) == (3, 0, 0)


def test_a_sample_depends_on_the_seed_and_on_nothing_else():
    texts = [ANSWER, *others(40)]

    def docids(**given):
        (pairs,) = mine(pooled(texts), options(hardest=False, **given)).pairs
        assert [each.rank for each in pairs.negative] == sorted(each.rank for each in pairs.negative)
        return [each.docid for each in pairs.negative]

    assert docids(seed=1) == docids(seed=1)
    assert len({tuple(docids(seed=seed)) for seed in range(5)}) > 1


def test_what_may_be_an_answer_is_left_out_by_reason():
    texts = [
        ANSWER,
        MiningDocument("Part of the same file.", "p", group="tides.md"),
        ANSWER.upper().replace(".", "!"),
        "Long before, " + ANSWER + " That is all there is to say of it.",
        "What causes tides?",
        "Somewhat relevant.",
        "It answers the same question in other words.",
        *others(2),
        others(2)[0] + " ",
    ]
    first = MiningQuery("what causes tides", "q", [0], {5: 1}, 0, list(range(len(texts))))
    second = MiningQuery("What does cause the tides?!", "r", [6], {}, 1, [])
    third = MiningQuery("Which are causes of tides", "s", [7], {}, 2, [])
    given = collection(texts, first, second, third)
    given.documents[0] = MiningDocument(ANSWER, "d0", group="tides.md")
    found = mine(given, options(negatives=5))
    assert [[each.text for each in pairs.negative] for pairs in found.pairs] == [[others(2)[1]]]
    expected = {POSITIVE: 1, GROUP: 1, COPY: 3, ITSELF: 1, PARTLY: 1, SIBLING: 2}
    assert {reason: found.documents_left_out[reason] for reason in expected} == expected
    assert found.queries_left_out[NO_CANDIDATE] == 2


def test_a_copy_of_a_negative_is_no_further_negative():
    found = mine(pooled([ANSWER, "Bread rises by yeast.", "bread rises, by YEAST", "Salt."]), options())
    assert [each.docid for each in found.pairs[0].negative] == ["d1", "d3"]
    assert found.documents_left_out[REPEATED] == 1
    assert found.fewer == 1


def test_a_document_with_the_querys_id_is_the_query():
    given = pooled([ANSWER, "Title. What causes tides", "Bread."], qid="d1")
    assert [each.docid for each in mine(given, options()).pairs[0].negative] == ["d2"]


# The teacher


@pytest.mark.parametrize(
    ("logit", "best", "given", "reason"),
    [
        (2.0, 5.0, {"max_share": 0.95}, None),
        (4.0, 5.0, {"max_share": 0.95}, SHARE.format(0.95)),
        (-9.0, -8.0, {"max_share": 0.95}, None),  # 0.95 of a negative logit would be above it
        (-7.9, -8.0, {"max_share": 0.95}, SHARE.format(0.95)),
        (4.9, 5.0, {"max_share": 1.0, "margin": 0.5}, MARGIN.format(0.5)),
        (4.4, 5.0, {"max_share": 1.0, "margin": 0.5}, None),
        (900.0, 901.0, {"max_share": 1.0}, None),
        (-900.0, -899.0, {"max_share": 1.0, "margin": 2.0}, MARGIN.format(2.0)),
    ],
)
def test_a_document_is_too_relevant_by_share_or_margin(logit, best, given, reason):
    assert too_relevant(logit, best, options(**given)) == reason


def test_the_sigmoid_never_overflows():
    assert [sigmoid(value) for value in (-1000, 0, 1000)] == [0, 0.5, 1]


def test_false_negatives_are_left_out_and_logits_written():
    texts = [ANSWER, "The moon's gravity.", *others(3)]
    stub = Stub({ANSWER: 3.0, texts[1]: 4.0, texts[2]: -5.0, texts[3]: -6.0, texts[4]: 2.9})
    found = mine(pooled(texts), options(), teacher=stub)
    (pairs,) = found.pairs
    assert [(each.docid, each.score) for each in pairs.negative] == [("d2", -5.0), ("d3", -6.0)]
    assert (pairs.positive[0].score, pairs.is_scored()) == (3.0, True)
    assert found.documents_left_out[SHARE.format(0.95)] == 2
    assert found.read_by_teacher == len(stub.pairs) == 5


def test_the_best_positive_counts_and_only_so_many_are_written():
    texts = [*(f"{ANSWER} {word}" for word in ("One.", "Two.", "Three.")), *others(3)]
    stub = Stub({texts[0]: -9.0, texts[1]: 3.0, texts[2]: 99.0})
    found = mine(pooled(texts, positives=(0, 1, 2)), options(positives=2), teacher=stub)
    (pairs,) = found.pairs
    assert [each.score for each in pairs.positive] == [-9.0, 3.0]
    assert len(pairs.negative) == 3
    assert texts[2] not in [text for _, text in stub.pairs]


def test_the_teacher_reads_no_more_than_it_takes():
    texts = [ANSWER, *others(60)]
    stub = Stub({ANSWER: 5.0, **dict.fromkeys(texts[1:7], 9.0)})
    found = mine(pooled(texts), options(negatives=2), teacher=stub)
    assert [each.docid for each in found.pairs[0].negative] == ["d7", "d8"]
    assert [text for _, text in stub.pairs] == texts[:9]  # four candidates a turn, and the answer once


def test_judged_documents_are_trusted_if_that_is_said():
    texts = [ANSWER, *others(2)]
    stub = Stub({ANSWER: 1.0, texts[1]: 9.0, texts[2]: 9.0})
    given = pooled(texts, judged={1: 0})
    with pytest.raises(InputError, match="no query has a negative"):
        mine(given, options(negatives=1), teacher=stub)
    found = mine(given, options(negatives=1, trust_labels=True), teacher=stub)
    assert [each.docid for each in found.pairs[0].negative] == ["d1"]


def test_a_real_teacher_reads_by_the_full_graph(reranker):
    texts = [ANSWER, *others(3)]
    found = mine(pooled(texts), options(max_share=1.0, negatives=3), teacher=Teacher(reranker))
    expected = reranker.logits("what causes tides", texts)
    (pairs,) = found.pairs
    for each in (*pairs.positive, *pairs.negative):
        assert each.score == expected[texts.index(each.text)]


# What leaves none


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ranks": (3, 4)}, "ranks 3-4 hold 2 documents, too few for 3 negatives"),
        ({"ranks": (5, 4)}, "two rising ranks"),
        ({"ranks": (0, 4)}, "two rising ranks"),
        ({"negatives": 0}, "negatives is 0"),
        ({"positives": 0}, "positives is 0"),
        ({"max_share": 0.0}, "max_share is 0"),
        ({"max_share": 1.5}, "max_share is 1.5"),
        ({"margin": -1.0}, "margin is -1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"max_overlap": 0.0}, "max_overlap is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        options(**given)


@pytest.mark.parametrize(
    ("given", "logits", "message"),
    [
        ({"margin": 50.0}, {ANSWER: 3.0}, r"3 candidates were left out \(2 the teacher puts it less than 50 .*; lower --margin"),
        ({}, {}, "2 the teacher gives it more than 0.95 .*; raise --max-share"),
        ({"ranks": (7, 20)}, {}, "no query has a candidate at ranks 7-20: none has more than 3; .*begin earlier"),
    ],
)
def test_settings_that_leave_no_negative_are_named(given, logits, message):
    with pytest.raises(InputError, match=message):
        mine(pooled([ANSWER, *others(2)]), options(**given), teacher=Stub(logits))


def test_queries_without_a_negative_are_counted():
    texts = [ANSWER, *others(3)]
    queries = [
        MiningQuery("what causes tides", "a", [0], {}, 0, [0, 1, 2]),
        MiningQuery("bread", "b", [1], {}, 1, [1, 2]),
        MiningQuery("yeast", "c", [2], {}, 2, [2]),
    ]
    stub = Stub({ANSWER: 5.0, texts[1]: -5.0, texts[2]: -5.0})
    found = mine(collection(texts, *queries), options(ranks=(2, 9)), teacher=stub)
    assert [pairs.qid for pairs in found.pairs] == ["a"]
    assert found.queries_left_out == Counter({NO_NEGATIVE: 1, NO_CANDIDATE: 1})


# Retrieval


def retrieved(texts):
    return collection(texts, MiningQuery("the moon and tides", "q", [0], {}, 0))


def test_candidates_are_retrieved_by_words_and_by_vectors():
    texts = [ANSWER, "The moon is round.", "Tides of war.", "Bread rises.", "Ebb and flow."]
    (pairs,) = mine(retrieved(texts), options()).pairs
    assert {each.docid for each in pairs.negative} == {"d1", "d2"}
    documents = np.eye(5)
    vectors = Vectors(documents, documents[[4]])
    (pairs,) = mine(retrieved(texts), options(negatives=4), vectors=vectors).pairs
    assert {each.docid for each in pairs.negative} == {"d1", "d2", "d3", "d4"}


def test_vectors_of_others_are_refused():
    vectors = Vectors(np.eye(3), np.eye(3))
    with pytest.raises(InputError, match="3 vectors for 5 documents"):
        mine(retrieved([ANSWER, *others(4)]), options(), vectors=vectors)
    with pytest.raises(InputError, match="candidate pools, which are not retrieved"):
        mine(pooled([ANSWER, *others(2)]), options(), vectors=vectors)


def test_documents_beyond_the_corpus_are_not_retrieved():
    given = retrieved(["The moon is round.", "Tides of war.", ANSWER])
    given.queries[0].positives[:] = [2]
    given.size = 2
    assert [each.docid for each in mine(given, options()).pairs[0].negative] == ["d0", "d1"]


def test_without_bm25s_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ExtraError, match=r"resift\[mine\]"):
        mine(retrieved([ANSWER, *others(4)]), options())
    assert mine(pooled([ANSWER, *others(4)]), options()).negatives() == 3
