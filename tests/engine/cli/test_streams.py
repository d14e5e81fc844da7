"""What is printed cannot steer a terminal, and no closed, full or broken stream ends a run with the wrong exit code."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from resift import Reranker
from resift.cli.main import main
from resift.cli.messages import _unseen, _Visible
from resift.cli.streams import MESSAGE_LIMIT, complain, paragraph, shorten
from resift.files.escapes import visible
from tests.support import children
from tests.support.commands import DOCUMENTS, LINES, QUERY, RESIFT, answered, complaint, resift

FULL = Path("/dev/full")

posix = pytest.mark.skipif(os.name != "posix", reason="streams and terminals as POSIX has them")

STEERING = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
ATTACK = "a" + "".join(f"{character}b" for character in STEERING) + "\x1b]0;title\x07\x1b[2J\x1b[31mred"


def assert_harmless(text):
    assert set(text) & set(STEERING) <= {"\n"}


@pytest.mark.parametrize("character", [*STEERING, "\u2028", "\u2029", "\ud800"], ids=lambda character: f"{ord(character):04x}")
def test_a_steering_character_becomes_its_escape(character):
    shown = visible(f"a{character}b")
    assert shown.isprintable()
    assert shown.isascii()
    assert shown[1:-1].encode().decode("unicode_escape") == character


def test_a_record_is_shown_again_only_if_its_library_has_not(tmp_path):
    kinds = {"streams": logging.StreamHandler(), "files": logging.FileHandler(tmp_path / "log"), "silent": logging.NullHandler()}
    for name, handler in kinds.items():
        logging.getLogger(f"a_library_that.{name}").addHandler(handler)
    names = ["a_library_that.streams", "a_library_that.streams.within", "a_library_that.files", "a_library_that.silent", "another"]
    shown = [name for name in names if _unseen(logging.makeLogRecord({"name": name}))]
    assert shown == ["a_library_that.files", "a_library_that.silent", "another"]


@pytest.mark.parametrize("text", ["plain", "é 潮 🌊 🏳️\u200d🌈", "שלום \u200f", "a\\x1b", ""])
def test_text_without_them_stays(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        ("abcde", 5, "abcde"),
        ("abcdef", 5, "abcd…"),
        ("潮潮潮", 6, "潮潮潮"),
        ("潮潮潮", 5, "潮潮…"),
        ("潮潮潮", 4, "潮…"),
        ("\uff41\uff42\uff43", 5, "\uff41\uff42…"),
        ("🌊🌊🌊", 5, "🌊🌊…"),
        ("e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"),
        ("e\u0301e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301…"),
        ("潮", 1, "…"),
        ("", 1, ""),
    ],
)
def test_text_is_cut_by_the_columns_it_takes(text, room, shown):
    assert shorten(text, room) == shown


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["table", "json"])
def test_a_document_cannot_steer_the_terminal(artifact, as_json):
    given = json.dumps({"text": ATTACK}).encode()
    out = answered(resift("rerank", QUERY, "--model", artifact, *as_json, given=given))
    assert_harmless(out)
    if as_json:
        assert json.loads(out)["results"][0]["document"] == ATTACK
    else:
        assert "\\x1b]0;title\\x07\\x1b[2J\\x1b[31mred\n" in out


def test_a_query_cannot_steer_the_terminal(artifact):
    out = answered(resift("rerank", ATTACK.replace("\0", ""), "--model", artifact, "--json", given=LINES))
    assert_harmless(out)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["lines", "json"])
def test_a_manifest_cannot_steer_the_terminal_or_forge_a_line(copy, as_json):
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["model"]["id"] = f"good\nforged: {ATTACK}"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    out = answered(resift("info", copy, *as_json))
    assert_harmless(out)
    assert "\nforged" not in out
    if as_json:
        assert json.loads(out)["model"]["id"] == f"good\nforged: {ATTACK}"


@posix
@pytest.mark.parametrize("command", [["rerank", QUERY], ["info"], ["rerank", QUERY, "f", "--colour"], ["rerank", QUERY, "--top-k"]])
def test_a_name_in_an_error_cannot_steer_the_terminal(command):
    name = ATTACK.replace("\0", "")
    done = resift(*command, name)
    assert done.code == (1 if len(command) < 3 else 2)
    assert done.out == ""
    assert_harmless(done.err)


def test_a_log_line_of_an_export_cannot_steer_the_terminal():
    record = logging.LogRecord("x", logging.INFO, "", 0, "trace %s\nnext", (ATTACK,), None)
    shown = _Visible("%(message)s").format(record)
    assert_harmless(shown)
    assert shown.endswith("\nnext")


def test_a_log_line_of_an_export_fits_the_terminal_and_is_one_line_elsewhere(monkeypatch):
    text = "          model.int8.onnx: " + ", ".join(["top-10 overlap 0.9900"] * 5)
    record = logging.LogRecord("x", logging.INFO, "", 0, text, (), None)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    assert _Visible("%(message)s").format(record) == text
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    lines = _Visible("%(message)s").format(record).split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("          model.int8.onnx: top-10")
    assert [line[:13].strip() == "" for line in lines[1:]] == [False] * (len(lines) - 1)
    assert " ".join(lines).split() == text.split()


def test_a_long_message_keeps_its_beginning_and_its_end(capsys):
    complain(f"found {'x' * 10**6}; expected less")
    said = capsys.readouterr().err
    assert said.startswith("resift: found x")
    assert said.endswith("x; expected less\n")
    assert len(said) < MESSAGE_LIMIT + 20


@posix
@pytest.mark.parametrize("name", [b"\xff", b"\xff\x1b[2J"], ids=["not UTF-8", "steering"])
def test_a_name_that_is_not_utf_8_is_shown(artifact, tmp_path, name):
    copy = os.fsencode(shutil.copytree(artifact, tmp_path / os.fsdecode(name)))
    for command in (["info", copy], ["info", copy, "--json"], ["verify", copy, "--accept-bounds", "--json"]):
        done = children.run([RESIFT, *command], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert_harmless(done.stdout.decode())
        assert rb"\xff" in done.stdout
    done = children.run([RESIFT, "rerank", QUERY, copy + b".gz"], capture_output=True)
    assert done.returncode == 1
    assert rb"\udcff" in done.stderr
    assert_harmless(done.stderr.decode())


def without(*numbers):
    """A command that runs the arguments behind it with these descriptors closed."""
    return ["sh", "-c", f'exec "$0" "$@" {" ".join(f"{number}>&-" for number in numbers)}']


def gone():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


CASES = {
    "done": (["rerank", QUERY, "FILE", "--model", "ARTIFACT", "--json"], 0),
    "fault": (["rerank", QUERY, "none", "--model", "ARTIFACT"], 1),
    "usage": (["rerank", QUERY, "--colour"], 2),
    "check": (["verify", "DISAGREEING"], 3),
    "help": (["--help"], 0),
}


@posix
@pytest.mark.parametrize("lost", ["closed", "broken"])
@pytest.mark.parametrize(("arguments", "code"), CASES.values(), ids=CASES.keys())
def test_the_exit_code_stays_where_standard_error_is_lost(artifact, disagreeing, file, lost, arguments, code):
    places = {"FILE": file(LINES), "ARTIFACT": artifact, "DISAGREEING": disagreeing}
    command = [RESIFT, *(str(places.get(argument, argument)) for argument in arguments)]
    writer = gone() if lost == "broken" else None
    command = command if lost == "broken" else [*without(2), *command]
    done = children.run(command, stdout=subprocess.PIPE, stderr=writer)
    assert done.returncode == code
    assert bool(done.stdout) == (code in (0, 3))


@posix
def test_the_exit_code_of_a_check_stays_where_the_reader_of_its_table_is_gone(disagreeing):
    done = children.run([RESIFT, "verify", disagreeing], stdout=gone(), stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert b"does not rank like its checkpoint" in done.stderr


@posix
@pytest.mark.parametrize(
    "command", [["rerank", QUERY, "FILE", "--model"], ["rerank", QUERY, "FILE", "--json", "--model"], ["info"]]
)
def test_a_closed_standard_output_is_a_fault_that_is_named(artifact, file, command):
    command = [str(file(LINES)) if argument == "FILE" else argument for argument in command]
    done = children.run([*without(1), RESIFT, *command, artifact], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("resift: standard output is closed; redirect ")
    assert done.stderr.count("\n") == 1


@posix
def test_all_streams_closed_still_ranks_a_collection(artifact, file, tmp_path):
    pools = file(json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode(), "pools.jsonl")
    command = ["rerank", "--pools", pools, "--out", tmp_path / "out.jsonl", "--model", artifact]
    done = children.run([*without(1, 2, 0), RESIFT, *command])
    assert done.returncode == 0
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 1


@posix
@pytest.mark.parametrize("arguments", [["QUERY"], ["--pools", "-", "--out", "OUT"]], ids=["documents", "pools"])
def test_a_closed_standard_input_is_a_fault_that_is_named(artifact, tmp_path, arguments):
    places = {"QUERY": QUERY, "OUT": tmp_path / "out.jsonl"}
    command = ["sh", "-c", 'exec "$0" "$@" <&-', RESIFT, "rerank", *(places.get(item, item) for item in arguments)]
    done = children.run([*command, "--model", artifact], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("resift: ")
    assert done.stderr.count("\n") == 1


INTERRUPTED = """
import io, sys
from resift.cli.main import main

