"""Coverage by script, on generated pairs, and what an export without texts keeps."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import asdict, replace

from resift import ArtifactError, ParityError
from resift.artifact.agreement import Bounds, Pool, measure
from resift.artifact.certificate import Certificate, CertifiedPool
from resift.artifact.coverage import (
    GENERATED_OFF,
    LEAST_PAIRS,
    PartAgreement,
    check_generated,
    largest_difference,
    measure_generated,
    measure_scripts,
    script_of,
)
from resift.artifact.stable_pairs import BOUND_SHARE, CANDIDATES, LONGEST, PAIRS, self_tests

FILE = "model.int8.onnx"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("coffee maker", "latin"),
        ("Straße 12", "latin"),
        ("чай", "cyrillic"),
        ("τι είναι", "greek"),
        ("שלום", "hebrew"),
        ("東京 2024", "cjk"),
        ("ねこ cat", "latin"),
        ("ねこねこ cat", "hiragana"),
        ("한국어", "hangul"),
        ("12.50 !?", "none"),
        ("🌊", "none"),
        ("", "none"),
    ],
)
def test_the_script_of_a_text_is_that_of_most_of_its_letters(text, script):
    assert script_of(text) == script


def test_the_agreement_by_script_is_that_of_its_pairs_alone():
    scripts = [["latin"] * LEAST_PAIRS, ["greek"] * (LEAST_PAIRS - 1)]
    checkpoint = [np.linspace(0, 10, LEAST_PAIRS), np.linspace(0, 1, LEAST_PAIRS - 1)]
    logits = [checkpoint[0] + np.where(np.arange(LEAST_PAIRS) < 25, 1.0, 0), checkpoint[1] + 99]
    found = measure_scripts(scripts, checkpoint, logits, Bounds())
    assert list(found) == ["latin", "greek"]
    assert (found["latin"].pairs, found["latin"].off) == (LEAST_PAIRS, 0.25)
    assert found["latin"].error == pytest.approx(0.1)
    assert found["greek"] == PartAgreement(pairs=LEAST_PAIRS - 1)
    assert (found["latin"].is_covered, found["greek"].is_covered) == (True, False)


@pytest.mark.parametrize(("share", "refused"), [(GENERATED_OFF, False), (GENERATED_OFF + 0.01, True)])
def test_more_generated_pairs_beyond_the_bound_than_allowed_are_refused(share, refused):
    exact = np.zeros(200)
    logits = np.where(np.arange(200) < round(share * 200), 1.0, 0)
    found = measure_generated([exact], [logits], 10.0, Bounds())
    assert (found.pairs, found.off) == (200, pytest.approx(share))
    if refused:
        with pytest.raises(
            ParityError, match=r"model does not score generated pairs .* expected at most 5% beyond 5% of the range"
        ):
            check_generated(found, Bounds(), "model")
    else:
        check_generated(found, Bounds(), "model")


def test_the_pair_that_differs_most_is_named():
    pools = [Pool(qid="1", query="a", documents=["b", "c"]), Pool(qid="2", query="d", documents=["e" * 99])]
    found = largest_difference(pools, [np.zeros(2), np.zeros(1)], [np.array([1.0, -2.0]), np.array([1.5])])
    assert found == "'a' and 'c': -2.00, the checkpoint 0.00"


def certified(count=40, tokens=10, short_pools=()):
    """A certificate of `count` pools of four documents, whose second document has the smallest error."""
    exact = [[float(number), number + 20.0, number + 40.0, number + 60.0] for number in range(count)]
    errors = [0.5, 0.0, 0.3, -0.4]
    pools = [
        CertifiedPool(
            qid=str(number),
            query=f"query {number}",
            documents=[f"document {number} {place}" for place in range(4)],
            checkpoint=logits,
            variants={FILE: [logit + error for logit, error in zip(logits, errors, strict=True)]},
            tokens=[tokens] * 4,
        )
        for number, logits in enumerate(exact)
    ]
    agreement = measure(pools, [np.array(pool.checkpoint) for pool in pools], [np.array(pool.variants[FILE]) for pool in pools])
    return Certificate(bounds=Bounds(), agreement={FILE: agreement}, pools=pools, short_pools=list(short_pools))


def test_a_self_test_has_the_pairs_with_the_smallest_errors_across_the_range():
    certificate = certified()
    test = self_tests(certificate, {})[FILE]
    assert test.bound == pytest.approx(BOUND_SHARE * 99)
    assert len(test.pairs) == PAIRS
    logits = [pair.logit for pair in test.pairs]
    assert logits == sorted(logits)
    assert logits[-1] - logits[0] > 60
    stored = {
        (pool.query, document): logit
        for pool in certificate.pools
        for document, logit in zip(pool.documents, pool.variants[FILE], strict=True)
    }
    assert all(stored[pair.query, pair.document] == pair.logit for pair in test.pairs)
    assert sum(pair.document.endswith(" 1") for pair in test.pairs) >= 3  # in their logits' places, no other pair has no error


def test_a_pair_that_another_graph_scores_is_no_part_of_it():
    assert self_tests(certified(tokens=8), {FILE: 9}) == {}


def test_long_pairs_are_part_of_it_only_where_short_ones_are_few():
    certificate = certified()
    for few, expected in ((CANDIDATES // 4 + 1, False), (1, True)):  # pools of four short pairs each
        pools = [replace(pool, tokens=[10 if place < few else LONGEST + 1] * 4) for place, pool in enumerate(certificate.pools)]
        test = self_tests(replace(certificate, pools=pools), {})[FILE]
        places = [int(pair.query.removeprefix("query ")) for pair in test.pairs]
        assert (max(places) >= few) == expected


def test_a_certificate_without_texts_measures_as_before_and_tests_itself_by_the_short_pools():
    [short] = certified(count=1).pools
    whole = certified(short_pools=[short])
    bare = whole.without_texts()
    assert [(pool.query, pool.documents, pool.scripts) for pool in bare.pools] == [("", [], ["latin"] * 4)] * 40
    assert bare.short_pools == whole.short_pools
    logits = [np.array(pool.variants[FILE]) for pool in whole.all_pools]
    assert bare.measure_scripts(logits) == whole.measure_scripts(logits)
    assert bare.measure(logits[:-1]) == whole.agreement[FILE]
    assert {pair.query for pair in self_tests(bare, {})[FILE].pairs} == {"query 0"}
    assert self_tests(replace(bare, short_pools=[]), {}) == {}


def test_scripts_of_another_number_than_the_logits_are_refused():
    [pool] = certified(count=1).pools
    with pytest.raises(ValueError, match="3 scripts"):
        CertifiedPool(**{**asdict(pool), "query": "", "documents": [], "scripts": ["latin"] * 3})  # an older replace checks nothing


def test_generated_figures_of_an_unknown_file_are_refused(artifact, tmp_path):
    import shutil

    import msgspec

    from resift.artifact.folder import Artifact
    from tests.conftest import rewrite

    copied = shutil.copytree(artifact, tmp_path / "copy")
    found = Certificate.read(Artifact.open(copied))
    rewrite(copied, "certificate.json", msgspec.json.encode(replace(found, generated={"other.onnx": PartAgreement(pairs=1)})))
    with pytest.raises(ArtifactError, match=r"lists .*other\.onnx.* in generated"):
        Certificate.read(Artifact.open(copied))
