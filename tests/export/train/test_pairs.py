"""What of a file of pairs is trained on, and how it is split: by query and by answer, never by line."""

from __future__ import annotations

import random

import pytest

from resift.encoding.tokenizer import PairTokenizer
from resift.errors import InputError
from resift.pools.training_pairs import TrainingDocument, TrainingPairs
from resift_export.train.options import TrainOptions
from resift_export.train.pairs import document_key, read_data
from resift_export.train.split import split_queries
from resift_export.train.visits import rows, visits
from tests.support import tiny, trainings


@pytest.fixture(scope="module")
def tokenizer():
    return PairTokenizer(tiny.backend("bert").to_str().encode(), 48)


def texts(documents):
    return [document.text for document in documents]


def test_a_query_of_several_lines_is_one(tmp_path, tokenizer):
    found = trainings.rows(60)
    found.append({"query": found[0]["query"].upper() + "?", "positive": "Another answer.", "negative": ["Rain.", "rain!"]})
    data = read_data([trainings.write(tmp_path / "pairs.jsonl", found)], tokenizer)
    assert (len(data.queries), data.repeated, data.files[0].rows) == (60, 1, 61)
    first = data.queries[0]
    assert texts(first.positive) == [found[0]["positive"][0]["text"], "Another answer."]
    assert texts(first.negative)[-1] == "Rain."


def test_siblings_are_no_negatives(tmp_path, tokenizer):
    """An answer that another line, or the other list, calls a negative, even in other case and punctuation."""
    found = trainings.rows(60)
    found[0]["negative"].append({"text": found[0]["positive"][0]["text"].title() + " ..."})
    found.append({"query": found[1]["query"], "positive": ["A sibling."], "negative": []})
    found[1]["negative"].append({"text": "a sibling"})
    data = read_data([trainings.write(tmp_path / "pairs.jsonl", found)], tokenizer)
    assert data.siblings == 2
    for pairs in data.queries:
        assert {document_key(text) for text in texts(pairs.positive)}.isdisjoint(map(document_key, texts(pairs.negative)))


def test_what_cannot_be_learnt_from_is_counted(tmp_path, tokenizer):
    found = trainings.rows(62)
    found[0]["negative"] = []
    found[1]["query"] = "why " * 60
    data = read_data([trainings.write(tmp_path / "pairs.jsonl", found)], tokenizer)
    assert (len(data.queries), dict(data.left_out)) == (60, {"without a negative": 1, "too long for the model": 1})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (trainings.rows(49), r"49 queries to learn from \(none is left out\); expected 50 or more"),
        (trainings.rows(60, negatives=0), r"none of the 60 queries .* has a negative, .*: `resift mine` finds some"),
        ([], "0 queries to learn from"),
    ],
)
def test_too_few_queries_or_labels_of_one_kind(found, message, tmp_path, tokenizer):
    with pytest.raises(InputError, match=message):
        read_data([trainings.write(tmp_path / "pairs.jsonl", found)], tokenizer)


def test_standard_input_is_refused(tmp_path, tokenizer):
    from pathlib import Path

    for path in (Path("-"), tmp_path):
        with pytest.raises(InputError, match="is not a file; expected files, as a resumed run reads them again"):
            read_data([path], tokenizer)


def queries(count, answer=lambda number: f"answer {number}", negatives=lambda number: [f"other {number}"]):
    return [
        TrainingPairs(f"query {number}", [TrainingDocument(answer(number))], list(map(TrainingDocument, negatives(number))))
        for number in range(count)
    ]


def answers(part):
    return {document_key(document.text) for pairs in part for document in pairs.positive}


