"""`resift verify`, `resift info` and what `resift export` needs."""

from __future__ import annotations

import json
from importlib.metadata import version
from types import SimpleNamespace

from commands import DOCUMENTS, LINES, QUERY, answered, complaint, resift


def test_verify_compares_with_the_checkpoint(artifact):
    out = answered(resift("verify", artifact, "--accept-bounds"))
    for said in ("model.int8.onnx on 40 pools", "mean top-10 overlap", "mean Kendall tau", "worst pool's tau", "p99 error / range"):
        assert said in out
    found = json.loads(answered(resift("verify", artifact, "--accept-bounds", "--json")))
    assert found.keys() == {
        "artifact", "variant", "precision", "provider", "bounds", "agreement", "at_export", "largest_change_since_export"
    }  # fmt: skip
    assert (found["artifact"], found["precision"], found["provider"]) == (str(artifact), "int8", "cpu")
    assert found["variant"] == "model.int8.onnx"
    assert found["bounds"].keys() == {"overlap", "tau", "worst_tau", "error"}
    assert found["bounds"].keys() < found["agreement"].keys() == found["at_export"].keys()
    assert found["agreement"]["tau"] >= found["bounds"]["tau"]
    assert found["largest_change_since_export"] < 0.05


def test_verify_beyond_its_bounds_is_exit_code_3(disagreeing):
    done = resift("verify", disagreeing)
    assert done.out.startswith("model.int8.onnx on 40 pools\n")
    assert "does not rank as its checkpoint does" in complaint(SimpleNamespace(code=done.code, out="", err=done.err), 3)
    done = resift("verify", disagreeing, "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert found["agreement"]["tau"] < 0 < found["at_export"]["tau"]


def test_an_artifact_that_breaks_its_bounds_still_ranks(disagreeing):
    assert answered(resift("rerank", QUERY, "--model", disagreeing, given=LINES)).count("\n") == len(DOCUMENTS) + 1


def test_info_tells_what_runs(artifact, reranker):
    found = json.loads(answered(resift("info", artifact, "--threads", "1", "--max-length", "50", "--json")))
    assert found.keys() == {
        "artifact", "bytes", "model", "max_length", "graphs", "forced", "agreement", "recipe", "made_with",
        "tested_onnxruntime", "runs", "machine", "versions", "embedded_models",
    }  # fmt: skip
    assert (found["artifact"], found["max_length"], found["forced"]) == (str(artifact), 50, False)
    (graph,) = found["graphs"]
    assert (graph["name"], graph["role"], graph["layers"], graph["activation"]) == ("full", "full", 2, "sigmoid")
    assert found["bytes"] == sum(path.stat().st_size for path in artifact.iterdir())
    assert found["runs"] == {
        "variant": "model.int8.onnx",
        "precision": "int8",
        "provider": "cpu",
        "threads": 1,
        "token_budget": reranker.resolved.token_budget,
    }
    assert [variant["precision"] for variant in graph["variants"]] == ["int8", "float32"]
    assert list(found["agreement"]) == [variant["file"] for variant in graph["variants"]]
    assert found["versions"]["resift"] == version("resift")
    assert "ms-marco-minilm-l12" in found["embedded_models"]


def test_info_of_the_embedded_model_by_name_or_by_default():
    out = answered(resift("info"))
    assert out == answered(resift("info", "ms-marco-minilm-l12"))
    assert "  id: cross-encoder/ms-marco-MiniLM-L12-v2\n" in out
    assert "\nruns:\n  variant: model.int8.onnx\n  precision: int8\n" in out


def test_export_without_torch_names_the_extra(checkpoint_of, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    done = resift("export", checkpoint_of("bert"), tmp_path / "out", PYTHONPATH=str(tmp_path / "hidden"))
    found = complaint(done)
    assert "No module named 'torch'" in found
    assert "pip install 'resift[export]'" in found
    assert not (tmp_path / "out").exists()


def test_nothing_but_export_needs_torch(artifact, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    assert answered(resift("rerank", QUERY, "--model", artifact, given=LINES, PYTHONPATH=str(tmp_path)))
    assert answered(resift("verify", artifact, "--accept-bounds", PYTHONPATH=str(tmp_path)))


def test_export_of_nothing_is_one_line(tmp_path):
    done = resift("export", tmp_path / "none", tmp_path / "out")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"resift: '{tmp_path / 'none'}' is neither a folder nor a hub id")
    assert "Traceback" not in done.err
