"""`Settings.read` and `--settings FILE`."""

from __future__ import annotations

import json
import os

import pytest

from resift import InputError, Settings
from tests.support.commands import LINES, QUERY, answered, complaint, resift

FULL = b"""[settings]
provider = "cpu"
threads = 2
token_budget = 64
max_length = 32
precision = "float32"

[retrieval]
candidates = 30

[measured]
machine = "any"
"""


@pytest.fixture
def toml(file):
    return lambda content: file(content, "settings.toml")


def test_all_fields_are_read_and_further_tables_are_not(toml):
    assert Settings.read(toml(FULL)) == Settings(provider="cpu", threads=2, token_budget=64, max_length=32, precision="float32")


def test_a_template_and_a_scale_are_read(toml):
    found = Settings.read(toml(b'[settings]\nscores = "sigmoid"\ndocument_template = "{title}\\n{text}"\n'))
    assert found == Settings(scores="sigmoid", document_template="{title}\n{text}")
    assert Settings.read(toml(b"[settings]\ndocument_template = '''\n{title}\n{text}'''")).document_template == "{title}\n{text}"


def test_what_a_file_leaves_out_stays_auto(toml):
    assert Settings.read(toml(b"[settings]\nthreads = 3")) == Settings(threads=3)
    assert Settings.read(toml(b"[settings]")) == Settings()


def test_a_byte_order_mark_and_windows_line_ends_are_read(toml):
    assert Settings.read(toml(b"\xef\xbb\xbf[settings]\r\nthreads = 3\r\n")) == Settings(threads=3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"no table \[settings\]; expected one with any of provider, threads, "),
        (b"[retrieval]\ncandidates = 3", r"no table \[settings\]"),
        (b"settings = 3", r"no table \[settings\]"),
        (b"[settings]\nthread = 2\ncolour = 1", r"\[settings\] has 'colour', 'thread'; expected only provider, threads, "),
        (b"[settings]\n[serve]\nport = 1", r"expected only the tables \[settings\], \[calibration\], \[retrieval\], \[measured\]"),
        (b"threads = 2\n[settings]", r"has 'threads'; expected only the tables"),
        (b"[settings]\nthreads = '2'", r"Settings\.threads is str; expected an int or 'auto'"),
        (b"[settings]\nthreads = true", r"Settings\.threads is bool"),
        (b"[settings]\nthreads = 2.0", r"Settings\.threads is float"),
        (b"[settings]\nthreads = 0", r"Settings\.threads is 0; expected 1 to 1024"),
        (b"[settings]\nprecision = 8", r"Settings\.precision is int; expected a str"),
        (b"[settings]\nprecision = 'int4'", r"Settings\.precision is 'int4'; expected 'auto' or one of int8, float16, float32"),
        (b"[settings]\nscores = 'both'", r"Settings\.scores is 'both'; expected 'auto' or one of logit, sigmoid"),
        (b"[settings]\ndocument_template = 'text'", r"document template 'text' names no field"),
        (b"[settings]\ndocument_template = ['{text}']", r"Settings\.document_template is list; expected a str"),
        (b"[settings]\nmax_length = 1979-05-27", r"Settings\.max_length is date"),
        (b"[settings]\nthreads = 1\nthreads = 2\n", r"is not TOML: .*line 3"),
        (b"[settings\nthreads = 2", r"is not TOML: .*line 1"),
        (b"[settings]\nthreads = " + b"9" * 5000, r"is not TOML: "),
        (b"[settings]\nthreads = " + b"[" * 5000, r"is not TOML: "),
        (b"[settings]\nprecision = '\xff'", r"not UTF-8 at byte 24"),
        ("[settings]".encode("utf-16"), r"not UTF-8 at byte 0"),
        (b"PK\x03\x04\0\0", r"is not TOML"),
        (b"# " + b"x" * (1 << 16), r"has more than 65536 bytes"),
    ],
)
def test_anything_else_is_refused_and_the_file_named(toml, content, said):
    path = toml(content)
    with pytest.raises(InputError, match=said) as refused:
        Settings.read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["", "none.toml", ".", "a\0b", "x" * 5000])
def test_what_is_no_file_is_an_input_error(tmp_path, name):
    with pytest.raises(InputError, match=r"the settings file .* cannot be read: "):
        Settings.read(os.path.join(tmp_path, name))  # noqa: PTH118 - Path drops an empty name


def test_a_file_sets_how_an_artifact_runs(artifact, toml):
    runs = json.loads(answered(resift("info", artifact, "--json", "--settings", toml(FULL))))["runs"]
    assert (runs["precision"], runs["threads"], runs["token_budget"]) == ("float32", 2, 64)


@pytest.mark.parametrize(
    ("options", "precision", "threads"),
    [
        (["--threads", "3"], "float32", 3),
        (["--precision", "int8"], "int8", 2),
        (["--precision", "auto", "--provider", "auto"], "int8", 2),
    ],
)
def test_options_replace_the_files_settings_one_by_one(artifact, toml, options, precision, threads):
    found = json.loads(answered(resift("info", artifact, "--json", *options, "--settings", toml(FULL))))
    assert (found["runs"]["precision"], found["runs"]["threads"], found["max_length"]) == (precision, threads, 32)


def test_the_advice_on_candidates_is_not_applied(artifact, toml):
    path = toml(b"[settings]\nthreads = 1\n[retrieval]\ncandidates = 1")
    out = answered(resift("rerank", QUERY, "--model", artifact, "--settings", path, given=LINES))
    assert len(out.splitlines()) == 1 + len(LINES.splitlines())


@pytest.mark.parametrize(
    "command",
    [["rerank", QUERY, "--model"], ["tune", "-", "--model"], ["verify"], ["info"]],
    ids=lambda command: command[0],
)
def test_every_command_that_runs_an_artifact_takes_a_file(artifact, toml, command):
    path = toml(b"[settings]\nthread = 2")
    assert f"{path}: [settings] has 'thread'" in complaint(resift(*command, artifact, "--settings", path, given=LINES))
