from __future__ import annotations

import contextlib
import itertools
import math
import re
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from resift import ArtifactError, ParityError
from resift.artifact.agreement import (
    Agreement,
    Bounds,
    Pool,
    check_bounds,
    measure,
)
from resift.artifact.certificate import (
    LOOKS,
    MIN_RECALL,
    Certificate,
    CertifiedPool,
    FirstLookRecall,
    check_recall,
    first_look_recall,
    measure_first_look,
)
from resift.artifact.coverage import LEAST_PAIRS, ClassAgreement, check_classes, class_bounds, measure_classes
from resift.artifact.folder import Artifact
from resift.metrics import kendall_tau, ndcg, top_overlap
from tests.conftest import rewrite

NAMES = {
    "overlap": "mean top-10 overlap",
    "tau": "mean Kendall tau",
    "worst_tau": "the worst pool's Kendall tau",
    "error": "the 99th percentile of logit errors",
}
AT_BOUNDS = Agreement(overlap=0.95, tau=0.95, worst_tau=0.85, error=0.05, largest_error=9, ndcg=None, checkpoint_ndcg=None)

# 20 documents, best first; the last 15 so close that their order costs next to no error.
CHECKPOINT = np.concatenate([np.arange(6, 1, -1), 1 - np.arange(15) / 1000])


def pool(documents, labels=None):
    return Pool(qid="q", query="query", documents=[str(number) for number in range(documents)], labels=labels)


def measured(found):
    return measure([pool(20)] * len(found), [CHECKPOINT] * len(found), found)


def reversed_from(start, stop):
    found = CHECKPOINT.copy()
    found[start:stop] = found[start:stop][::-1]
    return found


def brute_force_tau_b(first, second):
    concordant = discordant = only_first = only_second = 0
    for i, j in itertools.combinations(range(len(first)), 2):
        a, b = first[i] - first[j], second[i] - second[j]
        concordant += a * b > 0
        discordant += a * b < 0
        only_first += a != 0 and b == 0
        only_second += a == 0 and b != 0
    untied = concordant + discordant
    if untied + only_first == 0 or untied + only_second == 0:
        return 1.0 if untied + only_first == untied + only_second else 0.0
    return (concordant - discordant) / math.sqrt((untied + only_first) * (untied + only_second))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=25))
def test_kendall_tau_is_tau_b_counted_pair_by_pair(values):
    first, second = [a for a, _ in values], [b for _, b in values]
    found = kendall_tau(np.array(first, np.float32), np.array(second, np.float32))
    assert found == pytest.approx(brute_force_tau_b(first, second), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 2, 3], [1, 2, 2], 2 / math.sqrt(6)),
        ([1, 1, 1], [2, 2, 2], 1),
        ([1, 1, 1], [1, 2, 3], 0),
        ([5], [-5], 1),
        ([], [], 1),
    ],
)
def test_kendall_tau_of_known_cases(first, second, expected):
    assert kendall_tau(np.array(first, np.float32), np.array(second, np.float32)) == pytest.approx(expected, abs=1e-12)


RANK = -np.arange(40.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(RANK, RANK * 2 - 5, 1, id="same order"),
        pytest.param(RANK, -RANK, 0, id="reversed"),
        pytest.param(RANK, np.concatenate([RANK[:10][::-1], RANK[10:]]), 1, id="order within the top is free"),
        pytest.param(RANK, np.concatenate([RANK[3:13], RANK[:3], RANK[13:]]), 0.7, id="3 of 10 pushed out"),
        pytest.param(RANK[:8], RANK[[0, 1, 2, 7, 4, 5, 6, 3]], 0.75, id="top half of a small pool"),
        pytest.param(RANK[:3], RANK[[1, 0, 2]], 0, id="top one of three"),
        pytest.param(RANK[:1], RANK[:1], 1, id="one document"),
        pytest.param(np.zeros(4), np.zeros(4), 1, id="ties keep the caller's order"),
    ],
)
def test_top_overlap(first, second, expected):
    assert top_overlap(first, second) == pytest.approx(expected)


def test_ndcg_equals_the_value_computed_by_hand():
    # By score the labels come 0, 3, 1, 0, 2.
    labels, scores = [3, 2, 0, 0, 1], np.array([0.8, 0.1, 0.9, 0.4, 0.5])
    gained = 3 / math.log2(3) + 1 / math.log2(4) + 2 / math.log2(6)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(labels, scores) == pytest.approx(gained / ideal)


