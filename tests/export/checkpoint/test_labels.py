"""labels: of two labels, the second ranks, unless their names say that the first means relevant; then one has to be named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from resift.errors import ExportError
from resift_export.checkpoint.labels import label_of


def named(*names, **fields):
    """The configuration of a head with labels of these names."""
    labels = dict(enumerate(names))
    return SimpleNamespace(
        **{"id2label": labels, "label2id": {name: n for n, name in labels.items()}, "problem_type": None, **fields}
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("relevant", "irrelevant"),
        ("Relevant", "Not relevant"),
        ("RELEVANT", "non-relevant"),
        ("LABEL_1", "LABEL_0"),
        ("yes", "no"),
        ("true", "False"),
        ("positive", "negative"),
        ("pos", "neg"),
        ("entailment", "not_entailment"),
        ("entailment", "contradiction"),
        ("entailment", "neutral"),
        ("duplicate", "not_duplicate"),
        ("match", "mismatch"),
        ("similar", "dissimilar"),
        ("helpful", "unhelpful"),
        ("1", "0"),
        ("relevant", "LABEL_1"),
        ("ham", "other"),
    ],
)
def test_of_two_labels_the_first_of_which_means_relevant_one_has_to_be_named(first, second):
    with pytest.raises(ExportError, match=rf"^it has the labels {first}, {second}, of which the first seems .* --relevant-label"):
        label_of(named(first, second), 2, "Identity", None, "it")
    assert label_of(named(second, first), 2, "Identity", None, "it") is None
    assert label_of(named(first, second), 2, "Identity", first, "it").number == 0


@pytest.mark.parametrize(
    "names", [("LABEL_0", "LABEL_1"), ("no", "yes"), ("LABEL_1", "LABEL_2"), ("a", "b"), ("question", "answer")]
)
def test_two_labels_that_say_no_such_thing_rank_by_the_second(names):
    assert label_of(named(*names), 2, "Identity", None, "it") is None


def test_label2id_counts_where_id2label_says_nothing():
    names = {"relevant": 0, "irrelevant": 1}
    with pytest.raises(ExportError, match="has the labels relevant, irrelevant, of which the first"):
        label_of(named("LABEL_0", "LABEL_1", label2id=names), 2, "Identity", None, "it")


@pytest.mark.parametrize("label2id", [None, [], {"a": "x"}, {"a": 0}, {"yes": 5, "no": 6}])
def test_a_label2id_that_names_no_labels_is_left_alone(label2id):
    assert label_of(named("LABEL_0", "LABEL_1", label2id=label2id), 2, "Identity", None, "it") is None


def test_two_labels_that_do_not_exclude_each_other_need_a_choice():
    head = named("on-topic", "recent", problem_type="multi_label_classification")
    with pytest.raises(ExportError, match=r"that do not exclude one another \(problem_type is multi_label.*--relevant-label"):
        label_of(head, 2, "Identity", None, "it")
    label = label_of(head, 2, "Identity", "on-topic", "it")
    assert (label.number, label.is_independent) == (0, True)
