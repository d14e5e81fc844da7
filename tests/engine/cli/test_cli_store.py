"""`resift prepare` and `resift store` as commands, with an engine that has a split graph."""

from __future__ import annotations

import json

import pytest

from resift.cli import prepare, store
from resift.cli.main import main
from resift.states.writer import StoreWriter
from tests.support.stores import SplitEngine, header, reading, unsynchronized  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("unsynchronized")
TEXTS = [f"document number {number}" for number in range(30)]


@pytest.fixture
def engine(monkeypatch):
    """The engine that the commands load; its `asked` has the settings."""
    loaded = SplitEngine()

    class Loader:
        @staticmethod
        def load(model, settings):
            loaded.asked, loaded.settings = settings, settings
            return loaded

    monkeypatch.setattr(prepare, "Reranker", Loader)
    monkeypatch.setattr(store, "Reranker", Loader)
    return loaded


@pytest.fixture
def run(capsys, tmp_path, monkeypatch, engine):
    """run(*arguments): exit code, standard output and standard error of a command in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)))

    def of(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return of


def prepared(folder, engine, texts):
    return [each is not None for each in reading(folder).find(engine.document_digests(texts)).states]


def test_a_corpus_is_prepared_once(run, engine, tmp_path):
    code, out, err = run("prepare", "corpus.jsonl", "--store", "states")
    assert (code, err) == (0, "")
    assert out == "states: 30 documents read, 30 computed (0.0 MB), 0 there already, read twice or of another part\n"
    assert prepared(tmp_path / "states", engine, [*TEXTS, "another"]) == [True] * 30 + [False]
    code, out, _ = run("prepare", "corpus.jsonl", "--store", "states", "--json")
    assert json.loads(out) == {"store": "states", "documents": 30, "new": 0, "bytes": 0}
    assert sorted(engine.computed) == sorted(TEXTS)
    assert (engine.asked.store, engine.asked.document_cache) == ("auto", 0), "the store may not exist before it is filled"


def test_parts_and_shards(run, tmp_path, engine):
    counts = [
        json.loads(run("prepare", "corpus.jsonl", "--store", "s", "--part", f"{n}/2", "--shards", "3", "--json")[1])["new"]
        for n in (1, 2)
    ]
    assert sum(counts) == 30
    assert all(counts)
    assert len([*(tmp_path / "s").glob("states-*/*.sqlite")]) == 3
    code, _, err = run("prepare", "corpus.jsonl", "--store", "s", "--part", "4/4")
    assert (code, err.count("\n")) == (1, 1)
    assert "part 4/4 of 3 shards" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "corpus.jsonl"], "expected --store DIR, the folder to fill"),
        (
            ["prepare", "corpus.jsonl", "--store", "s", "--part", "3/2"],
            "expected a part such as 2/3, the second of three; found '3/2'",
        ),
        (["prepare", "corpus.jsonl", "--store", "s", "--part", "0/2"], "expected a part such as 2/3"),
        (["prepare", "corpus.jsonl", "--store", "s", "--shards", "257"], "expected a whole number from 1 to 256; found '257'"),
        (["prepare", "corpus.jsonl", "--store", "s", "--document-cache", "-1"], "expected a whole number from 0 to"),
        (["store"], "the following arguments are required: COMMAND"),
        (["store", "inspect", "s"], "invalid choice: 'inspect'"),
        (["store", "forget", "s"], "the following arguments are required: DOCUMENTS"),
    ],
)
def test_a_wrong_command_line_is_refused(run, arguments, said, tmp_path):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "s").exists()


def test_two_commands_that_write_one_store(run):
    run("prepare", "corpus.jsonl", "--store", "s")
    with StoreWriter(store_folder("s"), header()):
        for arguments in (
            ["prepare", "corpus.jsonl", "--store", "s"],
            ["store", "prune", "s"],
            ["store", "forget", "s", "corpus.jsonl"],
        ):
            code, out, err = run(*arguments)
            assert (code, out, err.count("\n")) == (1, "", 1)
            assert err.startswith("resift: another process is writing this store (it holds s/states-")


def store_folder(name):
    from pathlib import Path

    return Path(name)


def test_what_a_store_holds(run):
    run("prepare", "corpus.jsonl", "--store", "s")
    code, out, err = run("store", "info", "s")
    assert (code, err) == (0, "")
    assert "30 documents, " in out
    assert "MB: org/model@0123456789ab int8 onnxruntime " in out
    [found] = json.loads(run("store", "info", "s", "--json")[1])["states"]
    assert (found["documents"], found["bytes_per_token"], found["shards"], found["faults"]) == (30, 8, 16, [])
    assert run("store", "check", "s") == (0, "30 documents are sound, 0 damaged\n", "")
    assert "the store nowhere is not a folder" in run("store", "info", "nowhere")[2]
    assert run("store", "info", ".")[1] == ". holds no states\n"


def test_damage_is_found_with_exit_code_3_and_pruned(run, tmp_path):
    run("prepare", "corpus.jsonl", "--store", "s")
    path = next(path for path in sorted((tmp_path / "s").glob("states-*/*.sqlite")))
    path.write_bytes(b"no database" * 100)
    code, out, err = run("store", "check", "s")
    assert (code, err) == (3, "")
    assert out.splitlines()[0].endswith(f"{path.name} cannot be read: file is not a database")
    assert out.splitlines()[-1].endswith("0 damaged; remove what is damaged with `resift store prune`")
    found = json.loads(run("store", "check", "s", "--json")[1])
    assert len(found["faults"]) == 1
    code, out, err = run("store", "prune", "s")
    assert (code, err) == (0, "")
    assert out.startswith("s: 0 documents removed, 1 damaged rows or shards removed; ")
    assert run("store", "check", "s")[0] == 0
    run("prepare", "corpus.jsonl", "--store", "s")
    assert run("store", "check", "s")[1].startswith("30 documents are sound")


def test_documents_are_forgotten_and_others_stay(run, tmp_path, engine):
    run("prepare", "corpus.jsonl", "--store", "s")
    (tmp_path / "gone.txt").write_text(f"{TEXTS[3]}\n{TEXTS[4]}\nnever there\n")
    code, out, err = run("store", "forget", "s", "gone.txt")
    assert (code, err) == (0, "")
    assert out.startswith("s: 2 states of 3 documents removed; ")
    assert prepared(tmp_path / "s", engine, TEXTS) == [number not in (3, 4) for number in range(30)]
    found = json.loads(run("store", "prune", "s", "--only", "gone.txt", "--json")[1])
    assert found["documents"] == 28


def test_states_of_other_models_are_pruned(run, tmp_path, engine):
    run("prepare", "corpus.jsonl", "--store", "s")
    engine.document_states.identity = "newer"
    run("prepare", "corpus.jsonl", "--store", "s")
    assert len(json.loads(run("store", "info", "s", "--json")[1])["states"]) == 2
    _, out, _ = run("store", "prune", "s")
    assert "the states of 1 other models, versions or machines removed" in out
    [found] = json.loads(run("store", "info", "s", "--json")[1])["states"]
    assert found["identity"] == "newer"


def test_a_model_without_a_split_graph_is_refused_before_a_store_is_made(run, engine, tmp_path):
    engine.document_states = None
    for arguments in (
        ["prepare", "corpus.jsonl", "--store", "s"],
        ["store", "prune", "s"],
        ["store", "forget", "s", "corpus.jsonl"],
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "org/model has no split graph" in err
    assert not (tmp_path / "s").exists()
