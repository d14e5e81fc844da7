"""A value that an option cannot have is a wrong command line: exit code 2, and one line that names the option as it was typed."""

from __future__ import annotations

import argparse
import os

import pytest

from resift.cli import values
from resift.cli.main import main, parser
from tests.support import children
from tests.support.commands import DOCUMENTS, LINES, QUERY, RESIFT, resift

HUGE = str(2**63)
BAD = ("", "0", "-1", "abc", "nan", "inf", HUGE)
REQUIRED = {
    "rerank": ["q"],
    "eval": ["d"],
    "doctor": ["p"],
    "tune": ["p"],
    "calibrate": ["a", "p"],
    "export": ["c", "o"],
    "distill": ["t", "o", "--data", "d"],
    "train": ["c", "o", "--data", "d"],
    "questions": ["c", "--out", "o"],
    "mine": ["d", "--out", "o"],
    "prepare": ["d"],
}
NUMBERS = ("N", "MS", "SHARE", "RATE")
SERVED_NUMBERS = ("--threads", "--max-length", "--windows", "--max-batch-tokens")
SERVED_CHOICES = ("--provider", "--precision", "--log-level")
SUITABLE = {
    ("distill", "--pairs"): {"0"},
    ("calibrate", "--seed"): {"0"},
    ("distill", "--seed"): {"0", "-1"},
    ("mine", "--seed"): {"0"},
    ("questions", "--seed"): {"0"},
    ("questions", "--round-trip"): {"0"},
    ("distill", "--local"): {"0"},
    ("distill", "--decay"): {"0"},
    ("distill", "--keep"): {"0", HUGE},
    ("distill", "--lr"): {HUGE},
    ("distill", "--minutes"): {HUGE},
    ("distill", "--checkpoint-minutes"): {HUGE},
    ("train", "--seed"): {"0", "-1"},
    ("train", "--warmup"): {"0"},
    ("train", "--general-share"): {"0"},
    ("train", "--lr"): {HUGE},
    ("train", "--minutes"): {HUGE},
    ("rerank", "--budget-ms"): {HUGE},
    ("tune", "--budget-ms"): {HUGE},
    ("serve", "--port"): {"0"},
}
"""The values of BAD that an option can have."""
PLANS = {"0", "abc", "nan", "inf", HUGE}
"""A graph may have any of these names."""


def options():
    """(command, option, the values of BAD that it can have) of every option of every command with values that are no texts."""
    [commands] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for command, its_parser in commands.choices.items():
        for action in its_parser._actions:
            option = action.option_strings[-1] if action.option_strings else ""
            if option and action.type in (values.file_name, values.path) and action.nargs != 2:  # which takes no = either
                yield pytest.param(command, option, {*BAD} - {""}, id=f"{command} {option}")
            is_limited = action.choices or action.metavar in (*NUMBERS, "PLAN", "I,J,K")
            if option and (is_limited or (command == "serve" and option in (*SERVED_NUMBERS, *SERVED_CHOICES))):
                suitable = PLANS if option == "--plan" else SUITABLE.get((command, option), set())
                yield pytest.param(command, option, suitable, id=f"{command} {option}")


def refusal(capsys, *arguments):
    """The error line of a wrong command line."""
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("usage: resift ")
    said = err.splitlines()[-1]
    assert said.startswith(f"resift {arguments[0]}: error: argument ")
    for word in ("None", "Settings", "Stage", "="):
        assert word not in said.partition("found")[0]
    return said


@pytest.mark.parametrize(("command", "option", "suitable"), [*options()])
def test_every_option_refuses_what_it_cannot_be(capsys, command, option, suitable):
    for value in BAD:
        arguments = [command, *REQUIRED.get(command, []), f"{option}={value}"]
        if value in suitable:
            assert parser().parse_args(arguments)
        else:
            assert option in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rerank", "q", "--top-k", "0"], "argument --top-k: expected a whole number of 1 or more; found '0'"),
        (["rerank", "q", "--top-k", "9" * 19], "argument --top-k: expected a whole number from 1 to 9223372036854775807; found '9"),
        (["rerank", "q", "--threads", "1025"], "argument --threads: expected a whole number from 1 to 1024; found '1025'"),
        (["rerank", "q", "--budget-ms", "1e999"], "argument --budget-ms: expected a number above 0; found '1e999'"),
        (["rerank", "q", "--plan", "full:3"], "argument --plan: the plan 'full:3' cannot be used: a plan's last stage keeps 3"),
        (["rerank", "\udcff"], r"argument QUERY: expected text in UTF-8; found '\udcff'"),
        (["tune", "p", "--candidates", "5", "x"], "argument --candidates: expected a whole number"),
        (["distill", "t", "o", "--data", "d", "--keep", "3,1"], "argument --keep: expected rising numbers of layers, from 0"),
        (["distill", "t", "o", "--data", "d", "--pairs", "0"], "argument --pairs: 0 needs --width"),
        (["export", "c", "o", "--name", "\udcff"], r"argument --name: expected text in UTF-8; found '\udcff'"),
        (["export", "c", "o", "--relevant-label", "\udcff"], "argument --relevant-label: expected text in UTF-8"),
    ],
)
def test_what_was_expected_and_found_is_told(capsys, arguments, said):
    assert said in refusal(capsys, *arguments)


@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", ""], "--precision is ''; expected one or more of int8, float16, float32"),
        (["--precision", "int8,x"], "--precision is 'x'"),
        (["--search", "2"], "--search allows 2 evaluations; expected 3 or more"),
        (["--precision", "float32", "--vnni"], "--vnni needs the int8 precision"),
        (["--precision", "float32", "--search", "3"], "--search needs the int8 precision"),
        (["--packed"], "--packed needs the float16 precision; add float16 to --precision, or leave out --packed"),
    ],
)
def test_options_of_an_export_that_contradict_each_other(options, said):
    done = resift("export", "checkpoint", "out", *options)
    assert (done.code, done.out) == (2, "")
    assert f"resift export: error: {said}" in done.err.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="arguments as POSIX has them")
@pytest.mark.parametrize("query", ["wie hoch ist die Flut", "潮の満ち引き é"])
def test_a_query_in_utf_8_is_read_in_any_locale(artifact, tmp_path, query):
    (tmp_path / "flüsse.txt").write_bytes(LINES)
    found = []
    for environment in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        command = [RESIFT, "rerank", query, tmp_path / "flüsse.txt", "--model", artifact, "--json"]
        done = children.run(command, capture_output=True, env={**os.environ, **environment})
        assert (done.returncode, done.stderr) == (0, b"")
        found.append(done.stdout.decode())
    assert found[0] == found[1]
    assert query in found[0]


@pytest.mark.skipif(os.name != "posix", reason="streams as POSIX has them")
def test_documents_in_utf_8_are_read_from_standard_input_in_any_locale(artifact):
    documents = [f"é 潮 {document}" for document in DOCUMENTS]
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = resift("rerank", QUERY, "-", "--model", artifact, "--json", given="\n".join(documents).encode(), **environment)
    assert done.code == 0
    assert all(document in done.out for document in documents)