def test_ndcg_ends_at_the_tenth_document():
    labels = [0] * 10 + [1]
    assert ndcg(labels, -np.arange(11.0)) == 0
    assert ndcg(labels, np.arange(11.0)) == 1


@pytest.mark.parametrize("labels", [[], [0, 0, 0]])
def test_ndcg_is_0_without_relevant_documents(labels):
    assert ndcg(labels, np.arange(float(len(labels)))) == 0


def test_measuring_the_checkpoint_itself_finds_no_difference():
    assert measured([CHECKPOINT] * 3) == Agreement(
        overlap=1, tau=1, worst_tau=1, error=0, largest_error=0, ndcg=None, checkpoint_ndcg=None
    )


def test_measure_takes_means_over_pools_and_the_worst_pool():
    found = measured([CHECKPOINT, reversed_from(0, 20), reversed_from(9, 11)])
    assert found.overlap == pytest.approx((1 + 0 + 0.9) / 3)
    assert found.tau == pytest.approx((1 - 1 + 188 / 190) / 3)
    assert found.worst_tau == -1
    assert found.largest_error == pytest.approx(6 - CHECKPOINT[-1])


def test_error_is_the_99th_percentile_as_a_share_of_the_checkpoints_range():
    checkpoint = np.linspace(-4, 4, 201)
    found = checkpoint + 0.4
    found[100] += 5  # one of 201: beyond the percentile
    agreement = measure([pool(201)], [checkpoint], [found])
    assert agreement.error == pytest.approx(0.4 / 8)
    assert agreement.largest_error == pytest.approx(5.4)


def test_measure_takes_ndcg_over_labelled_pools_only():
    pools = [pool(3, [1, 0, 0]), pool(3), pool(3, [0, 0, 1])]
    best_first, best_last = np.array([3.0, 2, 1]), np.array([1.0, 2, 3])
    agreement = measure(pools, [best_first] * 3, [best_last, best_last, best_last])
    assert agreement.ndcg == pytest.approx((0.5 + 1) / 2)
    assert agreement.checkpoint_ndcg == pytest.approx((1 + 0.5) / 2)


def test_agreement_at_the_bounds_is_accepted():
    assert AT_BOUNDS.violations(Bounds()) == []
    check_bounds(AT_BOUNDS, Bounds(), "the int8 graph")


@pytest.mark.parametrize(("name", "value"), [("overlap", 0.9499), ("tau", 0.9499), ("worst_tau", 0.8499), ("error", 0.0501)])
def test_one_bound_passed_alone_is_refused_by_its_name(name, value):
    agreement = msgspec.structs.replace(AT_BOUNDS, **{name: value})
    with pytest.raises(ParityError) as caught:
        check_bounds(agreement, Bounds(), "the int8 graph")
    message = str(caught.value)
    assert message.startswith(f"the int8 graph does not rank like its checkpoint: {NAMES[name]} is {value}")
    assert [other for other in NAMES if f"{NAMES[other]} is" in message] == [name]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("overlap", [reversed_from(9, 11)] * 20, id="10th and 11th swapped in every pool"),
        pytest.param("tau", [reversed_from(15, 20)] * 20, id="the last five reversed in every pool"),
        pytest.param("worst_tau", [reversed_from(10, 20)] + [CHECKPOINT] * 19, id="half of one pool reversed"),
        pytest.param("error", [CHECKPOINT * 1.1] * 20, id="every logit a tenth too large"),
    ],
)
def test_logits_that_break_one_bound_alone_are_refused_by_its_name(name, found):
    agreement = measured(found)
    kept = msgspec.structs.replace(Bounds(), **{name: math.inf if name == "error" else -1})
    check_bounds(agreement, kept, "the int8 graph")
    with pytest.raises(ParityError, match=NAMES[name]):
        check_bounds(agreement, Bounds(), "the int8 graph")


def labelled(*, ndcg, checkpoint_ndcg):
    return msgspec.structs.replace(AT_BOUNDS, ndcg=ndcg, checkpoint_ndcg=checkpoint_ndcg)


@pytest.mark.parametrize(("found", "checkpoint"), [(0.78, 0.8), (0.9, 0.8), (None, None)])
def test_a_drop_of_ndcg_within_its_bound_is_accepted(found, checkpoint):
    assert labelled(ndcg=found, checkpoint_ndcg=checkpoint).violations(Bounds(ndcg_drop=0.0201)) == []


