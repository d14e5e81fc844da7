"""Settings of the server: one definition for flags, environment and file."""

from __future__ import annotations

import msgspec
import pytest

from resift.cli.main import parser
from resift.errors import InputError
from resift.serve.config import PREFIX, Config, flag
from resift.settings import Settings
from tests.support.commands import resift

FIELDS = msgspec.structs.fields(Config)
LISTS = ("model", "alias", "cors_origin", "trusted_proxy")


def gathered(*arguments, **environment) -> Config:
    asked = vars(parser().parse_args(["serve", *arguments]))
    return Config.gather({name: value for name, value in asked.items() if name != "run"}, environment)


def test_nothing_given_is_the_defaults_on_loopback():
    assert gathered() == Config()
    assert (Config().host, Config().port) == ("127.0.0.1", 8787)


def test_flags_go_before_the_environment_and_that_before_the_file(file):
    path = file(b"port = 1\nmax_body_bytes = 2\nmax_client_batch_size = 3\n", "serve.toml")
    found = gathered("--config", str(path), "--port", "11", RESIFT_SERVE_PORT="12", RESIFT_SERVE_MAX_BODY_BYTES="13")
    assert (found.port, found.max_body_bytes, found.max_client_batch_size) == (11, 13, 3)
    assert gathered(RESIFT_SERVE_CONFIG=str(path)).port == 1


@pytest.mark.parametrize("found", FIELDS, ids=lambda found: found.name)
def test_each_setting_can_be_given_in_all_three_ways(found, file):
    text = {
        "model": "m",
        "alias": "a=b",
        "provider": "cpu",
        "precision": "int8",
        "log_level": "debug",
        "host": "::1",
        "api_key": "k",
        "settings": "tuned.toml",
        "name": "mine",
        "cors_origin": "https://example.org",
        "trusted_proxy": "10.0.0.0/8",
        "scores": "logit",
        "document_template": "{title}",
        "api_key_file": "keys.toml",
        "uds": "socket",
        "root_path": "/ranker",
        "store": "states",
    }
    is_bool = isinstance(found.default, bool)
    given = "true" if is_bool else text.get(found.name, "7")
    quoted = given if is_bool or given == "7" else f'"{given}"'
    content = f"{found.name} = [{quoted}]" if found.name in LISTS else f"{found.name} = {quoted}"
    expected = msgspec.structs.asdict(gathered(**{PREFIX + found.name.upper(): given}))
    assert expected != msgspec.structs.asdict(Config())
    assert msgspec.structs.asdict(gathered(flag(found.name), *([] if is_bool else [given]))) == expected
    assert msgspec.structs.asdict(gathered("--config", str(file(content.encode(), "serve.toml")))) == expected


def test_the_engines_settings_come_from_a_file_and_are_replaced_by_those_given(file):
    path = file(b"[settings]\nthreads = 1\ntoken_budget = 512\n[retrieval]\ncandidates = 30\n", "tuned.toml")
    found = gathered("--settings", str(path), "--threads", "2").engine()
    assert (found.threads, found.token_budget, found.precision) == (2, 512, "auto")
    with pytest.raises(InputError, match="cannot be read"):
        gathered("--settings", "missing.toml").engine()


def test_the_store_and_the_cache_are_the_engines():
    found = gathered("--store", "states", "--document-cache", "0").engine()
    assert (found.store, found.document_cache) == ("states", 0)
    assert (gathered().engine().store, gathered().engine().document_cache) == ("auto", "auto")


def test_lists_are_repeated_flags_commas_or_arrays(file):
    path = file(b'model = ["a", "b"]', "serve.toml")
    assert gathered("--model", "a", "--model", "b").model == ["a", "b"]
    assert gathered(RESIFT_SERVE_MODEL="a, b").model == ["a", "b"]
    assert gathered("--config", str(path)).model == ["a", "b"]
    assert gathered("--config", str(path), "--model", "c").model == ["c"]


def test_an_empty_name_is_no_file(file):
    path = file(b"port = 1", "serve.toml")
    assert gathered("--config", "") == Config()
    assert gathered("--config", "", RESIFT_SERVE_CONFIG=str(path)).port == 1


