"""The drop-in CrossEncoder beside sentence-transformers' own, on the same weights. Needs sentence-transformers 6."""

from __future__ import annotations

import inspect
import logging

import numpy as np
import pytest

from resift.artifact.agreement import measure
from resift.artifact.certificate import Certificate
from resift.errors import InputError
from resift.evaluate.cross_encoder import load_cross_encoder
from resift.integrations.sentence_transformers import CrossEncoder
from resift.integrations.sentence_transformers.arguments import ABSENT
from tests.support import tiny

real = pytest.importorskip("sentence_transformers", minversion="6")
torch = pytest.importorskip("torch")

QUERY = "how do the tides of the sea work"
DOCUMENTS = ["The pull of the moon raises the sea.", "Bread rises by yeast.", "", "Tides follow the moon and the sun. " * 60]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
FLOAT32 = {"dtype": "float32"}


@pytest.fixture(scope="module", params=[1, 2], ids=["one label", "two labels"])
def both(request, checkpoint_of, artifact_of):
    """The drop-in in float32 and the original."""
    ours = CrossEncoder(str(artifact_of("bert", request.param)), model_kwargs=FLOAT32)
    return ours, real.CrossEncoder(str(checkpoint_of("bert", request.param)), device="cpu")


@pytest.fixture(scope="module")
def one(checkpoint_of, artifact_of):
    """Both, with one label."""
    ours = CrossEncoder(str(artifact_of("bert")), model_kwargs=FLOAT32)
    return ours, real.CrossEncoder(str(checkpoint_of("bert")), device="cpu")


def check_same(found, expected):
    """Of the same type, shape and dtype, and equal within 1e-4."""
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for each, other in zip(found, expected, strict=True):
            check_same(each, other)
        return
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.allclose(np.asarray(found), np.asarray(expected), atol=1e-4)


@pytest.mark.parametrize("name", ["__init__", "predict", "rank", "is_singular_input", "evaluate", "supports", "get_backend"])
def test_signatures(name):
    ours, theirs = (inspect.signature(getattr(kind, name)).parameters.values() for kind in (CrossEncoder, real.CrossEncoder))
    own = [(each.name, each.kind, each.default) for each in ours if each.name != "relevant_label"]
    assert own == [(each.name, each.kind, each.default) for each in theirs]


def test_every_public_name_is_here_or_is_refused_with_a_reason(one):
    own = [kind for kind in real.CrossEncoder.__mro__ if kind.__module__.startswith("sentence_transformers")]
    names = {name for kind in own for name in vars(kind) if not name.startswith("_")}
    instance = {name for name in vars(one[1]) if not name.startswith("_")} - set(vars(torch.nn.Module()))
    missing = [name for name in sorted(names | instance) if not hasattr(one[0], name) and name not in ABSENT]
    assert missing == []


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_what_is_absent_is_an_attribute_of_the_original(one, name):
    assert not hasattr(one[0], name)
    with pytest.raises(AttributeError, match=f"CrossEncoder has no '{name}': "):
        getattr(one[0], name)
    assert hasattr(real.CrossEncoder, name) or hasattr(one[1], name)


