"""Checkpoints exported once to the user's cache. The export itself is a stand-in here, but for two tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from resift.errors import ArtifactError, ExportError, ExtraError, InputError, OutputError
from resift.integrations.sentence_transformers import export_cache
from resift.integrations.sentence_transformers.export_cache import ModelSource, find, find_precision
from resift.settings import Settings
from tests.support import children
from tests.support.hub_server import COMMITS, environment, serving


@pytest.fixture
def checkpoint(tmp_path, source):
    return shutil.copytree(source, tmp_path / "model")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def exports(monkeypatch, artifact, toolchain):
    """The calls of an export that copies an artifact."""
    import resift_export.convert

    calls = []

    def convert(folder, out, recipe, **more):
        calls.append((folder, out, recipe, more))
        shutil.copytree(artifact, out)

    monkeypatch.setattr(resift_export.convert, "convert", convert)
    return calls


def test_an_artifact_is_opened_as_it_is(artifact, cache):
    assert find_precision(ModelSource(name=str(artifact), cache=cache), "int8").folder == artifact
    assert not cache.exists()


def test_a_checkpoint_is_exported_once(checkpoint, cache, exports):
    source = ModelSource(name=str(checkpoint), cache=cache)
    first = find_precision(source, "int8")
    assert find_precision(source, "int8").folder == first.folder
    [(folder, out, recipe, more)] = exports
    assert (folder, out, more) == (str(checkpoint), first.folder, {"name": "model"})
    assert (recipe.precisions, recipe.search) == (("int8",), export_cache.EVALUATIONS)
    assert first.folder.is_relative_to(cache / "assets" / "resift" / "exported" / "model")


def test_each_relevant_label_has_an_export_of_its_own(checkpoint, cache, exports):
    labels = [None, "entailment", "2"]
    folders = [
        find_precision(ModelSource(name=str(checkpoint), cache=cache, relevant_label=label), "int8").folder
        for label in [*labels, *labels]
    ]
    assert [recipe.relevant_label for _, _, recipe, _ in exports] == labels
    assert folders[:3] == folders[3:]
    assert len(set(folders)) == 3


@pytest.mark.parametrize("name", ["artifact", "cross-encoder/ms-marco-MiniLM-L12-v2"])
def test_the_label_of_an_artifact_was_chosen_at_its_export(artifact, cache, name):
    source = ModelSource(name=str(artifact) if name == "artifact" else name, cache=cache, relevant_label="entailment")
    with pytest.raises(InputError, match=r"relevant_label is 'entailment', but .* is an artifact, whose label was chosen"):
        find_precision(source, "int8")


def test_several_labels_without_a_relevant_one_name_the_argument(checkpoint, cache, exports, monkeypatch):
    import resift_export.convert

    def convert(*_, **__):
        raise ExportError("model has 3 labels; name the one that means relevant with --relevant-label")

    monkeypatch.setattr(resift_export.convert, "convert", convert)
    with pytest.raises(ExportError, match="name the one that means relevant with relevant_label="):
        find(ModelSource(name=str(checkpoint), cache=cache), Settings())


def test_a_moved_checkpoint_is_known_again(checkpoint, cache, exports):
    find_precision(ModelSource(name=str(checkpoint), cache=cache), "int8")
    moved = shutil.copytree(checkpoint, checkpoint.parent / "elsewhere" / "model")
    find_precision(ModelSource(name=str(moved), cache=cache), "int8")
    assert len(exports) == 1


@pytest.mark.parametrize("change", ["weights", "config", "module", "precision", "version"])
def test_anything_that_matters_makes_another_artifact(checkpoint, cache, exports, monkeypatch, change):
    source, precision = ModelSource(name=str(checkpoint), cache=cache), "int8"
    first = find_precision(source, precision)
    if change == "weights":
        content = bytearray((checkpoint / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (checkpoint / "model.safetensors").write_bytes(content)
    elif change == "config":
        (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + " ")
    elif change == "module":
        (checkpoint / "1_Pooling").mkdir()
        (checkpoint / "1_Pooling" / "config.json").write_text("{}")
    elif change == "precision":
        precision = "float32"
    else:
        monkeypatch.setattr(export_cache, "version", lambda name: "99")
    assert find_precision(source, precision).folder != first.folder
    assert len(exports) == 2


@pytest.mark.parametrize("name", ["README.md", "training.log", "checkpoint-100/model.safetensors"])
def test_what_does_not_matter_does_not(checkpoint, cache, exports, name):
    source = ModelSource(name=str(checkpoint), cache=cache)
    find_precision(source, "int8")
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("x")
    find_precision(source, "int8")
    assert len(exports) == 1


def test_without_the_toolchain_the_error_has_the_command(checkpoint, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "resift_export.convert", None)
    with pytest.raises(ExtraError, match=r"pip install 'resift\[export\]'; or run `resift export .*model OUT`"):
        find_precision(ModelSource(name=str(checkpoint), cache=cache), "int8")


def test_what_was_exported_needs_no_toolchain(checkpoint, cache, exports, monkeypatch):
    first = find_precision(ModelSource(name=str(checkpoint), cache=cache), "int8")
    monkeypatch.setitem(sys.modules, "resift_export.convert", None)
    assert find_precision(ModelSource(name=str(checkpoint), cache=cache), "int8").folder == first.folder


def test_a_failed_export_leaves_nothing_and_can_be_tried_again(checkpoint, cache, exports, monkeypatch):
    import resift_export.convert

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(resift_export.convert, "convert", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            find_precision(ModelSource(name=str(checkpoint), cache=cache), "int8")
    assert find_precision(ModelSource(name=str(checkpoint), cache=cache), "int8")
    assert len(exports) == 1


def test_a_cache_that_cannot_be_written(checkpoint, tmp_path, exports):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"the cache for exported checkpoints cannot be created: .*set HF_HOME"):
        find_precision(ModelSource(name=str(checkpoint), cache=tmp_path / "file"), "int8")


@pytest.mark.parametrize("name", ["nowhere/in/particular", "no model", "org/name@v1", "/", "", "a" * 5000, "a\0b"])
def test_what_is_no_name(name, cache):
    with pytest.raises(ArtifactError, match=r"no model|holds neither"):
        find_precision(ModelSource(name=name, cache=cache), "int8")


def test_a_folder_with_neither(tmp_path, cache):
    with pytest.raises(
        ArtifactError, match=r"holds neither manifest\.json nor config\.json; expected an artifact or a Hugging Face"
    ):
        find_precision(ModelSource(name=str(tmp_path), cache=cache), "int8")


COUNTED = """
import shutil, sys, time
from types import SimpleNamespace
checkpoint, artifact, cache, hold = sys.argv[1:]
def convert(folder, out, recipe, **more):
    from resift_export.build.staging import staged
    with staged(out, overwrite=False) as (fresh, _):
        shutil.copytree(artifact, fresh, dirs_exist_ok=True)
        print("exported", flush=True)
        while hold == "hold":
            time.sleep(1)  # until it is killed
