"""`resift verify`, `resift info` and what `resift export` needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from importlib.metadata import version
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from resift.artifact.certificate import Certificate
from tests.conftest import rewrite
from tests.support.commands import DOCUMENTS, LINES, QUERY, answered, complaint, resift, running


def test_verify_compares_with_the_checkpoint(artifact):
    out = answered(resift("verify", artifact, "--accept-bounds"))
    for said in ("model.int8.onnx on 40 pools", "mean top-10 overlap", "mean Kendall tau", "worst pool's tau", "p99 error / range",
                 "drop of nDCG@10       <= 0.02"):  # fmt: skip
        assert said in out
    found = json.loads(answered(resift("verify", artifact, "--accept-bounds", "--json")))
    assert found.keys() == {
        "artifact", "variant", "precision", "provider", "bounds", "agreement", "at_export", "largest_change_since_export",
        "search", "first_looks", "first_look_by_length", "reference", "agreement_by_length", "agreement_by_script", "generated",
        "largest_difference", "measured",
    }  # fmt: skip
    assert (found["artifact"], found["precision"], found["provider"]) == (str(artifact), "int8", "cpu")
    assert found["variant"] == "model.int8.onnx"
    assert found["bounds"].keys() == {"overlap", "tau", "worst_tau", "error", "ndcg_drop"}
    assert found["bounds"].keys() - {"ndcg_drop"} < found["agreement"].keys() == found["at_export"].keys()
    assert found["agreement"]["tau"] >= found["bounds"]["tau"]
    assert found["largest_change_since_export"] < 0.05
    assert (found["search"], found["first_looks"]) == (None, {})


def test_verify_beyond_its_bounds_is_exit_code_3(disagreeing):
    done = resift("verify", disagreeing)
    assert done.out.startswith("model.int8.onnx on 40 pools\n")
    assert "does not rank like its checkpoint" in complaint(SimpleNamespace(code=done.code, out="", err=done.err), 3)
    done = resift("verify", disagreeing, "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert found["agreement"]["tau"] < 0 < found["at_export"]["tau"]


def test_verify_does_not_take_looser_bounds_than_its_own_on_trust(artifact):
    done = resift("verify", artifact)
    assert done.out.startswith("model.int8.onnx on 40 pools, against ")
    said = complaint(SimpleNamespace(code=done.code, out="", err=done.err), 3)
    assert "looser than those of `resift export`: the worst pool's Kendall tau at least 0.75 instead of 0.85;" in said
    assert "use --accept-bounds" in said
    assert "differ" not in said


def test_verify_of_a_checkpoint_that_does_not_rank_is_exit_code_3(copy):
    certificate = json.loads((copy / "certificate.json").read_bytes())
    for pool in certificate["pools"]:
        pool["checkpoint"] = [0.5] * len(pool["checkpoint"])
        pool["variants"] = dict.fromkeys(pool["variants"], pool["checkpoint"])
    found = msgspec.convert(certificate, Certificate)
    alike = found.measure([np.array(pool.checkpoint) for pool in found.pools])
    found = msgspec.structs.replace(found, agreement=dict.fromkeys(found.agreement, alike), classes={}, short_pools=[])
    assert alike.tau == 1
    rewrite(copy, "certificate.json", msgspec.json.encode(found))
    done = complaint(resift("verify", copy, "--accept-bounds"), 3)
    assert "the checkpoint's logits differ within 0 of 40 pools; expected at least 30" in done


def test_an_artifact_in_a_folder_of_odd_bytes(artifact, tmp_path):
    odd = tmp_path / os.fsdecode(b"odd\xff")
    shutil.copytree(artifact, odd)
    assert json.loads(answered(resift("info", odd, "--json")))["artifact"].endswith("/odd\\xff")
    assert json.loads(answered(resift("verify", odd, "--accept-bounds", "--json")))["artifact"].endswith("/odd\\xff")


@pytest.mark.parametrize("source", ["a" * 5000, "org/" + "a" * 5000, "org/name@" + "a" * 5000])
def test_a_name_that_is_too_long_is_one_line(source):
    said = complaint(resift("info", source, HF_HUB_OFFLINE="1"))
    assert any(reason in said for reason in ("no artifact", "neither a folder nor a hub id", "cannot be downloaded"))
    assert len(said) < 1000


@pytest.mark.usefixtures("toolchain")
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_export_that_is_told_to_end_leaves_nothing(checkpoint_of, tmp_path, interruptible, number, code):
    with running("export", checkpoint_of("bert"), tmp_path / "home" / "out") as process:
        assert process.stderr.readline().startswith(b"load ")  # the folder beside OUT is there by then
        assert [path.name for path in (tmp_path / "home").iterdir()] == [".out.export"]
        process.send_signal(number)
        process.communicate()
    assert process.returncode == code
    assert list((tmp_path / "home").iterdir()) == []


def test_an_artifact_that_breaks_its_bounds_still_ranks(disagreeing):
    assert answered(resift("rerank", QUERY, "--model", disagreeing, given=LINES)).count("\n") == len(DOCUMENTS) + 1


def test_info_tells_where_the_embedded_weights_come_from():
    said = answered(resift("info"))
    assert said.startswith("model: cross-encoder/ms-marco-MiniLM-L12-v2\norigin: recovered from an int8 copy")


def test_info_tells_what_runs(artifact, reranker):
    found = json.loads(answered(resift("info", artifact, "--threads", "1", "--max-length", "50", "--json")))
    assert found.keys() == {
        "artifact", "bytes", "model", "pair", "max_length", "graphs", "forced", "reference", "agreement", "search", "first_looks",
        "first_look_by_length", "agreement_by_length", "agreement_by_script", "generated_pairs",
        "plan", "recipe", "made_with", "tested_onnxruntime", "runs", "machine", "wheels", "versions",
        "embedded_models", "document_template", "scores", "measured",
    }  # fmt: skip
    assert (found["artifact"], found["max_length"], found["forced"]) == (str(artifact), 50, False)
    (graph,) = found["graphs"]
    assert (graph["name"], graph["role"], graph["layers"], graph["activation"]) == ("full", "full", 2, "sigmoid")
    assert found["bytes"] == sum(path.stat().st_size for path in artifact.iterdir())
    assert found["runs"] == {
        "variant": "model.int8.onnx",
        "precision": "int8",
        "provider": "cpu",
        "nodes": reranker.nodes,
        "threads": 1,
        "token_budget": reranker.resolved.token_budget,
        "plan": "full",
        "plan_with_top_k": "full",
    }
    assert [variant["precision"] for variant in graph["variants"]] == ["int8", "float32"]
    assert list(found["agreement"]) == [variant["file"] for variant in graph["variants"]]
    assert found["versions"]["resift"] == version("resift")
    assert "ms-marco-minilm-l12" in found["embedded_models"]


def test_info_of_the_embedded_model_by_name_or_by_default():
    out = answered(resift("info", "--all"))
    assert out == answered(resift("info", "ms-marco-minilm-l12", "--all"))
    assert "  id: cross-encoder/ms-marco-MiniLM-L12-v2\n" in out
    assert "\nruns:\n  variant: model.int8.onnx\n  precision: int8\n" in out


@pytest.mark.usefixtures("toolchain")
def test_export_without_torch_names_the_extra(checkpoint_of, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    done = resift("export", checkpoint_of("bert"), tmp_path / "out", PYTHONPATH=str(tmp_path / "hidden"))
    found = complaint(done)
    assert "No module named 'torch'" in found
    assert "pip install 'resift[export]'" in found
    assert not (tmp_path / "out").exists()


def test_a_mistaken_option_of_an_export_is_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    done = resift("export", "checkpoint", tmp_path / "out", "--precision", "x", PYTHONPATH=str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert "precision is 'x'" in done.err


def test_nothing_but_export_needs_torch(artifact, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    assert answered(resift("rerank", QUERY, "--model", artifact, given=LINES, PYTHONPATH=str(tmp_path)))
    assert answered(resift("verify", artifact, "--accept-bounds", PYTHONPATH=str(tmp_path)))


@pytest.mark.usefixtures("toolchain")
def test_export_of_nothing_is_one_line(tmp_path):
    done = resift("export", tmp_path / "none", tmp_path / "out")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"resift: '{tmp_path / 'none'}' is neither a folder nor a hub id")
    assert "Traceback" not in done.err
