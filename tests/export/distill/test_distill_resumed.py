"""Distillations that are killed or stopped: the same command makes the weights of an unbroken run; other options are refused."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from resift.cli.main import main
from resift.errors import OutputError
from resift.files import lock
from resift_export.distill.distillation import distill
from resift_export.distill.options import Options
from resift_export.distill.recipe import decode_recipe
from resift_export.distill.train import Trainer
from tests.support import tiny
from tests.support.commands import complaint, resift, running
from tests.support.kills import killed

OPTIONS = {"layers": 1, "pairs": 320, "evaluate": 100, "development": 0.2, "max_length": 48, "local": 0.4}
SPLIT = {"split": 1, "layers": 2, "local": 0.0, "lr": 1e-3}
KILLED = """
import torch
from resift_export.distill import state
from resift_export.distill.distillation import distill
from resift_export.distill.options import Options

kill_at("step", torch.optim.AdamW, "step", after=True)
kill_at("written", state, "save_file", after=True)
kill_at("unwritten", state, "save_file", after=False)
kill_at("placed", state.Path, "replace", after=True)
source, out, pools, options = words
distill(source, Path(out), [Path(pools)], Options(**json.loads(options)), threads=1, device="cpu", checkpoint_minutes=0.0)
"""


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    path = tmp_path_factory.mktemp("pools") / "pools.jsonl"
    texts = tiny.texts()
    rows = [{"query": texts[2 * number], "documents": texts[number : number + 12]} for number in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def distilled(source, out, pools, *, should_continue=lambda: True, **more):
    return distill(
        source,
        out,
        [pools],
        Options(**(OPTIONS | more)),
        threads=1,
        device="cpu",
        should_continue=should_continue,
        checkpoint_minutes=0.0,
    )


@pytest.fixture(scope="module")
def unbroken(source, pools, tmp_path_factory):
    """The folder of a student whose training nothing interrupted."""
    out = tmp_path_factory.mktemp("unbroken") / "student"
    assert distilled(source, out, pools).is_finished
    return out


def is_whole(out, unbroken):
    """Asserts that the student equals the unbroken one to the bit, with a recipe that agrees, and that no other file remains."""
    names = {path.name for path in unbroken.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    for name in names - {"recipe.json"}:
        assert (out / name).read_bytes() == (unbroken / name).read_bytes(), name
    resumed, expected = (decode_recipe((folder / "recipe.json").read_bytes()) for folder in (out, unbroken))
    assert resumed.curve == expected.curve
    assert (resumed.pairs, resumed.steps, resumed.position) == (expected.pairs, expected.steps, expected.position)
    assert resumed.runs[0].first_pair == 0
    assert [run.last_pair for run in resumed.runs][:-1] == [run.first_pair for run in resumed.runs][1:]


# A step is 32 pairs: the second kill is in the phase from end to end. The fourth replaced file belongs to the first student.
@pytest.mark.parametrize(
    "kills",
    [
        [("step", 3), ("written", 4)],
        pytest.param([("step", 3), ("step", 4)], marks=pytest.mark.slow),
        pytest.param([("written", 4), ("unwritten", 3)], marks=pytest.mark.slow),
        pytest.param([("placed", 4), ("placed", 40)], marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_it_is_the_same_to_the_bit(kills, source, pools, unbroken, tmp_path):
    out = tmp_path / "student"
    for place, count in kills:
        done = killed(KILLED, (source, out, pools, json.dumps(OPTIONS)), place, count)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert (tmp_path / "student.distill").is_dir()
    assert distilled(source, out, pools).is_finished
    is_whole(out, unbroken)


def test_a_split_student_killed_and_resumed_is_the_same_to_the_bit(source, pools, tmp_path):
    assert distilled(source, tmp_path / "unbroken" / "student", pools, **SPLIT).is_finished
    out = tmp_path / "broken" / "student"
    done = killed(KILLED, (source, out, pools, json.dumps(OPTIONS | SPLIT)), "step", 4)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert distilled(source, out, pools, **SPLIT).runs[-1].first_pair > 0
    is_whole(out, tmp_path / "unbroken" / "student")


def test_stopped_anywhere_it_goes_on(source, pools, unbroken, tmp_path):
    """Each run is stopped a few batches later: while the teacher scores, while figures are measured, and between steps."""
    out = tmp_path / "student"
    for run in range(1, 100):
        budget = iter(range(2 * run))
        recipe = distilled(source, out, pools, should_continue=lambda budget=budget: next(budget, None) is not None)
        if recipe.is_finished and not (tmp_path / "student.distill").exists():
            break
        assert (out / "model.safetensors").is_file()
        assert not decode_recipe((out / "recipe.json").read_bytes()).is_finished or recipe.is_finished
    assert run > 4
    is_whole(out, unbroken)


def test_finished_it_does_nothing_more(source, pools, unbroken, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    monkeypatch.setattr(Trainer, "step", lambda self: pytest.fail("trained on"))
    assert distilled(source, unbroken, pools).pairs == 320
    assert {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()} == before


@pytest.fixture
def begun(source, pools, tmp_path):
    """The folder of a distillation that was stopped after two steps."""
    trained = []
    out = tmp_path / "student"

    def should_continue():
        home = out.with_name("student.distill")
        return not (home / "state.safetensors").exists()

    recipe = distilled(source, out, pools, should_continue=should_continue)
    assert (recipe.pairs, trained) == (32, [])
    return out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lr": 0.1}, "lr 0.0003 instead of 0.1"),
        ({"pairs": 640, "seed": 3}, "pairs 320 instead of 640; seed 0 instead of 3"),
        ({"dtype": "bfloat16"}, "dtype float32 instead of bfloat16"),
    ],
)
@pytest.mark.parametrize("state", ["begun", "finished"])
def test_other_options_are_refused(state, more, message, source, pools, unbroken, request):
    out = request.getfixturevalue("begun") if state == "begun" else unbroken
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match=f"{out} was begun with {message}; use the same choices, or choose another OUT"):
        distilled(source, out, pools, **more)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_other_data_or_another_teacher_is_refused(begun, source, pools, tmp_path):
    other = tmp_path / "pools.jsonl"
    other.write_text(pools.read_text() + pools.read_text())
    with pytest.raises(OutputError, match=r"data pools\.jsonl \([0-9a-f]{12}\) instead of pools\.jsonl \([0-9a-f]{12}\)"):
        distilled(source, begun, other)
    twin = tiny.save_with_other_embeddings(tmp_path / "twin" / Path(source).name, source)
    with pytest.raises(OutputError, match=r"was begun with teacher bert-1 .* instead of bert-1 "):
        distilled(str(twin), begun, pools)


def test_a_damaged_state(begun, source, pools):
    state = begun.with_name("student.distill") / "state.safetensors"
    whole = state.read_bytes()
    for content in (b"", whole[:1000], whole[:-100], b"\0" * 100):
        state.write_bytes(content)
        with pytest.raises(OutputError, match=r"state\.safetensors cannot be read .*; delete .*student\.distill to start anew"):
            distilled(source, begun, pools)


def test_a_lost_state(begun, source, pools):
    (begun.with_name("student.distill") / "state.safetensors").unlink()
    with pytest.raises(OutputError, match="is unfinished, but its state is gone; choose another OUT, or start from it with --from"):
        distilled(source, begun, pools)


def test_two_at_once(begun, source, pools):
    home = begun.with_name("student.distill")
    with lock.hold(home / "lock"), pytest.raises(OutputError, match="another process is writing this OUT"):
        distilled(source, begun, pools)


def test_a_folder_that_no_distillation_wrote(source, pools, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds files but no recipe\.json, so no distillation wrote it"):
        distilled(source, out, pools)
    for content, reason in (
        (b'{"of": "soup"}', ""),
        (b'{"of": "caf\xe9"}', "byte 11 is not UTF-8"),
        (b"[" * 10_000, "nested deeper"),
    ):
        (out / "recipe.json").write_bytes(content)
        with pytest.raises(OutputError, match=rf"recipe\.json cannot be read \(.*{reason}"):
            distilled(source, out, pools)
    with pytest.raises(OutputError, match="is not a folder"):
        distilled(source, out / "thesis.txt", pools)
    assert (out / "thesis.txt").read_text() == "years of work"
    assert {path.name for path in tmp_path.rglob("*")} == {"thesis", "thesis.txt", "recipe.json"}


def test_the_teachers_folder_is_never_written(source, pools):
    before = {path.name: path.read_bytes() for path in Path(source).iterdir()}
    with pytest.raises(OutputError, match="no distillation wrote it"):
        distilled(source, Path(source), pools)
    assert {path.name: path.read_bytes() for path in Path(source).iterdir()} == before


COMMAND = ("--layers", "1", "--dev", "0.2", "--threads", "1", "--device", "cpu", "--max-length", "48")


def test_ctrl_c_saves_and_the_same_command_goes_on(source, pools, tmp_path, interruptible):
    out = tmp_path / "student"
    command = ("distill", source, out, "--data", pools, *COMMAND, "--pairs", "10000000", "--checkpoint-minutes", "1000")
    with running(*command) as process:
        before = b""
        for line in process.stderr:
            before += line
            if line.startswith(b"figures"):
                break
        assert b"figures" in before, before.decode()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read().decode()
        assert process.stdout.read().decode().startswith(f"{out}  "), errors
    assert process.returncode == 130
    assert "resift: stopping once the state is saved" in errors
    assert "Traceback" not in errors
    first = decode_recipe((out / "recipe.json").read_bytes())
    assert not first.is_finished
    done = resift(*command, "--minutes", "0.001")
    assert done.code == 0, done.err
    assert "the same command continues" in done.out
    assert f"resume    after {first.pairs:,} pairs" in done.err
    assert len(decode_recipe((out / "recipe.json").read_bytes()).runs) == 2


@pytest.mark.slow
def test_the_command_says_that_a_fit_cut_short_begins_anew(source, pools, tmp_path):
    done = resift(
        "distill", source, tmp_path / "student", "--data", pools, "--width", "0.5", "--max-length", "64", "--minutes", "0.00001"
    )
    assert done.code == 0, done.err
    assert "0 of 100,000 pairs, the same command starts again: the fit of --width is saved only once it is complete" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--keep", "1,x"], "expected the numbers of layers, such as 1,3,5; found '1,x'", 2),
        (["--keep", "1", "--layers", "1"], "not allowed with argument", 2),
        (["--layers", "2"], "layers is 2, but the teacher has 2; expected 1 to 1", 1),
        (["--pairs", "0"], "argument --pairs: 0 needs --width", 2),
        (["--keep", "1", "--exclude", "missing.jsonl"], "missing.jsonl cannot be read: No such file", 1),
        (["--keep", "1", "--from", "no such folder"], "is neither a folder nor a hub id", 1),
    ],
)
def test_bad_command_lines(arguments, message, code, source, pools, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["distill", source, str(tmp_path / "student"), "--data", str(pools), *arguments]))
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert (out, message in err) == ("", True), err
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = resift("distill", "teacher", tmp_path / "student", "--data", "pools.jsonl", PYTHONPATH=path)
    assert (
        "distilling needs PyTorch and other packages that are not installed (no torch here): pip install 'resift[export]'"
        in complaint(done)
    )
