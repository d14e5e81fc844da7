"""A graph is what its manifest says: names, types and the number of labels, held to when it is loaded and when it answers."""

from __future__ import annotations

import gc
import shutil
import weakref

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from resift import ArtifactError, ClosedError, InferenceError, Reranker
from resift.artifact.signature import Signature
from resift.runtime import providers
from resift.runtime.providers import POLICIES
from resift.runtime.session import Session
from tests.conftest import edit
from tests.support import graphs
from tests.support.forks import beside_threads, can_fork, in_child

IDS = {"input_ids": np.array([[2, 5, 3]] * 2), "token_type_ids": np.array([[0, 0, 1]] * 2)}
INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def graph(*, labels=1, inputs=("input_ids", "token_type_ids"), kind=INT64, output="logits", declared="same", out=FLOAT):
    """An ONNX graph whose logits, [b, labels], are 0; it declares their last dimension as `declared`."""
    rows = [
        helper.make_node("Shape", [inputs[0]], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "labels"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], [output], value=helper.make_tensor("zero", out, [1], [0])),
    ]
    last = labels if declared == "same" else declared
    made = helper.make_graph(
        rows,
        "g",
        [helper.make_tensor_value_info(name, kind, ["b", "w"]) for name in inputs],
        [helper.make_tensor_value_info(output, out, ["b", last])],
        [helper.make_tensor("labels", INT64, [1], [labels])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


def opened(content, *, labels=1, segment_ids=True):
    session = Session(lambda: content, Signature.of(labels=labels, segment_ids=segment_ids), POLICIES["cpu"])
    session.open()
    return session


@pytest.mark.parametrize("declared", ["same", "labels", None])
@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("segment_ids", [True, False])
def test_a_graph_of_its_signature_runs(labels, declared, segment_ids):
    content = graph(labels=labels, inputs=list(IDS) if segment_ids else ["input_ids"], declared=declared)
    session = opened(content, labels=labels, segment_ids=segment_ids)
    assert session.run(IDS).shape == (2, labels)
    session.close()


OTHERS = {
    "reads segment ids": (graph(), {"segment_ids": False}, "the graph reads {'input_ids': 'tensor(int64)', 'token_type_ids'"),
    "reads no segment ids": (graph(inputs=["input_ids"]), {}, "expected {'input_ids': 'tensor(int64)', 'token_type_ids'"),
    "reads something else": (graph(inputs=["input_ids", "pixel_values"]), {}, "pixel_values"),
    "reads int32": (graph(kind=TensorProto.INT32), {}, "tensor(int32)"),
    "answers scores": (graph(output="scores"), {}, "scores"),
    "answers double": (graph(out=TensorProto.DOUBLE), {}, "tensor(double)"),
    "answers two labels": (graph(labels=2), {}, "expected 1 labels, as its manifest says"),
    "answers one label": (graph(labels=1), {"labels": 2}, "expected 2 labels, as its manifest says"),
}


@pytest.mark.parametrize(("content", "said", "message"), OTHERS.values(), ids=OTHERS)
def test_a_graph_of_another_signature_is_refused_when_loaded(content, said, message):
    with pytest.raises(ArtifactError) as caught:
        opened(content, **said)
    assert message in str(caught.value)
    assert "export the checkpoint again" in str(caught.value)


@pytest.mark.parametrize("declared", ["labels", None])
@pytest.mark.parametrize(("labels", "said"), [(2, 1), (1, 2), (3, 2)])
def test_a_number_of_labels_that_shows_only_in_the_answer_is_refused_there(labels, said, declared):
    session = opened(graph(labels=labels, declared=declared), labels=said)
    with pytest.raises(ArtifactError, match=rf"logits of shape \(2, {labels}\); expected \(2, {said}\), rows and labels"):
        session.run(IDS)
    session.close()


def flattened():
    """Answers one row for all pairs."""
    model = onnx.load_from_string(graph(declared="labels"))
    model.graph.node[0].op_type = "Constant"
    del model.graph.node[0].input[:], model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.append(helper.make_attribute("value_ints", [1]))
    return model.SerializeToString()


def test_another_number_of_rows_is_refused():
    session = opened(flattened())
    with pytest.raises(ArtifactError, match=r"logits of shape \(1, 1\); expected \(2, 1\), rows and labels"):
        session.run(IDS)
    session.close()


@pytest.mark.parametrize(("labels", "said", "rule"), [(2, 1, "logit"), (1, 2, "log-odds")])
def test_a_manifest_of_other_labels_than_its_graph_does_not_load(artifact_of, tmp_path, labels, said, rule):
    folder = shutil.copytree(artifact_of("bert", labels), tmp_path / "copy")

    def change(manifest):
        manifest["graphs"][0]["signature"]["labels"] = said
        manifest["graphs"][0]["relevance"] = rule

    edit(folder, change)
    with pytest.raises(ArtifactError, match=rf"expected {said} labels, as its manifest says: export"):
        Reranker.load(folder)


def test_a_manifest_without_the_segment_ids_that_its_graph_reads_does_not_load(copy):
    edit(copy, lambda manifest: manifest["graphs"][0]["signature"]["inputs"].pop("token_type_ids"))
    with pytest.raises(ArtifactError, match=r"the graph reads .*token_type_ids.*as its manifest says: export"):
        Reranker.load(copy)


def of_model(model):
    return Session(model.SerializeToString, Signature.of(labels=1, segment_ids=False), POLICIES["cpu"])


@pytest.mark.parametrize("name", graphs.FAILING_AT_LOAD)
def test_what_onnxruntime_cannot_load_is_an_error_of_resift(name):
    if name == "division by a constant 0" and providers._numbers(onnxruntime.__version__) < [1, 26]:
        pytest.skip("onnxruntime before 1.26 loads it, and would end the process when it runs")
    # onnxruntime 1.20 asks for the memory of a shape that its weights do not fill
    with pytest.raises((ArtifactError, InferenceError), match="cannot load this graph"):
        of_model(graphs.FAILING_AT_LOAD[name]).open()


UNSHAPED = "expansion to petabytes"
"""onnxruntime infers no shape for its logits, so that it is refused before it could run."""
RUN = {name: failing for name, failing in graphs.FAILING_AT_RUN.items() if name != UNSHAPED}


def test_a_graph_without_a_shape_of_logits_is_refused_when_loaded():
    with pytest.raises(ArtifactError, match=r"logits of shape \[\]; expected 1 labels"):
        of_model(graphs.FAILING_AT_RUN[UNSHAPED]).open()


@pytest.mark.parametrize("model", RUN.values(), ids=RUN)
def test_what_onnxruntime_fails_to_run_is_an_inference_error(model):
    session = of_model(model)
    with pytest.raises(InferenceError, match="onnxruntime failed on 2 pairs of 3 tokens"):
        session.run(IDS)


@pytest.mark.parametrize("model", graphs.ANSWERING_OTHERWISE.values(), ids=graphs.ANSWERING_OTHERWISE)
def test_logits_of_another_shape_than_declared_are_refused(model):
    # onnxruntime itself lets them pass.
    with pytest.raises(ArtifactError, match="logits of shape"):
        of_model(model).run(IDS)


def test_a_graph_opens_at_its_first_use():
    opened = []
    session = Session(lambda: opened.append(1) or graph(), Signature.of(labels=1, segment_ids=True), POLICIES["cpu"])
    assert opened == []
    for _ in range(3):
        session.run(IDS)
    assert opened == [1]


@can_fork
@beside_threads
def test_a_forked_child_never_frees_the_session_of_its_parent():
    session = Session(graph, Signature.of(labels=1, segment_ids=True), POLICIES["cpu"])
    expected = session.run(IDS).tolist()
    parents = weakref.ref(session.open())

    def work():
        gc.collect()
        answers = session.run(IDS).tolist()
        session.close()
        gc.collect()
        return [parents() is not None, answers]

    assert in_child(work) == [True, expected]
    session.close()
    gc.collect()
    assert parents() is None


def test_a_graph_that_no_call_had_needed_before_close_is_not_loaded_after_it(planned_artifact, monkeypatch):
    reranker = Reranker.load(planned_artifact, plan="full")
    reranker.close()
    monkeypatch.setattr(Session, "_open", lambda _: pytest.fail("loaded a graph"))
    with pytest.raises(ClosedError):
        reranker.submit("how do tides work", ["The moon pulls the sea."], plan="first-look")