INPUTS = {
    "tuples": PAIRS,
    "lists": [list(pair) for pair in PAIRS],
    "tuple of tuples": tuple(PAIRS),
    "array": np.array(PAIRS),
    "objects": np.array(PAIRS, dtype=object),
    "one tuple": PAIRS[0],
    "one list": list(PAIRS[0]),
    "one array": np.array(PAIRS[0]),
    "one in a list": PAIRS[:1],
    "none": [],
    "no array": np.array([], dtype=object),
    "repeated": PAIRS[:1] * 3,
}
CONVERSIONS = {
    "numpy": {},
    "tensor": {"convert_to_tensor": True},
    "list": {"convert_to_numpy": False},
    "tensor over numpy": {"convert_to_numpy": True, "convert_to_tensor": True},
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_types_shapes_and_scores(both, inputs, conversion):
    found, expected = (model.predict(INPUTS[inputs], **CONVERSIONS[conversion]) for model in both)
    check_same(found, expected)


@pytest.mark.parametrize("inputs", INPUTS)
def test_is_singular_input(one, inputs):
    assert one[0].is_singular_input(INPUTS[inputs]) == one[1].is_singular_input(INPUTS[inputs])


ACTIVATIONS = {
    "module": torch.nn.Sigmoid(),
    "identity": torch.nn.Identity(),
    "function": torch.sigmoid,
    "methods": lambda scores: scores.sigmoid() * 2 - 1,
    "whole numbers": lambda scores: (scores > 0).long(),
    "column": lambda scores: scores[:, -1],
    "double": lambda scores: scores.double(),
    "half": lambda scores: scores.half().float(),
}


@pytest.mark.parametrize("conversion", ["numpy", "list"])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(both, activation, softmax, conversion):
    if softmax and activation == "whole numbers" and both[0].num_labels == 2:
        pytest.skip("torch has no softmax of whole numbers")
    asked = {"activation_fn": ACTIVATIONS[activation], "apply_softmax": softmax, **CONVERSIONS[conversion]}
    check_same(both[0].predict(PAIRS, **asked), both[1].predict(PAIRS, **asked))


def test_an_activation_of_a_call_is_not_kept(one):
    before = one[0].predict(PAIRS)
    one[0].predict(PAIRS, activation_fn=torch.nn.Identity())
    assert one[0].predict(PAIRS).tolist() == before.tolist()


def test_an_activation_of_the_constructor_or_set_later(checkpoint_of, artifact_of):
    ours = CrossEncoder(str(artifact_of("bert")), activation_fn=torch.nn.Identity(), model_kwargs=FLOAT32)
    theirs = real.CrossEncoder(str(checkpoint_of("bert")), activation_fn=torch.nn.Identity(), device="cpu")
    check_same(ours.predict(PAIRS), theirs.predict(PAIRS))
    ours.activation_fn = theirs.activation_fn = torch.nn.Tanh()
    check_same(ours.predict(PAIRS), theirs.predict(PAIRS))


@pytest.mark.parametrize("return_documents", [False, True])
@pytest.mark.parametrize("top_k", [None, 0, 1, 3, 99])
def test_rank(one, top_k, return_documents):
    found, expected = (model.rank(QUERY, DOCUMENTS, top_k=top_k, return_documents=return_documents) for model in one)
    assert [list(result) for result in found] == [list(result) for result in expected]
    for result, other in zip(found, expected, strict=True):
        assert result.pop("score") == pytest.approx(other.pop("score"), abs=1e-4)
        assert result == other


def test_rank_returns_plain_numbers(one):
    for model in one:
        [result] = model.rank(QUERY, DOCUMENTS[:1])
        assert [type(value) for value in result.values()] == [int, float]


def test_equal_scores_keep_the_order_given(one):
    found, expected = (model.rank(QUERY, DOCUMENTS, activation_fn=lambda scores: scores * 0) for model in one)
    assert [result["corpus_id"] for result in found] == [result["corpus_id"] for result in expected] == [0, 1, 2, 3]


def test_an_activation_that_falls_reverses_the_order(one):
    found, expected = (model.rank(QUERY, DOCUMENTS, activation_fn=torch.neg) for model in one)
    assert [result["corpus_id"] for result in found] == [result["corpus_id"] for result in expected]


def test_rank_of_no_documents(one):
    assert one[0].rank(QUERY, []) == one[1].rank(QUERY, []) == []


def test_rank_is_for_one_label(both):
    if both[0].num_labels == 2:
        for model in both:
            with pytest.raises(ValueError, match="label"):
                model.rank(QUERY, DOCUMENTS)


def test_the_longer_text_is_cut(both):
    texts = ["", *("the pull of the moon " * count for count in (1, 12, 25, 26, 27, 40, 90))]
    pairs = [(query, document) for query in texts for document in texts]
    check_same(both[0].predict(pairs), both[1].predict(pairs))


@pytest.mark.parametrize("length", [16, 17, 48])
def test_max_length(checkpoint_of, artifact_of, length):
    ours = CrossEncoder(str(artifact_of("bert")), max_length=length, model_kwargs=FLOAT32)
    theirs = real.CrossEncoder(str(checkpoint_of("bert")), max_length=length, device="cpu")
    check_same(ours.predict(PAIRS), theirs.predict(PAIRS))
    assert ours.max_seq_length == theirs.max_seq_length == length
    ours.max_seq_length = theirs.max_seq_length = 32
    check_same(ours.predict(PAIRS), theirs.predict(PAIRS))


@pytest.mark.parametrize(
    "asked", [{"prompt": "query: "}, {"prompt_name": "q"}, {"prompt": ""}, {"prompt": "a", "prompt_name": "q"}, {}]
)
@pytest.mark.parametrize("default", [None, "d"])
def test_prompts(checkpoint_of, artifact_of, asked, default):
    prompts = {"q": "question: ", "d": "default: "}
    ours = CrossEncoder(str(artifact_of("bert")), prompts=prompts, default_prompt_name=default, model_kwargs=FLOAT32)
    theirs = real.CrossEncoder(str(checkpoint_of("bert")), prompts=prompts, default_prompt_name=default, device="cpu")
    check_same(ours.predict(PAIRS, **asked), theirs.predict(PAIRS, **asked))


def test_unknown_prompts(one, artifact_of):
    for model in one:
        with pytest.raises(ValueError, match="'x' not found in the configured prompts dictionary"):
            model.predict(PAIRS, prompt_name="x")
    with pytest.raises(ValueError, match="'x' not found"):
        CrossEncoder(str(artifact_of("bert")), default_prompt_name="x")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arguments_of_older_versions(one, checkpoint_of, artifact_of):
    found, expected = (model.predict(sentences=PAIRS, activation_fct=torch.nn.Tanh(), num_workers=4) for model in one)
    check_same(found, expected)
    arguments = (1, 24, torch.nn.Tanh(), "cpu")
    ours, theirs = CrossEncoder(str(artifact_of("bert")), *arguments, automodel_args=FLOAT32), None  # type: ignore[call-arg]
    theirs = real.CrossEncoder(str(checkpoint_of("bert")), *arguments)
    check_same(ours.predict(PAIRS), theirs.predict(PAIRS))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -1}])