def test_no_answer_is_in_two_parts():
    """Three queries share each answer, and a third of the answers is a negative of each query."""
    found = queries(
        300, lambda number: f"answer {number // 3}", lambda number: [f"answer {n}" for n in range(100) if n != number // 3]
    )
    split = split_queries(found, TrainOptions())
    parts = [split.train, split.development, split.held_out]
    assert [len(part) for part in parts] == [210, 30, 60]
    assert (split.groups, split.largest) == (100, 3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert answers(parts[first]).isdisjoint(answers(parts[second]))
    held_out = answers(split.development) | answers(split.held_out)
    assert held_out.isdisjoint(document_key(document.text) for pairs in split.train for document in pairs.negative)


def test_a_chain_of_shared_answers_stays_together():
    """Each query shares one answer with the next: they are one group, though none has an answer of all."""
    found = queries(100)
    chain = [
        TrainingPairs(f"chain {n}", [TrainingDocument(f"link {n}"), TrainingDocument(f"link {n + 1}")], [TrainingDocument("no")])
        for n in range(40)
    ]
    split = split_queries([*found, *chain], TrainOptions())
    assert split.largest == 40
    assert sum(pairs.query.startswith("chain") for pairs in split.train) in (0, 40)


def test_queries_that_one_document_answers():
    with pytest.raises(InputError, match=r"of 100 queries, 100 are connected by answers that they share"):
        split_queries(queries(100, lambda number: "the manual"), TrainOptions())


def test_only_answers_of_held_out_queries_as_negatives():
    found = queries(100, negatives=lambda number: [f"answer {(number + 1) % 100}"])
    split = split_queries(found, TrainOptions())
    assert 0 < split.unused == 70 - len(split.train)


def test_the_split_is_by_content_and_seed():
    found = queries(200)
    split = split_queries(found, TrainOptions())
    turned = split_queries(random.Random(0).sample(found, 200), TrainOptions())
    other = split_queries(found, TrainOptions(seed=1))
    names = [{pairs.query for pairs in each.held_out} for each in (split, turned, other)]
    assert names[0] == names[1] != names[2]


def scored(count=60):
    found = queries(count, negatives=lambda number: [f"other {number} {n}" for n in range(5)])
    for pairs in found:
        pairs.positive[:] = [TrainingDocument(pairs.positive[0].text, score=3.0), TrainingDocument("second", score=2.0)]
        pairs.negative[:] = [TrainingDocument(document.text, score=-float(n)) for n, document in enumerate(pairs.negative)]
    return found


def test_visits_are_a_function_of_data_and_options():
    found, options = scored(), TrainOptions(negatives=3)
    once, again, other = (list(visits(found, each)) for each in (options, options, TrainOptions(negatives=3, seed=1)))
    assert once == again != other
    for epoch in (once[:60], once[60:]):
        assert {visit.query for visit in epoch} == {pairs.query for pairs in found}
    assert [visit.query for visit in once[:60]] != [visit.query for visit in once[60:]]
    assert {visit.answer.text for visit in once[60:]} == {"second"}
    for visit in once:
        assert len({document.text for document in visit.negatives}) == 3


def test_rows_of_each_loss():
    first = next(visits(scored(), TrainOptions(negatives=3)))
    names = [document.text for document in first.negatives]
    labelled = rows([first], "bce", 3)
    assert [(row["document"], row["label"]) for row in labelled] == [(first.answer.text, 1.0), *((name, 0.0) for name in names)]
    (listed,) = rows([first], "infonce", 3)
    assert (listed["documents"], listed["label"]) == ([first.answer.text, *names], [100.0, 0.0, 0.0, 0.0])
    (margins,) = rows([first], "marginmse", 3)
    assert margins["label"] == [3.0 - document.score for document in first.negatives]
    # A query with fewer negatives than columns: they take turns.
    (filled,) = rows([first], "marginmse", 4)
    assert (filled["negative_3"], filled["label"][3]) == (filled["negative_0"], filled["label"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"general": 0.95}, r"general is 0\.95; expected a share from 0 to 0\.9"),
        ({"held_out": 0.5}, r"held_out is 0\.5; expected a share above 0 and below 0\.5"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"loss": "cached"}, "loss is 'cached'; expected auto, bce, infonce or marginmse"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        TrainOptions(**options)


@pytest.mark.parametrize(
    ("batch", "negatives", "at_once", "accumulation"),
    [(4, 7, 2, 2), (4, 15, 1, 4), (4, 30, 1, 4), (3, 7, 1, 3), (8, 1, 8, 1), (1, 1, 1, 1)],
)
def test_a_step_of_several_parts(batch, negatives, at_once, accumulation):
    """The queries of a step, as whole parts of at most sixteen pairs, or of one query."""
    options = TrainOptions(batch=batch, negatives=negatives)
    assert (options.queries_at_once, options.accumulation) == (at_once, accumulation)
    assert options.pairs_at_once == at_once * (1 + negatives)