def test_a_larger_drop_of_ndcg_is_refused():
    with pytest.raises(ParityError) as caught:
        check_bounds(labelled(ndcg=0.75, checkpoint_ndcg=0.8), Bounds(), "the int8 graph")
    said = "the drop of mean nDCG@10 is 0.0500 below the checkpoint's; expected at most 0.02"
    assert str(caught.value) == f"the int8 graph does not rank like its checkpoint: {said}"
    check_bounds(labelled(ndcg=0.75, checkpoint_ndcg=0.8), Bounds(ndcg_drop=0.06), "the int8 graph")


def test_nan_is_no_drop_of_ndcg_within_bounds():
    assert len(labelled(ndcg=math.nan, checkpoint_ndcg=0.8).violations(Bounds())) == 1


def test_a_ranking_that_serves_labels_worse_is_refused_by_ndcg_alone():
    relevant_first, close = pool(20, [1] + [0] * 19), np.concatenate([[5.001], CHECKPOINT[1:]])
    swapped = np.concatenate([close[1::-1], close[2:]])
    found = measure([relevant_first] * 30, [close] * 30, [swapped] * 30)
    assert [words.split(" is ")[0] for words in found.violations(Bounds())] == ["the drop of mean nDCG@10"]
    assert found.ndcg_drop == pytest.approx(1 - 1 / math.log2(3))


def test_one_swap_in_the_smallest_gate_is_within_the_bound_of_ndcg():
    relevant_first = pool(20, [1] + [0] * 19)
    found = measure([relevant_first] * 30, [CHECKPOINT] * 30, [reversed_from(0, 2)] + [CHECKPOINT] * 29)
    assert 0 < found.ndcg_drop < Bounds().ndcg_drop


def test_nan_keeps_no_bound():
    agreement = msgspec.structs.replace(AT_BOUNDS, **dict.fromkeys(NAMES, math.nan))
    assert len(agreement.violations(Bounds())) == 4


def test_bounds_of_the_callers_own_hold():
    with pytest.raises(ParityError, match=r"mean Kendall tau is 0\.9500; expected at least 0\.99"):
        check_bounds(AT_BOUNDS, Bounds(tau=0.99), "the int8 graph")
    check_bounds(msgspec.structs.replace(AT_BOUNDS, tau=0.5), Bounds(tau=0.5), "the int8 graph")


GRAPH, OTHER = "model.int8.onnx", "model.float32.onnx"


def stored(content, files=(GRAPH,), looks=()):
    full, first = (
        SimpleNamespace(role=role, split=None, variants=[SimpleNamespace(file=file) for file in each])
        for role, each in (("full", files), ("first-look", looks))
    )
    pair = SimpleNamespace(max_length=512)
    manifest = SimpleNamespace(full=full, graphs=[full, first] if looks else [full], pair=pair)
    return SimpleNamespace(folder="folder", manifest=manifest, read=lambda name: content if name == "certificate.json" else b"")


def certificate(files=(GRAPH,), **changes):
    """As JSON can say it, of one pool, with `changes` to that pool."""
    logits = [3.0, 2.0, 1.0]
    certified = CertifiedPool(
        qid="q",
        query="query",
        documents=["a", "b", "c"],
        labels=[1, 0, 0],
        checkpoint=logits,
        variants=dict.fromkeys(files, logits),
    )
    agreement = measure([certified], [np.array(logits)], [np.array(logits)])
    found = msgspec.to_builtins(Certificate(bounds=Bounds(), agreement=dict.fromkeys(files, agreement), pools=[certified]))
    found["pools"][0].update(changes)
    return found


def read(found, files=(GRAPH,)):
    return Certificate.read(stored(msgspec.json.encode(found), files))


def test_a_certificate_read_back_measures_against_its_checkpoint():
    written = certificate()
    found = read(written)
    assert msgspec.to_builtins(found) == written
    assert found.measure([np.array([3.0, 2, 1])]).tau == 1
    assert found.measure([np.array([1.0, 2, 3])]).tau == -1


