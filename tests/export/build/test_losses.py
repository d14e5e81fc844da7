"""What frozen graphs lose, query by query."""

from __future__ import annotations

import numpy as np
import pytest

from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate, CertifiedPool, FirstLookRecall
from resift.artifact.coverage import ClassAgreement
from resift_export.build.freeze import frozen_layers
from resift_export.build.losses import LEAST_QUERIES, Loss, look_losses, tau_losses

EXACT = [5.0, 4.0, 3.0, 2.0, 1.0]
SWAPPED = [4.0, 5.0, 3.0, 2.0, 1.0]
"""Of ten pairs, one is in the other order: tau is 0.8."""
FULL, FROZEN, LOOK = "model.int8.onnx", "model.int8.frozen.onnx", "first-look.int8.onnx"


def pool(query, tokens, logits, file):
    documents = [str(number) for number in range(len(logits))]
    return CertifiedPool(
        qid=query, query=query, documents=documents, checkpoint=EXACT[: len(logits)], variants={file: logits}, tokens=tokens
    )


def certificate(pools, file, short_pools=(), recalls=()):
    ends = (8, 16, 32, 64, 128)
    classes = {file: [ClassAgreement(up_to=end, pairs=0) for end in ends]} if file != LOOK else {}
    looks = {LOOK: [FirstLookRecall(look=0.2, kept=kept) for kept in recalls]} if file == LOOK else {}
    return Certificate(bounds=Bounds(), agreement={}, pools=pools, short_pools=[*short_pools], classes=classes, first_looks=looks)


def test_a_loss_is_a_mean_over_queries_with_its_interval():
    loss = Loss.of("tau", [0.2] * 10 + [0.0] * 30, up_to=64)
    assert (loss.what, loss.up_to, loss.queries, loss.mean) == ("tau", 64, 40, pytest.approx(0.05))
    error = np.std([0.2] * 10 + [0.0] * 30) / np.sqrt(40)
    assert 0.05 - loss.low == pytest.approx(1.96 * error, rel=0.15)
    assert loss.high - 0.05 == pytest.approx(1.96 * error, rel=0.15)
    spread = [number**0.5 for number in range(40)]
    assert Loss.of("tau", spread) == Loss.of("tau", spread), "the same draws each time"
    assert loss.summary() == f"tau falls by 0.0500 [{loss.low:.4f}, {loss.high:.4f}] over 40 queries"
    assert (loss.is_within(0.06, surely=False), loss.is_within(0.06, surely=True)) == (True, False)
    assert (loss.is_within(0.04, surely=False), loss.is_within(0.2, surely=True)) == (False, True)


@pytest.mark.parametrize("queries", [0, LEAST_QUERIES - 1])
def test_of_too_few_queries_nothing_is_sure(queries):
    loss = Loss.of("tau on pairs of 33 to 64 tokens", [0.0] * queries, up_to=64)
    assert not loss.is_within(0.01, surely=True)
    assert loss.is_within(0.01, surely=False)
    assert loss.summary() == f"tau on pairs of 33 to 64 tokens: {queries} queries, expected 20 to judge by"


def test_losses_are_those_of_the_gate_and_of_each_class_that_is_frozen():
    """Two pools of one query, of which one is of the gate, count as one; a pool of four documents does not."""
    tokens = [40] * 5, [50] * 5, [100] * 5, [100] * 4
    queries = "one", "one", "two", "three"

    def pools(file, *logits):
        return [pool(*each, file) for each in zip(queries, tokens, logits, strict=True)]

    whole = pools(FULL, EXACT, EXACT, SWAPPED, EXACT[:4])
    frozen = pools(FROZEN, EXACT, SWAPPED, EXACT, SWAPPED[:4])
    before, after = certificate(whole[:1], FULL, whole[1:]), certificate(frozen[:1], FROZEN, frozen[1:])
    found = {each.what: (each.up_to, each.queries, each.mean) for each in tau_losses(before, after, frozen_layers(2))}
    assert found == {
        f"tau of {FROZEN} on the gate": (0, 1, 0.0),
        f"tau of {FROZEN} on pairs of 33 to 64 tokens": (64, 1, pytest.approx(0.1)),
        f"tau of {FROZEN} on pairs of 65 to 128 tokens": (128, 1, pytest.approx(-0.2)),
    }
    assert [each.up_to for each in tau_losses(before, after, frozen_layers(2, whole_up_to=64))] == [0, 128]


def test_a_first_look_loses_recall_or_order():
    def losses(logits):
        before, after = (certificate([pool("q", [9] * 5, each, LOOK)], LOOK, recalls=[1.0]) for each in (EXACT, logits))
        return [(each.what, each.mean) for each in look_losses(before, after, frozen_layers(2))]

    names = [f"{what} of {LOOK} on the gate" for what in ("recall", "tau")]
    assert losses([5.0, 4.0, 3.0, 1.0, 2.0]) == [(names[0], 0.0), (names[1], pytest.approx(0.2))]
    assert losses(SWAPPED) == [(names[0], pytest.approx(0.25)), (names[1], pytest.approx(0.2))], (
        "of four shares, one is one of five"
    )
