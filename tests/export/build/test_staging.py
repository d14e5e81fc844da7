"""staging: which folders may be replaced; after an interruption at any moment, the user sees one complete artifact."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from resift.errors import ExportError, OutputError
from resift_export.build.staging import staged
from resift_export.distill.state import Workspace
from tests.support import children

pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks and signals of Unix")


def fill(folder, text, version=2):
    """Writes those files of an artifact that these tests need."""
    (folder / "a.onnx").write_text(text)
    (folder / "manifest.json").write_text(json.dumps({"format": version, "files": {"a.onnx": {}, "README.md": {}}}))


def put(out, text, *, overwrite=False, sources=(), meanwhile=lambda: None):
    with staged(out, overwrite=overwrite, sources=sources) as (folder, _):
        fill(folder, text)
        meanwhile()


def text_of(out):
    return (out / "a.onnx").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(home):
    """An artifact that already exists."""
    put(home / "out", "old")
    return home / "out"


def test_a_new_folder_takes_its_place_when_it_is_whole(home):
    with staged(home / "deeper" / "out", overwrite=False) as (folder, _):
        assert not (home / "deeper" / "out").exists()
        fill(folder, "new")
    assert names(home / "deeper") == ["out"]
    assert text_of(home / "deeper" / "out") == "new"


@pytest.mark.parametrize("version", [1, 2, 99])
def test_an_artifact_of_any_format_is_replaced(home, out, version):
    fill(out, "old", version)
    with pytest.raises(ExportError, match="already exists; choose another folder, or use --overwrite"):
        put(out, "new")
    put(out, "new", overwrite=True)
    assert names(home) == ["out"]
    assert text_of(out) == "new"


def git(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("mine")


def named_folder(folder):
    """A manifest that names a folder, which is not a file of an artifact."""
    (folder / "src").mkdir()
    (folder / "manifest.json").write_text('{"format": 2, "files": {"src": {}, "a.onnx": {}}}')


MINE = {
    "a file": (lambda folder: (folder / "thesis.txt").write_text("mine"), "does not name thesis.txt"),
    "a hidden file": (lambda folder: (folder / ".env").write_text("mine"), "does not name .env"),
    "a repository": (git, "does not name .git"),
    "a folder that is named": (named_folder, "does not name src"),
    "a web page's manifest": (lambda folder: (folder / "manifest.json").write_text('{"name": "site"}'), "has no manifest.json"),
    "a build's manifest": (
        lambda folder: (folder / "manifest.json").write_text('{"files": {"a.onnx": 1}}'),
        "has no manifest.json",
    ),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "has no manifest.json"),
    "a deep one": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "has no manifest.json"),
    "no JSON": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff"), "has no manifest.json"),
    "none": (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
}


@pytest.mark.parametrize(("change", "message"), MINE.values(), ids=MINE)
def test_a_folder_that_holds_anything_else_is_not_replaced(home, out, change, message):
    change(out)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with pytest.raises(ExportError, match=f"already exists and is not a plain artifact: .*{message}; move it away"):
        put(out, "new", overwrite=True)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    assert names(home) == ["out"]


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
def test_what_no_folder_can_be_called_is_refused(name):
    with pytest.raises(ExportError, match="not a folder name"), staged(Path(name), overwrite=False):
        pass
    with pytest.raises(OutputError, match="not a folder name"):
        Workspace(Path(name))


def test_what_is_put_into_the_folder_meanwhile_is_kept(home, out):
    with pytest.raises(ExportError, match=r"does not name notes\.txt"):
        put(out, "new", overwrite=True, meanwhile=lambda: (out / "notes.txt").write_text("mine"))
    assert (text_of(out), (out / "notes.txt").read_text()) == ("old", "mine")
    assert names(home) == ["out"]


def test_a_place_that_is_taken_meanwhile_is_kept(home):
    with pytest.raises(ExportError, match="already exists; choose"):
        put(home / "out", "new", meanwhile=(home / "out").mkdir)
    assert names(home) == ["out"]
    assert names(home / "out") == []


def test_a_folder_of_the_name_that_is_needed_is_kept(home, out):
    (home / "out.replaced").mkdir()
    with pytest.raises(
        ExportError, match=r"out\.replaced already exists, but .*out must be kept there while it is replaced; move it away first"
    ):
        put(out, "new", overwrite=True)
    put(home / "other", "new")
    assert names(home) == ["other", "out", "out.replaced"]
    (home / ".out.export").mkdir()
    (home / ".out.export" / "mine").write_text("mine")
    with pytest.raises(ExportError, match=r"\.out\.export contains mine, which no export put there"):
        put(out, "new", overwrite=True)


@pytest.mark.parametrize("where", ["itself", "inside", "around", "through a link"])
def test_the_checkpoint_is_not_written_into_or_over(home, where):
    checkpoint = home / "models" / "checkpoint"
    checkpoint.mkdir(parents=True)
    fill(checkpoint, "weights")
    (home / "link").symlink_to(home / "models")
    places = {"itself": checkpoint, "inside": checkpoint / "deep" / "out", "around": home / "models"}
    out = places.get(where, home / "link" / "checkpoint")
    with pytest.raises(ExportError, match=r"is, contains or is inside the checkpoint .*; choose a folder outside it"):
        put(out, "new", overwrite=True, sources=[checkpoint])
    assert names(checkpoint) == ["a.onnx", "manifest.json"]
    assert names(checkpoint.parent) == ["checkpoint"]
    put(home / "models" / "out", "new", sources=[checkpoint])


@pytest.mark.parametrize("out", [".", "..", "/", "/dev"])
def test_the_current_folder_and_roots_are_not_replaced(home, monkeypatch, out):
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")
    fill(home / "here", "mine")
    fill(home, "mine")
    with pytest.raises(ExportError, match="it is or contains the current folder, or is a mount point"):
        put(Path(out), "new", overwrite=True)
    assert names(home) == ["a.onnx", "here", "manifest.json"]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda out: out.write_text("mine"), id="file"),
        pytest.param(lambda out: os.mkfifo(out, 0o600), id="pipe"),
        pytest.param(lambda out: out.symlink_to("/dev/null"), id="device"),
        pytest.param(lambda out: out.symlink_to(out), id="loop of links"),
    ],
)
def test_what_is_no_folder_is_not_replaced(home, make):
    out = home / "out"
    make(out)
    with pytest.raises(ExportError, match="already exists and is not a folder"):
        put(out, "new", overwrite=True)
    assert names(home) == ["out"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(home, out):
    (home / "link").symlink_to(out)
    put(home / "link", "new", overwrite=True)
    assert (home / "link").is_symlink()
    assert text_of(out) == "new"
    (home / "ahead").symlink_to(home / "later")
    put(home / "ahead", "new")
    assert names(home) == ["ahead", "later", "link", "out"]


@pytest.mark.parametrize("name", ["n" * 250, "n" * 300, "a/" + "n" * 300])
def test_a_name_that_is_too_long_is_one_clear_error(home, name):
    with pytest.raises(ExportError, match=r"cannot write next to .*: File name too long"):
        put(home / name, "new")


def test_two_exports_to_one_place_do_not_meet(home, out):
    with staged(out, overwrite=True) as (folder, _):
        fill(folder, "first")
        with pytest.raises(ExportError, match=r"another process is writing this OUT .*out\.export.*wait for it"):
            put(out, "second", overwrite=True)
        put(home / "other", "second")
        assert names(folder) == ["a.onnx", "manifest.json"]
    assert (text_of(out), names(home)) == ("first", ["other", "out"])


# Runs an export repeatedly, each time in a new process that ends itself at the first, second, ... change to the file system.
STEPS = """
import json, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[3])
from tests.export.build.test_staging import fill
from resift_export.build.staging import staged
from resift_export.distill.state import Workspace
home, how = pathlib.Path(sys.argv[1]), sys.argv[2]
EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "open"}
step = 0
while True:
    step += 1
    place = home / str(step)
    place.mkdir()
    with staged(place / "out", overwrite=False) as (folder, _):
        fill(folder, "old")
    child = os.fork()
    if not child:
        remaining = step
        def count(event, arguments):
            global remaining
            if event in EVENTS:
                remaining -= 1
                if remaining == 0:
                    if how == "SIGKILL":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise KeyboardInterrupt
        sys.addaudithook(count)
        try:
            with staged(place / "out", overwrite=True) as (folder, _):
                fill(folder, "new")
        except KeyboardInterrupt:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(step)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "KeyboardInterrupt"])