def test_a_certificate_of_several_variants_is_read_by_their_files():
    assert list(read(certificate((GRAPH, OTHER)), (GRAPH, OTHER)).agreement) == [GRAPH, OTHER]
    assert list(read(certificate(), (GRAPH, GRAPH)).agreement) == [GRAPH]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{}",
        b'{"bounds": {}, "agreement": {}, "pools": [], "more": 1}',
        b'{"bounds": 1}',
        b"[" * 100_000,
        b'{"bounds": {}, "agreement": {"a": ' + b"[" * 100_000,
        b'{"bounds": {}, "agreement": {}, "pools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_damaged_certificate_is_an_artifact_error(content):
    with pytest.raises(ArtifactError, match=r"certificate\.json of folder is not what `resift export` writes"):
        Certificate.read(stored(content))


LOGITS = [3.0, 2.0, 1.0]
CONTRADICTIONS = {
    "no pools": ({"pools": []}, {}, "holds no pools"),
    "no agreement": ({"agreement": {}}, {}, f"lists no variant in agreement, but the manifest lists {GRAPH}"),
    "a pool without the variant": ({}, {"variants": {}}, f"lists no variant in pool q, but the manifest lists {GRAPH}"),
    "a pool of another variant": ({}, {"variants": {OTHER: LOGITS}}, f"lists {OTHER} in pool q, but the manifest lists {GRAPH}"),
    "a variant by precision": ({}, {"variants": {"int8": LOGITS}}, "is not what `resift export` writes"),
    "too few logits": ({}, {"variants": {GRAPH: LOGITS[:2]}}, f"2 logits of {GRAPH}; expected the same number of each"),
    "too many logits": ({}, {"checkpoint": [*LOGITS, 0.0]}, "4 logits of the checkpoint"),
    "too few labels": ({}, {"labels": [1]}, "1 labels"),
    "an empty pool": ({}, {"documents": [], "labels": [], "checkpoint": [], "variants": {GRAPH: []}}, "at least one"),
    "a label of 400 digits": ({}, {"labels": [10**400, 0, 0]}, "is not what `resift export` writes"),
    "NaN": ({}, {"checkpoint": [None, 2.0, 1.0]}, "is not what `resift export` writes"),
    "other figures than its logits give": ({}, {"variants": {GRAPH: LOGITS[::-1]}}, f"states for {GRAPH}: top-10 overlap 1.0000"),
    "figures of labels without labels": ({}, {"labels": None}, "but its own logits give"),
    "logits whose differences are infinite": ({}, {"checkpoint": [1e308, -1e308, 0.0]}, "but its own logits give"),
}


@pytest.mark.parametrize(("top", "pool", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
@pytest.mark.filterwarnings("error")
def test_a_certificate_that_contradicts_itself_or_the_manifest(top, pool, message):
    with pytest.raises(ArtifactError) as caught:
        read({**certificate(**pool), **top})
    assert message in str(caught.value)
    assert str(caught.value).startswith("certificate.json of folder ")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b"-1e999"])
def test_numbers_that_json_cannot_say_are_refused(number):
    content = msgspec.json.encode(certificate()).replace(b"3.0", number)
    with pytest.raises(ArtifactError, match="is not what `resift export` writes"):
        Certificate.read(stored(content))


def test_a_certificate_that_knows_a_variant_too_many_or_too_few():
    with pytest.raises(ArtifactError, match=f"lists {OTHER}, {GRAPH} in agreement, but the manifest lists {GRAPH}: export"):
        read(certificate((GRAPH, OTHER)))
    with pytest.raises(ArtifactError, match=f"lists {GRAPH} in agreement, but the manifest lists {OTHER}, {GRAPH}: export"):
        read(certificate(), (GRAPH, OTHER))


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (Bounds(), []),
        (Bounds(overlap=0.99, tau=0.99, worst_tau=0.9, error=0.01), []),
        (Bounds(overlap=0.9), ["mean top-10 overlap at least 0.9 instead of 0.95"]),
        (Bounds(tau=-1), ["mean Kendall tau at least -1 instead of 0.95"]),
        (Bounds(worst_tau=0.75, error=1e9), [
            "the worst pool's Kendall tau at least 0.75 instead of 0.85",
            "the 99th percentile of logit errors at most 1000000000.0 instead of 0.05",
        ]),
        (Bounds(ndcg_drop=0.05), ["the drop of mean nDCG@10 at most 0.05 instead of 0.02"]),
        (Bounds(tau=math.nan, error=math.nan), ["nan", "nan"]),
    ],
)  # fmt: skip
def test_looser_bounds_are_named(bounds, said):
    found = bounds.looser(Bounds())
    assert len(found) == len(said)
    assert all(words in phrase for words, phrase in zip(said, found, strict=True))


