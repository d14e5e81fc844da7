"""The drop-in CrossEncoder by itself: what needs neither sentence-transformers nor its weights."""

from __future__ import annotations

import logging
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from resift.errors import ArtifactError, ExtraError, InputError, ParityError, ProviderError
from resift.integrations.sentence_transformers import CrossEncoder, arguments
from resift.settings import Settings
from tests.conftest import edit

QUERY = "how do tides work"
DOCUMENTS = ["Bread rises by yeast.", "The moon pulls the sea.", "Tides follow the moon and the sun."]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def model(artifact):
    return CrossEncoder(str(artifact))


@pytest.fixture(scope="module")
def two(artifact_of):
    return CrossEncoder(str(artifact_of("bert", 2)))


def test_scores_are_the_engines(model, reranker):
    assert model.predict(PAIRS).tolist() == reranker.score(QUERY, DOCUMENTS).tolist()
    assert model.predict(PAIRS[1]) == reranker.score(QUERY, DOCUMENTS)[1]


def test_a_single_pair_is_a_number(model):
    found = model.predict(PAIRS[0])
    assert isinstance(found, np.float32)


def test_many_pairs_of_many_queries_come_back_in_order(model, monkeypatch):
    rows = [(f"{number % 7} tides", document) for number in range(20) for document in DOCUMENTS]
    expected = [model.predict(row) for row in rows]
    for most in (1, 2, 512):
        monkeypatch.setattr("resift.integrations.sentence_transformers.outputs.WINDOW_PAIRS", most)
        assert model.predict(rows).tolist() == expected


