"""Providers that resift does not promise: they load if they compute the logits that the certificate holds, and not otherwise.

Simulated: onnxruntime lists its CPU provider under the name of another one.
"""

from __future__ import annotations

import logging
import shutil
import sys

import onnx
import onnxruntime
import pytest

from resift import InputError, ProviderError, Reranker, Settings
from resift.artifact.folder import Artifact
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.runtime import providers, self_test
from resift.runtime.sessions import Sessions
from tests.conftest import edit
from tests.support.split_graphs import QUERY_FILE, add_split_look
from tests.support.tiny import texts

QUERY, DOCUMENTS = "how do tides work", texts()[1:12:2]


@pytest.fixture
def openvino(monkeypatch):
    """The options with which a session of the provider is created, once it is."""
    given = []
    create = onnxruntime.InferenceSession

    def session(source, options, providers, **keywords):
        ((name, provider_options),) = providers
        given.append(provider_options)
        return create(source, options, providers=[name], **keywords)

    monkeypatch.setitem(providers.ORT_NAMES, "openvino", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return given


@pytest.fixture
def wrong(monkeypatch):
    """wrong(graph): the provider computes other logits of the graph."""
    run = Sessions.run

    def spoil(name):
        monkeypatch.setattr(Sessions, "run", lambda self, graph, inputs: run(self, graph, inputs) + (50.0 if graph == name else 0))

    return spoil


def test_a_provider_that_computes_the_certificates_logits_loads(artifact, openvino):
    settings = Settings(provider="openvino", provider_options={"device_type": "CPU", "num_of_threads": 2, "cache": True})
    with Reranker.load(artifact) as reranker:
        expected = reranker.logits(QUERY, DOCUMENTS).tolist()
    openvino.clear()
    with Reranker.load(artifact, settings=settings) as reranker:
        assert (reranker.provider, reranker.precision) == ("openvino", "int8")
        assert reranker.logits(QUERY, DOCUMENTS).tolist() == expected
    assert openvino == [{"device_type": "CPU", "num_of_threads": "2", "cache": "True"}]


@pytest.mark.parametrize("graph", ["full", "first-look"])
def test_one_that_does_not_is_refused_whichever_graph_shows_it(planned_artifact, openvino, wrong, graph):
    wrong(graph)
    file = {"full": "model.int8.onnx", "first-look": "first-look.int8.onnx"}[graph]
    with pytest.raises(
        ProviderError, match=rf"does not compute what the certificate of {file} holds: the logits of [68] stored pairs"
    ):
        Reranker.load(planned_artifact, provider="openvino")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where self-tests are remembered, empty; cache() makes this process forget them."""
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path / "cache"))
    passed = set()
    monkeypatch.setattr(self_test, "_passed", passed)
    return passed.clear


@pytest.mark.parametrize("graph", ["full", "first-look"])
def test_a_processor_that_computes_something_else_is_refused_whichever_graph_shows_it(planned_artifact, cache, wrong, graph):
    wrong(graph)
    file = {"full": "model.int8.onnx", "first-look": "first-look.int8.onnx"}[graph]
    for _ in range(2):  # it is not remembered
        with pytest.raises(ProviderError, match=rf"does not compute what {file} computed at export: the logits of 8 stored pairs"):
            Reranker.load(planned_artifact)


def test_the_cpu_is_tested_once_a_version_of_onnxruntime(artifact, cache, wrong, monkeypatch):
    Reranker.load(artifact).close()
    wrong("full")
    Reranker.load(artifact).close()
    cache()
    Reranker.load(artifact).close()  # another process
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    with pytest.raises(ProviderError, match=r"onnxruntime 1\.99\.0 on this processor .* install an onnxruntime from 1\.\d+\."):
        Reranker.load(artifact)


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_where_nothing_can_be_remembered_each_process_tests_once(artifact, cache, wrong, tmp_path, monkeypatch, place):
    if place == "a file":
        (tmp_path / "cache").write_text("in the folder's place")
    else:
        monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "~")
    monkeypatch.chdir(tmp_path)
    Reranker.load(artifact).close()
    wrong("full")
    Reranker.load(artifact).close()
    cache()
    with pytest.raises(ProviderError, match="does not compute what"):
        Reranker.load(artifact)
    assert not (tmp_path / "~").exists()


def test_without_a_self_test_or_with_settings_that_cut_all_its_pairs_nothing_is_tested(copy, cache, wrong):
    wrong("full")
    Reranker.load(copy, settings=Settings(max_length=7)).close()
    edit(copy, lambda manifest: manifest.pop("self_tests"))
    Reranker.load(copy).close()


def test_a_test_by_some_of_the_pairs_is_not_remembered_for_all(artifact, cache, wrong):
    tokenizer = open_tokenizer(Artifact.open(artifact))
    pairs = Artifact.open(artifact).manifest.self_tests["model.int8.onnx"].pairs
    lengths = sorted(int(tokenizer.encode(pair.query, [pair.document]).lengths[0]) for pair in pairs)
    assert lengths[0] < lengths[-1]
    Reranker.load(artifact, settings=Settings(max_length=lengths[-1] - 1)).close()
    wrong("full")
    with pytest.raises(ProviderError, match=f"the logits of {len(pairs)} stored pairs"):
        Reranker.load(artifact)


def test_pairs_that_the_settings_cut_do_not_count(artifact, openvino, caplog):
    with caplog.at_level(logging.WARNING, "resift"):
        Reranker.load(artifact, settings=Settings(provider="openvino", max_length=9)).close()
    assert [record.getMessage() for record in caplog.records] == [
        "CPUExecutionProvider is not tested: every pair that the artifact stores for it is cut"
    ]


@pytest.mark.parametrize("max_length", [47, 96])
def test_pairs_of_which_the_settings_let_a_split_graph_read_less_do_not_count(copy, cache, wrong, tmp_path, max_length):
    """With 47 tokens the full graph scores them all; with 96, documents of more than 72 are cut for the split graph alone."""
    add_split_look(copy, plan="first-look:0.2,full")
    with Reranker.load(copy) as reranker:
        ends = (" ".join(DOCUMENTS)[:end] for end in range(100, 500, 5))
        documents = [*DOCUMENTS, next(text for text in ends if reranker.tokenizer.encode(QUERY, [text]).lengths[0] > 88)]
        scored = reranker.submit(QUERY, documents, plan="first-look").result()
        assert scored.lengths[-1] <= 96
    pairs = [
        {"query": QUERY, "document": text, "logit": float(logit)} for text, logit in zip(documents, scored.logits, strict=True)
    ]
    edit(copy, lambda manifest: manifest["self_tests"].__setitem__(QUERY_FILE, {"bound": 0.01, "pairs": pairs}))
    Reranker.load(copy, settings=Settings(max_length=max_length)).close()
    shutil.rmtree(tmp_path / "cache")
    cache()
    wrong("first-look")
    with pytest.raises(ProviderError, match=f"does not compute what {QUERY_FILE} computed at export"):
        Reranker.load(copy)


def test_an_option_that_the_provider_refuses_is_an_error_of_the_provider(artifact, monkeypatch):
    def session(*_, **__):
        raise RuntimeError("Unknown provider option: colour")

    monkeypatch.setitem(providers.ORT_NAMES, "openvino", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ProviderError, match=r"Unknown provider option: colour; use other provider_options, or the provider cpu"):
        Reranker.load(artifact, settings=Settings(provider="openvino", provider_options={"colour": "red"}))


def test_a_provider_that_onnxruntime_lacks_names_its_wheel(artifact):
    with pytest.raises(ProviderError, match=r"no QNNExecutionProvider \(it has .*CPUExecutionProvider.*\): "):
        Reranker.load(artifact, provider="qnn")


@pytest.mark.skipif(providers._numbers(onnxruntime.__version__) < [1, 24], reason="onnxruntime tells since 1.24")
def test_where_nodes_run_is_told(artifact):
    with Reranker.load(artifact) as reranker:
        graph = onnx.load(artifact / reranker.variant.file).graph
        assert reranker.nodes == {"CPUExecutionProvider": len(graph.node)}


def test_where_nodes_run_is_unknown_before(artifact, monkeypatch):
    monkeypatch.delattr(onnxruntime.InferenceSession.__mro__[1], "get_provider_graph_assignment_info", raising=False)
    with Reranker.load(artifact) as reranker:
        assert reranker.nodes is None


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_options_need_a_provider_that_has_some(provider):
    with pytest.raises(InputError, match=rf"provider_options is set but Settings\.provider is '{provider}'; expected one that has"):
        Settings(provider=provider, provider_options={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, r"provider_options is NoneType; expected a mapping of options by name, or 'auto'"),
        ("cpu", r"provider_options is str; expected a mapping"),
        ([("a", "b")], r"provider_options is list; expected a mapping"),
        ({1: "b"}, r"provider_options has 1 of type str; expected a str, number or bool by name"),
        ({"a": None}, r"provider_options has 'a' of type NoneType; expected"),
        ({"a": {"b": 1}}, r"provider_options has 'a' of type dict; expected"),
    ],
)
def test_options_of_the_wrong_type_are_type_errors(options, message):
    with pytest.raises(TypeError, match=message):
        Settings(provider="cuda", provider_options=options)


def test_options_are_copied_and_settings_stay_hashable(tmp_path):
    given = {"device_id": 1}
    settings = Settings(provider="cuda", provider_options=given)
    given["device_id"] = 2
    assert settings.provider_options == {"device_id": "1"}
    assert settings != Settings(provider="cuda")
    assert {settings: 1}[Settings(provider="cuda", provider_options={"device_id": "1"})] == 1
    path = tmp_path / "settings.toml"
    path.write_text('[settings]\nprovider = "cuda"\n[settings.provider_options]\ndevice_id = 1\n')
    assert Settings.read(path) == settings