def test_a_certificate_without_a_bound_of_ndcg_is_held_to_the_default():
    found = certificate()
    assert found["bounds"].pop("ndcg_drop") == 0.02
    assert "search" not in found
    assert read(found).bounds == Bounds()
    assert read(found).search == {}


def searched(**changes):
    """A certificate with the record of a search, with `changes` to that record."""
    found = certificate()
    before = {**found["agreement"][GRAPH], "tau": 0.5}
    record = {"float32": ["a.weight", "b.weight"], "share": 0.1, "most_share": 0.25, "evaluations": 5, "most_evaluations": 100}
    return {**found, "search": {GRAPH: {**record, "gates": 1, "before": before, **changes}}}


def test_the_record_of_a_search_survives():
    found = read(searched())
    assert found.search[GRAPH].float32 == ["a.weight", "b.weight"]
    assert found.search[GRAPH].before.tau == 0.5
    assert msgspec.json.decode(msgspec.json.encode(found)) == searched()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"float32": []}, "length >= 1"),
        ({"float32": ["a.weight", "a.weight"]}, "the same product in float32 twice"),
        ({"share": 0.3}, "left 0.3 of the operations in float32 after 5 evaluations; expected at most 0.25 and 100"),
        ({"evaluations": 101}, "after 101 evaluations; expected at most 0.25 and 100"),
        ({"evaluations": 0}, "Expected `int` >= 1"),
        ({"gates": 0}, "Expected `int` >= 1"),
        ({"share": -0.1}, "Expected `float` >= 0"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_a_search_that_cannot_have_been_is_refused(changes, said):
    with pytest.raises(ArtifactError) as caught:
        read(searched(**changes))
    assert said in str(caught.value)


def test_a_search_for_what_the_gate_had_accepted_or_for_another_file_is_refused():
    unneeded = certificate()["agreement"][GRAPH]
    with pytest.raises(ArtifactError, match=f"holds a search for {GRAPH}; expected one only for a variant that the gate refused"):
        read(searched(before=unneeded))
    other = searched()
    other["search"] = {OTHER: other["search"][GRAPH]}
    with pytest.raises(ArtifactError, match=f"holds a search for {OTHER}"):
        read(other)


LOOK = "first-look.int8.onnx"
FIFTY = np.arange(50.0)[::-1]


@pytest.mark.parametrize(
    ("size", "look", "kept"),
    [
        (50, 0.3, [(10, 1.0), (5, 0.5), (0, 0.0)]),  # the top 10 among the best 15
        (20, 0.2, [(4, 1.0), (2, 0.5)]),  # the top 4 among the best 4
        (10, 0.5, [(2, 1.0), (1, 0.5)]),
        (3, 0.2, [(1, 1.0), (0, 0.0)]),
    ],
)
def test_a_first_look_is_measured_by_the_best_that_it_keeps(size, look, kept):
    full = FIFTY[:size]
    best = min(10, -(-size // 5))
    for found, share in kept:
        # Those of the best that are not found go to the end, where no share up to a half reaches them.
        first = full.copy()
        first[found:best] -= 100
        assert first_look_recall(full, first, look) == share


def look_certificate(**changes):
    """As JSON can say it, of a pool of ten, whose first look has one of the best two among its first two, and both among three."""
    logits = FIFTY[:10].tolist()
    look = [*logits[1:], logits[0]]
    certified = CertifiedPool(qid="q", query="query", documents=["a"] * 10, checkpoint=logits, variants={GRAPH: logits, LOOK: look})
    agreement = measure([certified], [np.array(logits)], [np.array(logits)])
    looks = measure_first_look([np.array(logits)], [np.array(look)])
    found = Certificate(bounds=Bounds(), agreement={GRAPH: agreement}, first_looks={LOOK: looks}, pools=[certified])
    return msgspec.to_builtins(found) | changes


def read_with_look(found):
    return Certificate.read(stored(msgspec.json.encode(found), looks=(LOOK,)))


def test_a_certificate_of_a_first_look_is_read_back():
    found = read_with_look(look_certificate())
    assert [(each.look, each.kept) for each in found.first_looks[LOOK]] == [(0.2, 0.5), (0.3, 1.0), (0.4, 1.0), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ({}, "lists no variant in first_looks, but the manifest lists first-look.int8.onnx"),
        ({LOOK: []}, "states for first-look.int8.onnx: "),
        ({LOOK: [{"look": 0.5, "kept": 1.0}]}, "but its own logits give: "),
        (
            {LOOK: [{"look": look, "kept": 0.5} for look in LOOKS]},
            "states for first-look.int8.onnx: 0.5000 of the best in the first 20%",
        ),
        ({LOOK: [{"look": look, "kept": 1.0} for look in LOOKS], GRAPH: []}, "in first_looks"),
    ],
)
def test_a_certificate_whose_first_look_is_not_what_its_logits_say_is_refused(looks, said):
    with pytest.raises(ArtifactError, match=re.escape(said)):
        read_with_look(look_certificate(first_looks=looks))


def test_a_certificate_without_a_first_look_says_nothing_of_one():
    assert b"first_looks" not in msgspec.json.encode(msgspec.convert(certificate(), Certificate))


@pytest.mark.parametrize(("kept", "refused"), [(MIN_RECALL, False), (MIN_RECALL - 1e-9, True), (math.nan, True)])
def test_a_first_look_that_loses_the_best_is_refused(kept, refused):
    looks = [FirstLookRecall(look=0.2, kept=0.0), FirstLookRecall(look=0.5, kept=kept)]
    with pytest.raises(ParityError, match="student is no first look") if refused else contextlib.nullcontext():
        check_recall(looks, "student")


@pytest.mark.parametrize(
    ("max_length", "ends"),
    [(512, [8, 16, 32, 64, 128, 256, 512]), (192, [8, 16, 32, 64, 128, 192]), (8, [8]), (5, [5]), (9, [8, 9])],
)
def test_length_classes_double_up_to_the_longest_pair(max_length, ends):
    assert class_bounds(max_length) == ends


def test_the_agreement_of_a_class_is_that_of_its_pairs_alone():
    count = LEAST_PAIRS
    tokens = [np.full(count, 8), np.repeat([9, 16], count // 2), np.full(count - 1, 17)]
    checkpoint = [np.linspace(0, 10, count), np.linspace(5, 6, count), np.linspace(2, 3, count - 1)]
    shifts = [np.zeros(count), np.where(np.arange(count) < count * 3 // 4, 1.0, 0.0), np.full(count - 1, 99.0)]
    logits = [exact + shift for exact, shift in zip(checkpoint, shifts, strict=True)]
    found = measure_classes(tokens, checkpoint, logits, 64, Bounds())
    assert found[0] == ClassAgreement(up_to=8, pairs=count, error=0.0, off=0.0, tau=1.0)
    assert (found[1].up_to, found[1].pairs, found[1].off) == (16, count, 0.75)
    assert found[1].error == pytest.approx(0.1)  # one logit of a range of 10
    assert found[1].tau == pytest.approx(kendall_tau(checkpoint[1], logits[1]))
    assert found[1].tau < 1
    assert found[2:] == [ClassAgreement(up_to=32, pairs=count - 1), ClassAgreement(up_to=64, pairs=0)]
    assert [each.summary().split(" (")[0] for each in found[2:]] == ["not covered"] * 2
    assert [each.holds(Bounds()) for each in found] == [True, False, True, True]
    with pytest.raises(ParityError, match=r"model does not score pairs of every length .*: of up to 16 tokens: p99 error 10\.00%"):
        check_classes(found, Bounds(), "model")
    check_classes(found, Bounds(error=0.11), "model")


def test_an_agreement_by_length_that_its_logits_do_not_give_is_refused(artifact, tmp_path):
    copied = shutil.copytree(artifact, tmp_path / "copy")
    found = Certificate.read(Artifact.open(copied))
    classes = {file: [*listed[:-1], replace(listed[-1], pairs=7)] for file, listed in found.classes.items()}
    without = [replace(pool, tokens=None) for pool in found.pools]
    for changed, message in (({"classes": classes}, "another agreement by length"), ({"pools": without}, "without the lengths")):
        rewrite(copied, "certificate.json", msgspec.json.encode(replace(found, **changed)))
        with pytest.raises(ArtifactError, match=message):
            Certificate.read(Artifact.open(copied))