def test_a_switch_can_be_turned_off_again():
    assert gathered("--no-strict-model", RESIFT_SERVE_STRICT_MODEL="true").strict_model is False
    assert gathered("--no-auth", "--host", "0.0.0.0").no_auth is True


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--host", "0.0.0.0"], {}, "can be reached from other machines"),
        (["--host", "::"], {}, "can be reached from other machines"),
        (["--host", "example.org"], {}, "can be reached from other machines"),
        (["--document-template", "{title"], {}, "document template '{title'"),
        (["--trusted-proxy", "10.0.0.1/8"], {}, "--trusted-proxy 10.0.0.1/8: 10.0.0.1/8 has host bits set; expected an address or"),
        ([], {"RESIFT_SERVE_TRUSTED_PROXY": "::1, 10.0.0.300"}, "--trusted-proxy 10.0.0.300: "),
        (["--host", "0.0.0.0", "--api-key", ""], {}, "can be reached from other machines"),
        ([], {"RESIFT_SERVE_PORT": "x"}, "RESIFT_SERVE_PORT: expected a whole number from 0 to 65535; found 'x'"),
        ([], {"RESIFT_SERVE_THREADS": "1025"}, "RESIFT_SERVE_THREADS: expected a whole number from 1 to 1024; found '1025'"),
        ([], {"RESIFT_SERVE_ALIAS": "a=b,c"}, "RESIFT_SERVE_ALIAS: expected a list of NAME=MODEL; found ['a=b', 'c']"),
        ([], {"RESIFT_SERVE_PROT": "1"}, "RESIFT_SERVE_PROT is not a setting; expected one of RESIFT_SERVE_ALIAS"),
        ([], {"RESIFT_SERVE_STRICT_MODEL": "perhaps"}, "RESIFT_SERVE_STRICT_MODEL: expected true or false; found 'perhaps'"),
    ],
)
def test_what_cannot_be_is_named(arguments, environment, said):
    with pytest.raises(InputError) as caught:
        gathered(*arguments, **environment)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--port", "70000", "expected a whole number from 0 to 65535; found '70000'"),
        ("--port", "ten", "expected a whole number from 0 to 65535; found 'ten'"),
        ("--threads", "2000", "expected a whole number from 1 to 1024; found '2000'"),
        ("--request-seconds", "0", "expected a number above 0, up to 86400; found '0'"),
        ("--request-seconds", "nan", "expected a number above 0, up to 86400; found 'nan'"),
        ("--request-seconds", "inf", "expected a number above 0, up to 86400; found 'inf'"),
        ("--log-level", "loud", "expected debug or error or info or warning; found 'loud'"),
        ("--provider", "tpu", "expected cpu or cuda or openvino or dml or coreml or tensorrt or qnn or cuda:N; found 'tpu'"),
        ("--alias", "a", "expected NAME=MODEL; found 'a'"),
        ("--alias", "=a", "expected NAME=MODEL; found '=a'"),
        ("--alias", "a=", "expected NAME=MODEL; found 'a='"),
        ("--cors-origin", "example.org", "expected * or an origin such as https://example.org; found 'example.org'"),
        (
            "--cors-origin",
            "https://example.org/a",
            "expected * or an origin such as https://example.org; found 'https://example.org/a'",
        ),
        ("--root-path", "/", "expected a path such as /ranker, without a slash at its end; found '/'"),
        ("--root-path", "ranker", "expected a path such as /ranker, without a slash at its end; found 'ranker'"),
        ("--trusted-proxy", "proxy.example", "expected an address or a network such as 10.0.0.0/8; found 'proxy.example'"),
        ("--scores", "raw", "expected logit or sigmoid; found 'raw'"),
        ("--api-key", "cl\u00e9", "expected printable ASCII without outer spaces"),
        ("--api-key", "gehe\x07im", "expected printable ASCII without outer spaces"),
        ("--api-key", "geheim\n", "expected printable ASCII without outer spaces"),
        ("--api-key", " geheim", "expected printable ASCII without outer spaces"),
    ],
)
def test_a_flag_that_cannot_be_is_a_wrong_command_line(capsys, option, value, said):
    with pytest.raises(SystemExit) as stop:
        gathered(option, value)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"\nresift serve: error: argument {option}: {said}\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"port = ", "is not TOML: "),
        (b"\xff", "is not UTF-8 at byte 0"),
        (b"prot = 1", "has 'prot'; expected only model, alias"),
        (b'port = "8787"', "port: expected a whole number from 0 to 65535; found '8787'"),
        (b'model = "a"', "model: expected a list of text; found 'a'"),
        (b'api_key = "k "', "api_key: expected printable ASCII without outer spaces"),
        (b"[serve]\nport = 1", "has 'serve'"),
        (b'config = "other.toml"', "has 'config'"),
    ],
)
def test_a_file_that_cannot_be_is_named(content, said, file):
    path = file(content, "serve.toml")
    with pytest.raises(InputError) as caught:
        gathered("--config", str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_key_is_never_shown():
    with pytest.raises(InputError) as caught:
        gathered(RESIFT_SERVE_API_KEY="gehe\x07im")
    assert "gehe" not in str(caught.value)


def test_the_engines_settings_come_from_it():
    found = gathered("--threads", "2", "--max-length", "64", "--windows", "4", "--max-batch-tokens", "99").engine()
    assert found == Settings(threads=2, max_length=64, windows=4, token_budget=99, waiting_tokens=1 << 21, waiting_seconds=1.0)
    found = gathered("--scores", "logit", "--document-template", "{title}").engine()
    assert (found.scores, found.document_template) == ("logit", "{title}")


def test_the_help_names_every_setting():
    done = resift("serve", "--help", COLUMNS="200")
    assert done.code == 0
    assert all(flag(found.name) in done.out for found in FIELDS)
