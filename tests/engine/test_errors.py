"""Messages: what is quoted of another library's error, and that every message is one line, whatever a file holds."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest

from resift import Plan, Reranker
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import MESSAGE_LIMIT, ArtifactError, ClosedError, ExtraError, InputError, ResiftError, first_line, import_failure
from resift.evaluate.data.dataset import read_dataset
from resift.evaluate.scoresfile import read_scores
from resift.evaluate.tuning.tunedfile import read_tuned
from resift.files.escapes import visible
from resift.pools.job import Job, rerank_file
from resift.pools.reading import decode_pool
from resift.serve.config import Config
from resift.settings import Settings
from tests.conftest import rewrite
from tests.support import tiny


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n two "), "two"),
        (ValueError(""), "ValueError"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "'name'"),
        (RuntimeError("a" * 1000), "a" * 300),
    ],
)
def test_the_first_line_that_says_something(error, line):
    assert first_line(error) == line


HOSTILE = "ab\n\r\x1b[31m\u2028\x85 {0}%s" * 10_000
QUOTED = json.dumps(HOSTILE[:10_000])
"""In TOML as in JSON; a settings file may have 65,536 bytes."""


def says_one_line(error: BaseException, *, start: str = "") -> None:
    message = str(error)
    assert message.splitlines() == [message]
    assert 0 < len(message) <= MESSAGE_LIMIT
    assert message.startswith(start)
    assert visible(message).isprintable()


@pytest.mark.parametrize(("arguments", "message"), [((), ""), ((3,), "3"), ((ValueError("why"),), "why")])
def test_an_error_is_raised_with_anything_as_its_message(arguments, message):
    with pytest.raises(InputError) as caught:
        raise InputError(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("tokenizers.models", "tokenizers cannot be imported (why): pip install --force-reinstall tokenizers"),
        ("PIL", "PIL cannot be imported (why): pip install --force-reinstall resift"),
        ("_ctypes", "_ctypes cannot be imported (why): it is part of Python; install a Python that has it"),
    ],
)
def test_only_packages_that_are_known_by_their_modules_names_are_advised(name, mend):
    assert str(import_failure(ImportError("why", name=name))) == mend


def test_a_message_keeps_its_beginning_and_its_end():
    error = InputError(f"the file has {HOSTILE}; mend it so")
    says_one_line(error, start="the file has ab ")
    assert str(error).endswith("; mend it so")
    assert str(InputError("a\nb")) == "a b"
    assert str(InputError("a" * MESSAGE_LIMIT)) == "a" * MESSAGE_LIMIT


@pytest.mark.parametrize("error", [InputError("found\nthis"), ExtraError("x" * 5000), ClosedError()])
def test_an_error_is_the_same_in_another_process(error):
    loaded = pickle.loads(pickle.dumps(error))
    assert (type(loaded), str(loaded)) == (type(error), str(error))


def changes(value):
    """Each copy of a JSON value in which one text, or one name of a field, is hostile; of a long list, its first three items."""
    if isinstance(value, str):
        yield HOSTILE
    elif isinstance(value, dict):
        yield {**value, HOSTILE: 1}
        for name, inner in value.items():
            yield {HOSTILE if key == name else key: item for key, item in value.items()}
            yield from ({**value, name: changed} for changed in changes(inner))
    elif isinstance(value, list):
        for place, inner in enumerate(value[:3]):
            yield from ([*value[:place], changed, *value[place + 1 :]] for changed in changes(inner))
    elif not isinstance(value, bool):
        yield HOSTILE


def refusals(contents, read):
    """The errors that `read` raises for the contents; at least one, and all of them one line."""
    found = []
    for content in contents:
        try:
            read(content)
        except ResiftError as error:
            says_one_line(error)
            found.append(error)
    assert found
    return found


def test_a_manifest_of_long_texts(planned_artifact, tmp_path):
    folder = shutil.copytree(planned_artifact, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_bytes())

    def read(content):
        (folder / "manifest.json").write_text(json.dumps(content))
        Reranker.load(folder).close()

    assert all(isinstance(error, ArtifactError) for error in refusals(changes(manifest), read))


def test_a_certificate_of_long_texts(copy):
    certificate = json.loads((copy / "certificate.json").read_bytes())
    certificate["pools"][2:] = []

    def read(content):
        rewrite(copy, "certificate.json", json.dumps(content).encode())
        Certificate.read(Artifact.open(copy))

    refusals(changes(certificate), read)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_tokenizer_of_long_texts(family):
    content = json.loads(tiny.backend(family).to_str())
    content["model"]["vocab"] = content["model"]["vocab"] if isinstance(content["model"]["vocab"], list) else {"[UNK]": 0}
    refusals(changes(content), lambda changed: PairTokenizer(json.dumps(changed).encode(), 24))


@pytest.mark.parametrize(
    "content",
    [
        f"{QUOTED} = 1",
        f"[{QUOTED}]",
        f"[settings]\n{QUOTED} = 1",
        *(
            f"[settings]\n{name} = {QUOTED}"
            for name in ("plan", "provider", "precision", "truncation", "threads", "waiting_seconds")
        ),
        f"[settings]\n[retrieval]\ncandidates = {QUOTED}",
        f"[settings]\n{HOSTILE[:10_000]}",
    ],
)
def test_a_settings_file_of_long_texts(content, file):
    path = file(content.encode(), "settings.toml")
    refusals([path], read_tuned)
    if "retrieval" not in content:
        refusals([path], Settings.read)


def test_a_servers_configuration_of_long_texts(file):
    paths_and_keys = ("model", "api_key", "settings", "api_key_file", "store", "uds")
    names = [name for name in Config.__struct_fields__ if name not in paths_and_keys]
    variables = [{f"RESIFT_SERVE_{name.upper()}": HOSTILE} for name in [*names, HOSTILE]]
    assert len(refusals(variables, lambda environment: Config.gather({}, environment))) == len(variables)
    contents = [f"{QUOTED} = 1", *(f"{name} = {QUOTED}" for name in names), HOSTILE]
    paths = [file(content.encode(), f"{number}.toml") for number, content in enumerate(contents)]
    assert len(refusals(paths, lambda path: Config.gather({"config": str(path)}, {}))) >= len(paths) - 1, "a host may be any text"


def test_a_file_of_keys_of_long_texts(file):
    pytest.importorskip("starlette")
    from resift.serve.keys import read_allowances

    contents = [
        f"{QUOTED} = 1",
        f"[{QUOTED}]",
        f"[a]\nkey = {QUOTED}",
        f"[a]\n{QUOTED} = 1",
        f'[a]\nkey = ["k", {QUOTED}]',
        HOSTILE,
    ]
    paths = [file(content.encode(), f"{number}.toml") for number, content in enumerate(contents)]
    assert len(refusals(paths, read_allowances)) == len(paths)


def test_plans_of_long_texts():
    refusals([HOSTILE, f"full:{HOSTILE}", f"{HOSTILE}:1,full", ",".join([HOSTILE] * 9), "full:0.3," * 5000], Plan.parse)


POOL = {"qid": "q", "query": "query", "candidates": [{"docid": f"d{place}", "text": "text", "label": place} for place in range(2)]}


def test_pools_of_long_texts(file):
    lines = [json.dumps(changed).encode() for changed in changes(POOL)]
    refusals([*lines, HOSTILE.encode(), b"\xff" + HOSTILE.encode()], lambda line: decode_pool(line, "line 1"))
    twice = [b"\n".join([line, line]) for line in lines]
    refusals(twice, lambda content: read_dataset(file(content, "pools.jsonl")))
    qrels = [HOSTILE.replace("{0}", word).encode() for word in ("q 0 d0", "d0")]
    refusals(qrels, lambda content: read_dataset(file(json.dumps(POOL).encode(), "pools.jsonl"), qrels=file(content, "some.qrels")))


def test_scores_of_long_texts(file):
    pools = read_dataset(file(json.dumps(POOL).encode(), "pools.jsonl")).pools
    ranked = {"qid": "q", "results": [{"docid": "d0", "score": 1.0}, {"index": 1, "score": 2}]}
    contents = [json.dumps(changed).encode() for changed in changes(ranked)]
    refusals([*contents, HOSTILE.encode()], lambda content: read_scores(file(content, "scores.jsonl"), pools))


def test_a_journal_of_long_texts(reranker, file, tmp_path):
    source = file(json.dumps(POOL).encode(), "pools.jsonl")
    job = Job(source=str(source), out=tmp_path / "out.jsonl")
    journals = [
        {"resift_job": 1, "model": HOSTILE[:1500]},
        {"resift_job": 1, HOSTILE[:1500]: 1},
        {"resift_job": 1, "plan": [HOSTILE[:1500]]},
    ]

    def resume(content):
        (tmp_path / "out.jsonl.job.jsonl").write_text(json.dumps(content, separators=(",", ":")) + '\n["00",1,1]\n')
        (tmp_path / "out.jsonl.partial").write_bytes(b"x")
        rerank_file(reranker, job)

    assert len(refusals(journals, resume)) == len(journals)