class Interrupted(io.FileIO):
    interrupted = False
    def write(self, content):
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return super().write(content)

sys.stdout = io.TextIOWrapper(io.BufferedWriter(Interrupted(1, "wb", closefd=False)))
sys.exit(main())
"""


@posix
def test_what_an_interrupt_left_unwritten_is_dropped(artifact):
    command = [sys.executable, "-c", INTERRUPTED, "info", artifact]
    done = children.run(command, stdout=gone(), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, b"resift: interrupted\n")


CHATTY = "import sys, resift.cli.meter as meter; meter.LINE_SECONDS = 0; from resift.cli.main import main; sys.exit(main())"


@posix
@pytest.mark.parametrize("lost", ["closed", "broken"])
def test_progress_does_not_end_a_job(artifact, file, tmp_path, lost):
    pools = file(b"".join(json.dumps({"query": QUERY, "documents": [text]}).encode() + b"\n" for text in DOCUMENTS), "pools.jsonl")
    arguments = ["rerank", "--pools", pools, "--out", tmp_path / "out.jsonl", "--model", artifact]
    command = [sys.executable, "-c", CHATTY, *map(str, arguments)]
    writer = gone() if lost == "broken" else None
    done = children.run(command if lost == "broken" else [*without(2), *command], stderr=writer)
    assert done.returncode == 0
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == len(DOCUMENTS)
    (tmp_path / "out.jsonl").unlink()
    said = children.run(command, capture_output=True, check=True, text=True).stderr
    assert said.splitlines()[-1].startswith(f"resift: {len(DOCUMENTS)} pools, {len(DOCUMENTS)} pairs, ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/models/a"), "cannot open, read or write '/models/a': Permission denied"),
        (OSError(18, "Invalid link", "/a", None, "/b"), "cannot open, read or write '/a' or '/b': Invalid link"),
        (OSError("odd"), "cannot open, read or write a file: odd"),
        (BrokenPipeError(32, "Broken pipe"), "cannot open, read or write a file: Broken pipe"),
        (MemoryError(), "out of memory; pass fewer or shorter documents at once, or provide more memory"),
    ],
)
def test_a_fault_of_the_system_is_not_taken_for_one_of_the_output(monkeypatch, capsys, error, said):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(Reranker, "load", load)
    assert main(["info"]) == 1
    assert capsys.readouterr() == ("", f"resift: {said}\n")


def test_a_name_too_long_for_the_system_is_named():
    found = complaint(resift("rerank", QUERY, "x" * 300))
    assert f"{'x' * 300} cannot be read: File name too long" in found


@pytest.mark.skipif(not FULL.exists(), reason=f"this system has no {FULL}")
@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["rerank", QUERY, "--json", "--model"], ["info"], ["verify"]])
def test_a_full_output_is_named(artifact, command):
    with FULL.open("wb") as full:
        done = children.run([RESIFT, *command, artifact], input=LINES, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"resift: cannot write to standard output: No space left on device\n"


def test_a_paragraph_fits_the_terminal_and_is_one_line_elsewhere(monkeypatch):
    text = "half of the pools have 8 candidates or fewer: " * 4
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert paragraph(text, "  ") == [f"  {text}"]
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    for columns, width in (("80", 80), ("50", 50), ("1", 40)):
        monkeypatch.setenv("COLUMNS", columns)
        lines = paragraph(text, "  ")
        assert max(map(len, lines)) <= width
        assert " ".join(lines).split() == text.split()
        assert [line[:4].strip() != "" for line in lines] == [True, *[False] * (len(lines) - 1)]