def test_both_refuse(one, wrong):
    for model in one:
        with pytest.raises(ValueError, match="batch_size must be a positive integer"):
            model.predict(PAIRS, **wrong)


@pytest.mark.parametrize("wrong", ["a text", [("a", 1)], [("a", None)], [("a", "b"), "c"]])
def test_both_refuse_what_is_not_a_pair_of_texts(one, wrong):
    with pytest.raises(TypeError, match=r"expected .*str|expected a \(query, document\) tuple"):
        one[0].predict(wrong)


def test_int8_agrees_within_the_bounds_of_the_certificate(checkpoint_of, artifact_of):
    ours = CrossEncoder(str(artifact_of("bert")))
    theirs = real.CrossEncoder(str(checkpoint_of("bert")), device="cpu")
    assert ours.reranker.precision == "int8"
    certificate = Certificate.read(ours.reranker.artifact)
    pairs = [[(pool.query, document) for document in pool.documents] for pool in certificate.pools]
    flat = [pair for rows in pairs for pair in rows]
    places = np.cumsum([len(rows) for rows in pairs])[:-1]
    found, expected = (np.split(model.predict(flat, activation_fn=torch.nn.Identity()), places) for model in (ours, theirs))
    assert measure(certificate.pools, expected, found).violations(certificate.bounds) == []
    assert max(abs(each - other).max() for each, other in zip(found, expected, strict=True)) > 1e-4, "int8 did not run"


def test_evaluators(one, tmp_path):
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator, CrossEncoderRerankingEvaluator

    texts = tiny.texts()[:40]
    samples = [{"query": texts[at], "positive": [texts[at + 1]], "documents": texts[1:30:2]} for at in range(0, 10, 2)]
    reranking = CrossEncoderRerankingEvaluator(samples, name="tiny")
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    correlation = CrossEncoderCorrelationEvaluator(pairs, [len(text) for text, _ in pairs])
    for evaluator in (reranking, correlation):
        assert evaluator(one[0]) == pytest.approx(evaluator(one[1]), abs=1e-3)
    assert one[0].evaluate(reranking, str(tmp_path / "out")) == pytest.approx(reranking(one[1]), abs=1e-3)
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".csv"]


def test_the_progress_bar_is_shown_when_the_originals_is(one, capsys, caplog):
    def shown(model, **asked):
        capsys.readouterr()
        model.predict(PAIRS, **asked)
        return "100%" in capsys.readouterr().err

    for asked in ({}, {"show_progress_bar": True}, {"show_progress_bar": False}):
        assert shown(one[0], **asked) == shown(one[1], **asked) == bool(asked.get("show_progress_bar"))
    with caplog.at_level(logging.INFO):
        assert shown(one[0])
        assert shown(one[1])


def test_in_the_originals_place_it_is_judged_by_the_original(checkpoint_of, monkeypatch):
    original = real.CrossEncoder
    for module in (real, real.cross_encoder):
        monkeypatch.setattr(module, "CrossEncoder", CrossEncoder)
    assert type(load_cross_encoder(str(checkpoint_of("bert")), device="cpu")) is original
    monkeypatch.setattr("sentence_transformers.cross_encoder.model.CrossEncoder", CrossEncoder)
    with pytest.raises(InputError, match=r"cross_encoder\.model\.CrossEncoder is .*expected sentence-transformers' own class"):
        load_cross_encoder(str(checkpoint_of("bert")), device="cpu")


@pytest.mark.usefixtures("cheap")
def test_in_the_originals_place_it_exports(source, monkeypatch, tmp_path):
    theirs = real.CrossEncoder(source, device="cpu")
    monkeypatch.setattr(real, "CrossEncoder", CrossEncoder)
    ours = real.CrossEncoder(source, cache_folder=str(tmp_path), model_kwargs=FLOAT32)
    assert type(ours) is CrossEncoder
    check_same(ours.predict(PAIRS), theirs.predict(PAIRS))
