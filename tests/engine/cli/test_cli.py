"""What all commands share: faults in one line, help, streams, signals and terminals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from resift.cli.main import parser
from resift.runtime import providers
from tests.support import children
from tests.support.commands import LINES, QUERY, RESIFT, answered, complaint, resift, running, without_progress

posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and terminals as POSIX has them")


@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["verify"], ["info"]], ids=lambda command: command[0])
def test_a_missing_artifact_is_named(tmp_path, command):
    assert f"no artifact '{tmp_path / 'none'}'" in complaint(resift(*command, tmp_path / "none", given=LINES))


@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["verify"], ["info"]], ids=lambda command: command[0])
def test_a_damaged_artifact_is_refused(copy, command):
    graph = copy / "model.int8.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    found = complaint(resift(*command, copy, given=LINES))
    assert f"{graph} has SHA-256 " in found
    assert "damaged" in found


def test_a_cut_off_artifact_is_refused(copy):
    graph = copy / "model.int8.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert "the copy is incomplete" in complaint(resift("rerank", QUERY, "--model", copy, given=LINES))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-length", "100000", "max_length is 100000 tokens, but this model takes at most"),
        ("--max-length", "4", "expected at least"),
    ],
)
def test_a_value_that_the_model_cannot_have_is_named(artifact, option, value, said):
    assert said in complaint(resift("rerank", QUERY, "--model", artifact, option, value, given=LINES))


@pytest.mark.skipif("CUDAExecutionProvider" in providers.available(), reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["verify"], ["info"]], ids=lambda command: command[0])
def test_cuda_where_there_is_none_is_refused(artifact, command):
    found = complaint(resift(*command, artifact, "--provider", "cuda", given=LINES))
    assert "no CUDAExecutionProvider" in found
    assert "install onnxruntime-gpu" in found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rerank"], "expected either QUERY or --pools POOLS"),
        (["rerank", QUERY, "--colour"], "unrecognized arguments: --colour"),
        (
            ["rerank", QUERY, "--top-k", "many"],
            "argument --top-k: expected a whole number of 1 or more; found 'many'",
        ),
        (["rerank", QUERY, "--provider", "tpu"], "argument --provider: invalid choice: 'tpu'"),
        (["sort"], "invalid choice: 'sort'"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_command_line_shows_its_usage(arguments, said):
    done = resift(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: resift")
    last = done.err.splitlines()[-1]
    assert last.startswith("resift")
    assert said in last
    assert "Traceback" not in done.err


def test_version():
    assert answered(resift("--version")) == f"resift {version('resift')}\n"


COMMANDS = ("rerank", "eval", "doctor", "tune", "export", "verify", "info")
"""Those with options of the engine; `resift sample` has tests of its own."""


def assert_ends_with_exit_codes(out):
    said = " ".join(out.rpartition("\n\n")[2].split())
    assert said.startswith("exit codes: ")
    assert [part.split()[0] for part in said.removeprefix("exit codes: ").split("; ")] == ["0", "1", "2", "3", "130"]


def test_help_lists_the_commands_and_the_exit_codes():
    out = answered(resift("--help"))
    for command in COMMANDS:
        assert f"\n    {command} " in out
        assert f"\n  resift {command} " in out
    assert_ends_with_exit_codes(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_own_help_gives_examples_and_the_exit_codes(command):
    out = answered(resift(command, "--help"))
    begin = out.index("\nexamples:\n")
    examples = [line for line in out[begin:].splitlines() if line.startswith("  ")]
    assert len(examples) >= 2
    assert all(f"resift {command}" in line for line in examples)
    assert_ends_with_exit_codes(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_commands_help_are_commands(command, capsys):
    out = answered(resift(command, "--help"))
    examples = [
        line.partition(f"resift {command}")[2] for line in out.splitlines() if line.startswith("  ") and f"resift {command}" in line
    ]
    for example in examples:
        assert parser().parse_args([command, *shlex.split(example)]).run


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_describes_its_options(command):
    out = answered(resift(command, "--help"))
    assert out.startswith(f"usage: resift {command} ")
    assert ("--precision" in out, "--json" in out) == (True, command != "export")


@pytest.mark.parametrize("read", ["nothing", "one line"])
@posix
def test_a_reader_that_leaves_early_is_no_fault(artifact, read):
    long = [f"{number} {'water ' * 2000}" for number in range(60)]
    with running("rerank", QUERY, "--model", artifact) as process:
        if read == "nothing":
            process.stdout.close()
        process.stdin.write("\n".join(long).encode())
        process.stdin.close()
        if read == "one line":
            assert process.stdout.readline() == b"rank     score   line  document\n"
            process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.usefixtures("interruptible")
@posix
def test_an_interrupt_while_it_reads_ends_it_with_130():
    with running("rerank", QUERY) as process:
        # More than a pipe holds: once it is written, the command is reading.
        process.stdin.write(LINES * 10_000)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        # Waited for before its standard input is closed, which would end the reading as well.
        assert process.wait() == 130
        assert (process.stderr.read(), process.stdout.read()) == (b"resift: interrupted\n", b"")


TELLING = """
import os, sys
from resift.cli.main import main
from resift.runtime.session import Session
run = Session.run
def telling(self, batch):
    os.write({descriptor}, b".")
    return run(self, batch)
Session.run = telling
sys.exit(main())
"""
"""The command line, which tells of every batch that begins."""


@pytest.mark.usefixtures("interruptible")
@posix
def test_an_interrupt_while_it_ranks_ends_it_with_130(artifact, file):
    documents = file("".join(f"{number} {'the water of the sea ' * 30}\n" for number in range(20_000)).encode())
    reading, writing = os.pipe()
    command = [sys.executable, "-c", TELLING.format(descriptor=writing), "rerank", QUERY, documents, "--model", artifact]
    with (
        os.fdopen(reading, "rb") as batches,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[writing]) as process,
    ):
        os.close(writing)
        assert batches.read(1) == b"."
        process.send_signal(signal.SIGINT)
        out, err = children.outputs(process)
        assert (process.returncode, out, without_progress(err)) == (130, b"", b"resift: interrupted\n")
        assert len(batches.read()) < 20_000


@posix
def test_a_terminal_without_documents_is_told_what_to_do(artifact):
    terminal, end = os.openpty()
    try:
        done = children.run([RESIFT, "rerank", QUERY, "--model", artifact], stdin=end, capture_output=True, text=True)
    finally:
        os.close(terminal)
        os.close(end)
    found = complaint(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))
    assert "no documents: name a FILE, or pipe documents in" in found


def test_a_document_that_the_output_cannot_encode_is_no_traceback(artifact):
    done = resift("rerank", QUERY, "--model", artifact, given="é 🌊\n".encode(), PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.err


@posix
@pytest.mark.parametrize("json_asked", [[], ["--json"]], ids=["table", "json"])
def test_a_query_that_is_not_utf_8_is_a_wrong_command_line(artifact, json_asked):
    command = [RESIFT, "rerank", b"\xff tides", "--model", artifact, *json_asked]
    done = children.run(command, input=LINES, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.endswith(b"resift rerank: error: argument QUERY: expected text in UTF-8; found '\\udcff tides'\n")