def test_functions_get_an_array_where_torch_was_not_imported(model, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    given = []

    def activation(logits):
        given.append(logits)
        return np.tanh(logits)

    scores = model.predict(PAIRS, activation_fn=activation)
    assert [(type(logits), logits.shape, logits.dtype) for logits in given] == [(np.ndarray, (3, 1), "float32")]
    assert scores.tolist() == np.tanh(given[0][:, 0]).tolist()


def test_a_numpy_ufunc_gets_an_array_even_where_torch_was_imported(model):
    pytest.importorskip("torch")
    assert model.predict(PAIRS, activation_fn=np.tanh).dtype == np.float32


@pytest.mark.parametrize("activation", [lambda logits: logits[:1], lambda logits: logits.mean(), lambda logits: 1.0])
def test_an_activation_that_loses_rows_is_refused(model, activation):
    with pytest.raises(
        InputError, match=r"activation_fn returned shape \(.*\) for logits of shape \(3, 1\); expected as many rows"
    ):
        model.predict(PAIRS, activation_fn=activation)


def test_no_pairs_ask_no_activation(model):
    assert model.predict([], activation_fn=lambda logits: 1 / 0).tolist() == []


def test_two_labels(two):
    scores, shares = two.predict(PAIRS), two.predict(PAIRS, apply_softmax=True)
    assert scores.shape == shares.shape == (3, 2)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (np.log(shares[:, 1] / shares[:, 0])) == pytest.approx(scores[:, 1] - scores[:, 0], abs=1e-4)
    with pytest.raises(InputError, match=r"rank\(\) only works for models with num_labels=1.*this model has 2 labels"):
        two.rank(QUERY, DOCUMENTS)


def test_two_labels_with_an_activation_that_the_artifact_leaves_open(artifact_of, tmp_path):
    folder = shutil.copytree(artifact_of("bert", 2), tmp_path / "open")
    edit(folder, lambda manifest: manifest["graphs"][0].__setitem__("activation", "sigmoid"))
    with pytest.raises(InputError, match="give activation_fn"):
        CrossEncoder(str(folder))
    assert CrossEncoder(str(folder), activation_fn=np.tanh).predict(PAIRS).shape == (3, 2)


def test_documents_of_any_ordered_container(model):
    pandas = pytest.importorskip("pandas")
    expected = model.rank(QUERY, DOCUMENTS, return_documents=True)
    for documents in (tuple(DOCUMENTS), np.array(DOCUMENTS), pandas.Series(DOCUMENTS, index=[7, 8, 9])):
        assert model.rank(QUERY, documents, return_documents=True) == expected


@pytest.mark.parametrize("documents", ["a text", {"a", "b"}, [1], [None], [{"text": "a", "image": "b"}]])
def test_what_is_not_text_is_a_type_error(model, documents):
    with pytest.raises(TypeError, match=r"documents.*expected"):
        model.rank(QUERY, documents)


def test_a_pair_with_a_mapping_is_a_type_error(model):
    with pytest.raises(TypeError, match="expected str"):
        model.predict([(QUERY, {"text": "a", "image": "b"})])


def test_texts_are_not_cut_in_half_silently_when_a_pair_has_three(model):
    with pytest.raises(TypeError, match=r"pairs\[0\] is .*expected a \(query, document\) tuple"):
        model.predict([("a", "b", "c")])


REFUSED = {
    "modules": {"modules": []},
    "model_card_data": {"model_card_data": object()},
    "keep_in_fp32_modules": {"keep_in_fp32_modules": ["classifier"]},
    "device is a list": {"device": ["cpu", "cpu"]},
    "device is 'mps'": {"device": "mps"},
    "device is 'cuda:1'": {"device": "cuda:1"},
    "backend is 'openvino'": {"backend": "openvino"},
    "asks for float16": {"model_kwargs": {"torch_dtype": "float16"}},
    "has 'attn_implementation'": {"model_kwargs": {"attn_implementation": "eager"}},
    "has 'file_name'": {"backend": "onnx", "model_kwargs": {"file_name": "onnx/model_O3.onnx"}},
    "has use_safetensors False": {"model_kwargs": {"use_safetensors": False}},
    "has the provider 'TensorrtExecutionProvider'": {"model_kwargs": {"provider": "TensorrtExecutionProvider"}},
    "provider 'CUDAExecutionProvider' (device: cpu)": {"device": "cpu", "model_kwargs": {"provider": "CUDAExecutionProvider"}},
    "processor_kwargs has 'padding_side'": {"processor_kwargs": {"padding_side": "left"}},
    "config_kwargs has 'hidden_act'": {"config_kwargs": {"hidden_act": "relu", "classifier_dropout": 0.1}},
    "num_labels is 3": {"num_labels": 3},
    "max_length is 9999": {"max_length": 9999},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_arguments_that_have_no_meaning_are_refused(artifact, reason):
    with pytest.raises(InputError) as refusal:
        CrossEncoder(str(artifact), **REFUSED[reason])
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "given",
    [
        {"device": "cpu"},
        {"model_kwargs": {"provider": "CPUExecutionProvider", "export": True}, "backend": "onnx"},
        {"model_kwargs": {"dtype": "auto", "use_safetensors": True}},
        {"config_kwargs": {"num_labels": 1, "classifier_dropout": 0.1}, "num_labels": 1},
        {"trust_remote_code": True, "keep_in_fp32_modules": []},
    ],
)
def test_arguments_that_ask_for_what_runs_anyway_are_accepted(artifact, model, given):
    assert CrossEncoder(str(artifact), **given).predict(PAIRS).tolist() == model.predict(PAIRS).tolist()


OLD = "was renamed and is now deprecated. Please use"
END = "It will be removed in a future version."
LOGGED = {
    "model_name": f"The CrossEncoder `model_name` argument {OLD} `model_name_or_path` instead.",
    "automodel_args": f"The CrossEncoder `automodel_args` argument {OLD} `model_kwargs` instead.",
    "tokenizer_args": f"The CrossEncoder `tokenizer_args` argument {OLD} `processor_kwargs` instead.",
    "tokenizer_kwargs": f"The CrossEncoder `tokenizer_kwargs` argument {OLD} `processor_kwargs` instead.",
    "config_args": f"The CrossEncoder `config_args` argument {OLD} `config_kwargs` instead.",
    "cache_dir": f"The CrossEncoder `cache_dir` argument {OLD} `cache_folder` instead.",
    "default_activation_function": f"The CrossEncoder `default_activation_function` argument {OLD} `activation_fn` instead.",
    "sentences": f"The `sentences` argument {OLD} `inputs` instead.",
    "activation_fct": f"The `activation_fct` argument {OLD} `activation_fn` instead.",
    "num_workers": f"The CrossEncoder.predict `num_workers` argument is deprecated and has no effect. {END}",
    "convert_to_numpy": "The CrossEncoder.rank `convert_to_numpy` argument is deprecated and has no effect, "
    f"as `rank` always returns Python floats. {END}",
}
"""What sentence-transformers 6 logs of arguments by their old names, in util/decorators.py."""


def test_deprecated_arguments_are_logged_once_as_by_the_original(artifact, model, caplog):
    arguments._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            one = CrossEncoder(  # type: ignore[call-arg]
                model_name=str(artifact),
                automodel_args={"dtype": "auto"},
                tokenizer_args={"model_max_length": 40},
                tokenizer_kwargs={},
                config_args={"num_labels": 1},
                cache_dir=None,
                default_activation_function=np.tanh,
            )
            one.predict(sentences=PAIRS, activation_fct=np.tanh, num_workers=2)  # type: ignore[call-arg]
            one.rank(QUERY, DOCUMENTS, convert_to_numpy=True)  # type: ignore[call-arg]
    assert [record.getMessage() for record in caplog.records] == list(LOGGED.values())
    assert (one.max_seq_length, one.activation_fn) == (40, np.tanh)


def test_arguments_that_older_versions_took_are_logged_each_time(artifact, caplog):
    with caplog.at_level(logging.WARNING):
        one = CrossEncoder(str(artifact), 1, 40, classifier_dropout=0.1)  # type: ignore[call-arg]
    assert one.max_seq_length == 40
    passed = (
        "Passing `{0}` as a positional argument to CrossEncoder is deprecated. Please use `{0}={1}` as a keyword argument instead."
    )
    dropout = "{'classifier_dropout': 0.1}"
    assert [record.getMessage() for record in caplog.records] == [
        passed.format("num_labels", 1),
        passed.format("max_length", 40),
        f"The CrossEncoder `classifier_dropout` argument is deprecated. Please use `config_kwargs={dropout}` instead.",
    ]
    with pytest.raises(TypeError, match="at most 5 arguments by position, but 6 were given"):
        CrossEncoder(str(artifact), 1, 40, None, "cpu", "more")


def test_properties_of_older_versions_warn(artifact):
    one = CrossEncoder(str(artifact))
    with pytest.warns(DeprecationWarning, match="The `max_length` property was renamed and is now deprecated"):
        one.max_length = 32
    with pytest.warns(DeprecationWarning, match="Please use `max_seq_length` instead"):
        assert one.max_length == 32
    with pytest.warns(DeprecationWarning, match="The `default_activation_function` property was renamed"):
        assert one.default_activation_function is one.activation_fn


def test_the_processors_limit(artifact):
    assert CrossEncoder(str(artifact), processor_kwargs={"model_max_length": 40}).max_seq_length == 40


CALLS = {
    "pool is given": {"pool": {}},
    "device is a list": {"device": ["cpu"]},
    "move it with to('cuda') first": {"device": "cuda"},
    "has 'processing_kwargs'": {"processing_kwargs": {}},
}


@pytest.mark.parametrize("reason", CALLS)
def test_calls_that_have_no_meaning_are_refused(model, reason):
    with pytest.raises(InputError) as refusal:
        model.predict(PAIRS, **CALLS[reason])
    assert reason in str(refusal.value)


def test_eval_and_to(model):
    assert model.eval() is model
    assert model.to("cpu") is model
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        model.to("cuda")
    assert model.device == "cpu"


def test_names_are_completed_and_the_checkpoint_of_the_embedded_model_is_it():
    names = ("ms-marco-MiniLM-L12-v2", "cross-encoder/ms-marco-MiniLM-L12-v2", "cross-encoder/ms-marco-MiniLM-L-12-v2")
    for name in (None, "ms-marco-minilm-l12", *names):
        assert CrossEncoder(name).reranker.artifact.folder.name == "ms-marco-minilm-l12"


@pytest.mark.parametrize("more", [{"revision": "a" * 40}, {"model_kwargs": {"dtype": "float32"}}])
def test_another_revision_or_precision_is_not_the_embedded_models(monkeypatch, more):
    def snapshot(repository, revision, **asked):
        raise ArtifactError(f"{repository} at {revision}")

    monkeypatch.setattr("resift.artifact.hub.snapshot", snapshot)
    with pytest.raises(ArtifactError, match=r"cross-encoder/ms-marco-MiniLM-L12-v2 at (aaaa|None)"):
        CrossEncoder("ms-marco-MiniLM-L12-v2", **more)


@pytest.mark.usefixtures("toolchain")
def test_a_checkpoint_that_int8_ranks_otherwise_says_how_to_load_it(monkeypatch, source, tmp_path):
    import resift_export.convert

    def convert(*_, **__):
        raise ParityError("mean Kendall tau is 0.5")

    monkeypatch.setattr(resift_export.convert, "convert", convert)
    with pytest.raises(ParityError, match=r'0\.5; or load it in float32: model_kwargs=\{"dtype": "float32"\}'):
        CrossEncoder(source, cache_folder=str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_relevant_label_of_several_is_the_models_one(checkpoint_of, artifact_of, tmp_path):
    float32 = {"dtype": "float32"}
    logits = CrossEncoder(str(artifact_of("bert", 2)), model_kwargs=float32).predict(PAIRS)
    first = CrossEncoder(str(checkpoint_of("bert", 2)), relevant_label=0, cache_folder=str(tmp_path), model_kwargs=float32)
    assert first.num_labels == 1
    assert first.predict(PAIRS) == pytest.approx(logits[:, 0] - logits[:, 1], abs=1e-4)
    ranked = [result["corpus_id"] for result in first.rank(QUERY, DOCUMENTS)]
    assert ranked == np.argsort(logits[:, 1] - logits[:, 0]).tolist()


@pytest.mark.usefixtures("toolchain")
def test_the_environments_folder_for_models_is_the_cache(monkeypatch, source, artifact, tmp_path):
    import resift_export.convert

    monkeypatch.setattr(resift_export.convert, "convert", lambda folder, out, recipe, **more: shutil.copytree(artifact, out))
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    assert CrossEncoder(source).reranker.artifact.folder.is_relative_to(tmp_path)


def test_a_prompt_of_the_model_is_not_put_before_a_query_twice(model, monkeypatch):
    expected = model.predict(PAIRS).tolist()
    manifest = SimpleNamespace(pair=SimpleNamespace(prompt="query: "))
    monkeypatch.setattr(model.reranker, "artifact", SimpleNamespace(manifest=manifest))
    assert model.predict(PAIRS, prompt="query: ").tolist() == expected
    with pytest.raises(InputError, match="the model has a prompt of its own, 'query: '; expected no other one"):
        model.predict(PAIRS, prompt="")


def test_pickled_and_used_by_threads(model):
    again = pickle.loads(pickle.dumps(model))
    expected = model.predict(PAIRS).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: again.predict(PAIRS).tolist(), range(8)))
    assert found == [expected] * 8
    assert again.reranker.settings == model.reranker.settings == Settings(truncation="longest_first")


def test_tensors_without_torch(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for asked in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        with pytest.raises(ExtraError, match=r"torch cannot be imported .*pip install torch"):
            model.predict(PAIRS, **asked)


def test_what_it_says_it_is(model):
    assert repr(model).endswith("int8 on cpu)")
    assert (model.num_labels, model.modalities, model.get_backend()) == (1, ["text"], "torch")
    assert (model.supports("text"), model.supports("image"), model.supports(("image", "text"))) == (True, False, False)
    with pytest.raises(AttributeError, match="CrossEncoder has no 'named_buffers'"):
        model.named_buffers()