def test_an_interruption_at_any_step_leaves_one_whole_artifact_in_sight(home, how):
    command = [sys.executable, "-c", STEPS, str(home), how, str(Path(__file__).parents[3])]
    done = children.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8
    outcomes = set()
    for place in home.iterdir():
        artifacts = {name: text_of(place / name) for name in ("out", "out.replaced") if (place / name).exists()}
        outcomes.add(tuple(sorted(artifacts.items())))
        for name in artifacts:
            assert names(place / name) == ["a.onnx", "manifest.json"]
        put(place / "out", "newer", overwrite=True)
        assert (names(place), text_of(place / "out")) == (["out"], "newer")
    replacing = {(("out.replaced", "old"),), (("out", "new"), ("out.replaced", "old"))}
    assert outcomes >= {(("out", "old"),), (("out", "new"),)}
    # An interrupt during cleanup itself may leave the old artifact next to the new one, but never OUT without an artifact.
    assert outcomes & replacing == (replacing if how == "SIGKILL" else {(("out", "new"), ("out.replaced", "old"))})
    assert outcomes <= {(("out", "old"),), (("out", "new"),)} | replacing


def test_after_a_kill_an_export_that_may_not_overwrite_puts_the_old_one_back(home, out):
    (home / ".out.export" / "new").mkdir(parents=True)
    (home / ".out.export" / "replacing").touch()
    shutil.move(out, home / "out.replaced")
    with pytest.raises(ExportError, match="already exists; choose another folder, or use --overwrite"):
        put(out, "new")
    assert (names(home), text_of(out)) == (["out"], "old")