sys.modules["resift_export.convert"] = SimpleNamespace(convert=convert)
from resift.integrations.sentence_transformers.export_cache import ModelSource, find_precision
print(find_precision(ModelSource(name=checkpoint, cache=cache), "int8").folder)
"""
"""A process whose export copies an artifact, and says so before it moves it into place."""


def start(*arguments):
    command = [sys.executable, "-c", COUNTED, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_start_at_once_export_once(checkpoint, artifact, cache):
    processes = [start(checkpoint, artifact, cache, "") for _ in range(4)]
    answers = [children.outputs(process) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    lines = [line for out, _ in answers for line in out.splitlines()]
    assert lines.count("exported") == 1
    assert len(set(lines)) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_export_leaves_no_artifact_and_the_next_one_completes(checkpoint, artifact, cache):
    with start(checkpoint, artifact, cache, "hold") as killed:
        assert killed.stdout.readline() == "exported\n"
        waiting = start(checkpoint, artifact, cache, "")
        killed.kill()
    out, err = children.outputs(waiting)
    assert waiting.returncode == 0, err
    done, folder = out.splitlines()
    assert done == "exported"
    shelf = [path for path in (cache / "assets" / "resift" / "exported" / "model").iterdir() if path.suffix != ".lock"]
    assert [str(path) for path in shelf] == [folder]


HUB = """
import json, shutil, sys
from types import SimpleNamespace
artifact, name, revision, cache = sys.argv[1:]
calls = []
def convert(folder, out, recipe, **more):
    calls.append([folder, more])
    shutil.copytree(artifact, out)
sys.modules["resift_export.convert"] = SimpleNamespace(convert=convert)
from resift.integrations.sentence_transformers.export_cache import ModelSource, find_precision
source = ModelSource(name=name, revision=revision or None, cache=cache or None)
folders = [str(find_precision(source, "int8").folder) for _ in range(2)]
print(json.dumps({"folders": folders, "calls": calls}))
"""


def ask(server, home, artifact, *, revision="", cache="", **more):
    variables = {**os.environ, **environment(server, home), **more}
    command = [sys.executable, "-c", HUB, str(artifact), "org/tiny", revision, str(cache)]
    done = children.run(command, env=variables, capture_output=True, text=True)
    return SimpleNamespace(err=done.stderr, **(json.loads(done.stdout) if done.returncode == 0 else {}))


def test_a_checkpoint_of_the_hub_is_exported_once_a_commit(source, artifact, tmp_path):
    with serving(Path(source)) as server:
        found = ask(server, tmp_path / "home", artifact)
        [[folder, more]] = found.calls
        assert Path(folder).name == COMMITS["main"]
        assert (Path(folder) / "model.safetensors").is_file()
        assert more == {"name": "org/tiny"}
        assert found.folders[0] == found.folders[1]
        assert Path(found.folders[0]).parent == tmp_path / "home" / "assets" / "resift" / "exported" / "org--tiny"
        again = ask(server, tmp_path / "home", artifact, revision="v1")
        assert [Path(folder).name for folder, _ in again.calls] == [COMMITS["v1"]]
        assert again.folders[0] != found.folders[0]
        offline = ask(server, tmp_path / "home", artifact, HF_HUB_OFFLINE="1")
        assert (offline.folders, offline.calls) == (found.folders, [])
        elsewhere = ask(server, tmp_path / "home", artifact, cache=tmp_path / "cache")
        assert Path(elsewhere.calls[0][0]).is_relative_to(tmp_path / "cache")
        assert Path(elsewhere.folders[0]).is_relative_to(tmp_path / "cache")


def test_what_is_cached_of_a_commit_is_loaded_without_its_weights(source, artifact, tmp_path):
    with serving(Path(source)) as server:
        ask(server, tmp_path / "home", artifact)
        shutil.rmtree(tmp_path / "home" / "hub")
        server.asked.clear()
        assert ask(server, tmp_path / "home", artifact).calls == []
        assert [path for path in server.asked if "safetensors" in path] == []


def test_an_artifact_of_the_hub_is_not_exported(artifact, tmp_path):
    with serving(artifact) as server:
        found = ask(server, tmp_path / "home", artifact)
    assert found.calls == []
    assert COMMITS["main"] in found.folders[0]


def test_what_the_hub_does_not_have(artifact, tmp_path):
    with serving(artifact) as server:
        errors = ask(server, tmp_path / "home", artifact, revision="nothing").err
    assert "ArtifactError: org/tiny has no revision 'nothing' on the hub" in errors
