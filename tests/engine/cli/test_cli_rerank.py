"""`resift rerank QUERY FILE`."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift import RankedDocument, Ranking
from resift.cli.main import main
from resift.cli.rerank import SPACES, one_line, table
from tests.conftest import worst_first
from tests.support import children
from tests.support.commands import DOCUMENTS, LINES, QUERY, RESIFT, answered, complaint, resift

posix = pytest.mark.skipif(os.name != "posix", reason="terminals as POSIX has them")


def row(rank, result):
    return f"{rank:>4}  {result.score:>8.3f}  {result.index + 1:>5}  {result.document}"


def test_a_table_ranks_the_lines_of_a_file(artifact, reranker, file):
    documents = worst_first(reranker, QUERY, DOCUMENTS)
    out = answered(resift("rerank", QUERY, file("\n".join(documents).encode()), "--model", artifact))
    ranking = reranker.rerank(QUERY, documents)
    assert [result.index for result in ranking] == list(reversed(range(len(documents))))
    assert out.splitlines() == [
        "rank     score   line  document",
        *(row(rank, result) for rank, result in enumerate(ranking, 1)),
    ]


def test_with_a_store_it_says_what_was_prepared(split_artifact, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(split_artifact), "--plan", "first-look"]
    (tmp_path / "some.txt").write_bytes(b"".join(LINES.splitlines(keepends=True)[:3]))
    (tmp_path / "all.txt").write_bytes(LINES)
    (tmp_path / "pools.jsonl").write_text(json.dumps({"query": QUERY, "documents": DOCUMENTS * 2}))
    assert main(["prepare", "some.txt", "--model", str(split_artifact), "--store", "states"]) == 0
    capsys.readouterr()
    for arguments in ([QUERY, "all.txt"], ["--pools", "pools.jsonl", "--out", "ranked.jsonl"]):
        assert main(["rerank", *arguments, *options, "--store", "states"]) == 0
        assert capsys.readouterr().err == "resift: states of documents: 3 prepared, 0 cached, 5 new\n"
    assert main(["rerank", QUERY, "all.txt", *options]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dash", [["-"], []], ids=["dash", "no FILE"])
def test_documents_come_from_standard_input(artifact, file, dash):
    from_file = answered(resift("rerank", QUERY, file(LINES), "--model", artifact))
    assert answered(resift("rerank", QUERY, *dash, "--model", artifact, given=LINES)) == from_file


@pytest.mark.parametrize("kind", ["lines", "JSON lines"])
def test_documents_come_from_gzip(artifact, file, kind):
    content = LINES if kind == "lines" else b"".join(b'{"text": %s}\n' % json.dumps(text).encode() for text in DOCUMENTS)
    packed = file(gzip.compress(content), "documents.gz")
    out = answered(resift("rerank", QUERY, packed, "--model", artifact))
    assert out == answered(resift("rerank", QUERY, "--model", artifact, given=LINES))


def test_json_is_one_object_with_the_whole_ranking(artifact, reranker):
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", given=LINES))
    assert out.count("\n") == 1
    found = json.loads(out)
    assert list(found) == ["query", "results"]
    assert found["query"] == QUERY
    names = ["index", "score", "logit", "scored_by", "tokens_cut", "document"]
    assert [list(result) for result in found["results"]] == [names] * len(DOCUMENTS)
    assert found["results"] == [{name: getattr(result, name) for name in names} for result in reranker.rerank(QUERY, DOCUMENTS)]


def test_fields_of_json_lines_come_out_again(artifact):
    rows = [{"docid": f"d{number}", "text": text, "meta": {"tags": [number, None]}} for number, text in enumerate(DOCUMENTS)]
    given = "".join(json.dumps(row) + "\n" for row in rows).encode()
    results = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given)))["results"]
    assert sorted(result["index"] for result in results) == list(range(len(rows)))
    for result in results:
        given_row = rows[result["index"]]
        assert (result["docid"], result["meta"], result["document"]) == (given_row["docid"], given_row["meta"], given_row["text"])
        assert "text" not in result


def test_top_k_prints_the_best_only(artifact):
    whole = answered(resift("rerank", QUERY, "--model", artifact, given=LINES))
    best = answered(resift("rerank", QUERY, "--model", artifact, "--top-k", "3", given=LINES))
    assert best.splitlines() == whole.splitlines()[:4]
    found = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--top-k", "3", "--json", given=LINES)))
    assert len(found["results"]) == 3


def test_what_a_document_lost_is_said_beside_it(artifact, reranker):
    documents = ["short", "water " * 300]
    cut = {result.index: result.tokens_cut for result in reranker.rerank(QUERY, documents)}[1]
    given = "\n".join(documents).encode()
    lines = answered(resift("rerank", QUERY, "--model", artifact, given=given)).splitlines()
    assert cut > 100
    assert [line.endswith(f"  ({cut} tokens cut)") for line in lines].count(True) == 1
    assert sum("tokens cut" in line for line in lines) == 1
    results = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given)))["results"]
    assert {result["index"]: result["tokens_cut"] for result in results} == {0: 0, 1: cut}


def test_a_cut_that_is_a_lower_bound_is_shown_as_one():
    ranking = Ranking((RankedDocument(0, 0.5, 1.0, "water", 7, tokens_cut_at_least=True), RankedDocument(1, 0.25, 0.0, "fire", 7)))
    assert table(ranking, [1, 2], None)[1:] == [
        "   1     0.500      1  water  (at least 7 tokens cut)",
        "   2     0.250      2  fire  (7 tokens cut)",
    ]


def test_an_empty_document_is_shown_as_one_and_does_not_rank_first_in_silence():
    found = [RankedDocument(0, 0.5, 1.0, " \n", 0), RankedDocument(1, 0.25, 0.0, "fire", 0)]
    assert table(Ranking(tuple(found)), [1, 2], None)[1:] == [
        "   1     0.500      1  (empty)",
        "   2     0.250      2  fire",
        "an empty document ranks first: the model finds no other one more relevant",
    ]
    assert len(table(Ranking(tuple(reversed(found))), [1, 2], None)) == 3
    assert len(table(Ranking((found[0],)), [1, 2], None)) == 2


def test_an_empty_text_in_json_lines_is_a_document_and_a_blank_line_is_none(artifact, reranker):
    given = b'\n{"text": "", "id": 1}\n\n{"text": "the sea", "id": 2}\n'
    found = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given)))["results"]
    assert {result["id"]: result["logit"] for result in found} == dict(
        zip([1, 2], reranker.logits(QUERY, ["", "the sea"]).tolist(), strict=True)
    )


def test_a_template_an_instruction_and_a_scale_are_the_callers(artifact, reranker):
    given = b'{"title": "Tides", "text": "The moon.", "id": 7}\n{"text": "The sea."}\n'
    options = ["--document-template", r"{title}\n{text}", "--instruction", "find: ", "--scores", "logit"]
    found = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", *options, given=given)))["results"]
    expected = reranker.rerank(QUERY, ["Tides\nThe moon.", "The sea."], instruction="find: ")
    assert [(each["index"], each["logit"], each["score"], each["document"]) for each in found] == [
        (each.index, each.logit, each.logit, each.document) for each in expected
    ]
    (tides,) = [each for each in found if each["index"] == 0]
    assert (tides["id"], tides["title"]) == (7, "Tides")


def test_what_a_query_lost_is_said_at_the_end(artifact, reranker):
    query = "tides " * 300
    cut = reranker.rerank(query, DOCUMENTS).query_tokens_cut
    assert cut > 100
    out = answered(resift("rerank", query, "--model", artifact, given=LINES))
    assert out.splitlines()[-1] == f"the query was too long: its last {cut} tokens were cut"
    found = json.loads(answered(resift("rerank", query, "--model", artifact, "--json", given=LINES)))
    assert found["query_tokens_cut"] == cut


@pytest.mark.parametrize("given", [b"", b"\n \r\n\n"], ids=["nothing", "blank lines"])
def test_no_documents_are_an_empty_ranking(artifact, given):
    out = answered(resift("rerank", QUERY, "--model", artifact, given=given))
    assert out == "rank     score   line  document\n"
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given))
    assert json.loads(out) == {"query": QUERY, "results": []}


def test_blank_lines_are_no_documents(artifact):
    given = b"\n\n" + LINES.replace(b"\n", b"\r\n  \n")
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given))
    assert out == answered(resift("rerank", QUERY, "--model", artifact, "--json", given=LINES))


@pytest.mark.parametrize("kind", ["lines", "JSON lines"])
def test_the_table_names_lines_of_the_file_and_json_places_in_the_list(artifact, kind):
    rows = [text if kind == "lines" else json.dumps({"text": text}) for text in DOCUMENTS]
    given = "\n\n" + "\n \r\n".join(rows)
    places = {text: 3 + 2 * number for number, text in enumerate(DOCUMENTS)}
    assert [given.split("\n")[place - 1].strip() for place in places.values()] == rows
    table = answered(resift("rerank", QUERY, "--model", artifact, given=given.encode())).splitlines()[1:]
    assert {line[23:]: int(line[16:21]) for line in table} == places
    results = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given.encode())))["results"]
    assert all(DOCUMENTS[result["index"]] == result["document"] for result in results)


def on_terminal(*arguments, **environment):
    """The lines that `resift ARGUMENTS` writes to a terminal."""
    terminal, end = os.openpty()
    try:
        command, streams = [RESIFT, *map(str, arguments)], {"stdout": end, "stderr": subprocess.PIPE}
        done = children.run(command, **streams, env={**os.environ, **environment})
        os.write(end, b"END")
        out = b""
        while not out.endswith(b"END"):
            out += os.read(terminal, 4096)
    finally:
        os.close(end)
        os.close(terminal)
    assert (done.returncode, done.stderr) == (0, b"")
    return out.decode().removesuffix("END").split("\r\n")[:-1]


WIDE = {"a": 1, "潮": 2, "e\u0301": 1, "🌊": 2, "\\x1b[31m": 8}
"""Texts as they are printed, and the columns that each takes."""


@posix
@pytest.mark.parametrize(
    ("given", "columns"), [("60", 60), ("44", 44), ("43", 43), ("23", 23), ("1", 1), ("0", 80), ("-3", 80), ("x", 80)]
)
def test_a_row_takes_a_line_of_the_terminal(artifact, file, given, columns):
    path = file("".join(f"{text * 60}\n" for text in WIDE).replace("\\x1b", "\x1b").encode())
    table = on_terminal("rerank", QUERY, path, "--model", artifact, COLUMNS=given, PYTHONIOENCODING="utf-8")[1:]
    assert len(table) == len(WIDE)
    for line in table:
        text, width = list(WIDE.items())[int(line[16:21]) - 1]
        cut = re.search(r"(  \(\d+ tokens cut\))?$", line)[0]
        shown = line[23:].removesuffix(cut)
        assert shown[-1] == "…"
        assert (text * 60).startswith(shown[:-1])
        room = max(20, columns - 23 - len(cut))
        assert room - 1 <= len(shown[:-1]) * width / len(text) + 1 <= room


def test_text_in_other_scripts_is_printed_as_it_came(artifact):
    out = answered(resift("rerank", QUERY, "--model", artifact, given="潮の満ち引き 🌊 é\n".encode(), PYTHONIOENCODING="utf-8"))
    assert out.endswith("  潮の満ち引き 🌊 é\n")


def test_max_length_and_precision_are_the_callers(artifact):
    given = ("water " * 100).encode()
    cuts = []
    for limit in ("20", "50"):
        out = answered(resift("rerank", QUERY, "--model", artifact, "--max-length", limit, "--json", given=given))
        cuts.append(json.loads(out)["results"][0]["tokens_cut"])
    assert cuts[0] == cuts[1] + 30
    int8, float32 = (
        json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", "--precision", precision, given=LINES)))
        for precision in ("int8", "float32")
    )
    assert [result["logit"] for result in int8["results"]] != [result["logit"] for result in float32["results"]]


def test_without_a_model_the_embedded_one_ranks():
    answer = "Tides rise and fall because the gravity of the moon pulls the oceans."
    given = f"Bread rises because yeast makes gas.\n{answer}\n".encode()
    found = json.loads(answered(resift("rerank", "what causes the tides", "--json", given=given)))
    assert found["results"][0]["document"] == answer


def test_a_missing_file_is_named(tmp_path):
    assert f"{tmp_path / 'none.txt'} cannot be read" in complaint(resift("rerank", QUERY, tmp_path / "none.txt"))


@posix
def test_a_file_may_be_a_pipe_or_a_device(artifact, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[LINES], daemon=True)
    writer.start()
    from_pipe = answered(resift("rerank", QUERY, tmp_path / "pipe", "--model", artifact))
    assert from_pipe == answered(resift("rerank", QUERY, "--model", artifact, given=LINES))
    assert answered(resift("rerank", QUERY, os.devnull, "--model", artifact)).count("\n") == 1


def test_a_file_that_is_a_folder_is_named(tmp_path):
    assert complaint(resift("rerank", QUERY, tmp_path)) == f"resift: {tmp_path} cannot be read: Is a directory\n"


def test_a_file_without_a_name_is_named():
    assert "'' is not a file name; expected one, or - for standard input" in complaint(resift("rerank", QUERY, ""))


def test_a_file_that_is_no_gzip_is_named(file):
    path = file(LINES, "documents.gz")
    assert f"{path} cannot be read" in complaint(resift("rerank", QUERY, path))


def test_a_bad_json_line_is_named_with_its_file_and_number(file):
    path = file(b'{"text": "a"}\n\n{"text": "b"\n', "documents.jsonl")
    assert f"{path}, line 3: not JSON" in complaint(resift("rerank", QUERY, path))
    assert "-, line 2: an object whose 'text' is a number" in complaint(
        resift("rerank", QUERY, given=b'{"text": "a"}\n{"text": 7}\n')
    )


@pytest.mark.parametrize("content", [b"a\n\xff\xfe\n", b'{"text": "a"}\n{"text": "\xff"}\n'], ids=["lines", "JSON lines"])
def test_invalid_utf_8_is_named_with_its_file_and_number(file, content):
    path = file(content)
    assert f"{path}, line 2: not " in complaint(resift("rerank", QUERY, path))


@given(st.text(st.characters() | st.sampled_from([chr(code) for code in SPACES]), max_size=40))
def test_a_document_in_the_table_is_its_words_with_a_space_between(text):
    assert one_line(text) == " ".join(text.split())


PEAK = """
import sys
from resift.cli.main import main
code = main()
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak // 1024, file=sys.stderr)
sys.exit(code)
"""
"""The command line, which then tells its largest resident size in megabytes."""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status")
@pytest.mark.parametrize("option", [[], ["--json"]], ids=["table", "JSON"])
@pytest.mark.parametrize("unit", ["the tides rise ", "a\n\n b "])
def test_a_document_of_50_megabytes_takes_little_memory(artifact, file, unit, option):
    long = file(json.dumps({"text": unit * (50_000_000 // len(unit))}).encode())
    command = [sys.executable, "-c", PEAK, "rerank", "tides", long, "--model", artifact, *option]
    done = children.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    assert int(done.stderr) < 500


def test_with_time_enough_a_budget_changes_nothing(artifact):
    given = ("rerank", QUERY, "--model", artifact, "--json")
    assert answered(resift(*given, "--budget-ms", "1e9", given=LINES)) == answered(resift(*given, given=LINES))


def test_without_time_the_documents_follow_in_the_order_given(artifact):
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", "--budget-ms", "0.001", given=LINES))
    results = json.loads(out)["results"]
    assert [result["index"] for result in results] == list(range(len(DOCUMENTS)))
    assert {(result["score"], result["logit"], result["scored_by"]) for result in results} == {(None, None, None)}


def test_a_file_of_pools_takes_no_budget(artifact, tmp_path):
    done = resift("rerank", "--pools", "-", "--out", tmp_path / "out", "--budget-ms", "9", "--model", artifact)
    assert done.code == 2
    assert "--budget-ms is for QUERY" in done.err


@pytest.mark.parametrize(
    "more",
    [
        ["--json"],
        ["--overwrite"],
        ["--format", "trec"],
        ["--on-error", "skip"],
        ["--budget-ms", "9"],
        ["another"],
        ["--pools", "other"],
    ],
    ids=" ".join,
)
def test_what_ray_does_not_take_is_refused(tmp_path, more):
    done = resift("rerank", "p.parquet", *more, "-o", tmp_path / "out", "--engine", "ray")
    assert (done.code, done.out) == (2, "")
    assert "--engine ray " in done.err
    assert not (tmp_path / "out").exists()


def test_options_of_ray_are_refused_without_it(tmp_path):
    assert "--workers needs --engine ray" in resift("rerank", QUERY, "--workers", "2", given=LINES).err
    assert "--engine ray needs one POOLS and --out OUT" in resift("rerank", "p.parquet", "--engine", "ray").err


@pytest.mark.parametrize("name", ["ranked.parquet", "ranked.CSV", "run.tsv.gz"])
def test_no_rankings_are_written_under_the_name_of_a_table(tmp_path, name):
    done = resift("rerank", "--pools", "-", "--out", tmp_path / name, given=b"")
    assert (done.code, done.out) == (2, "")
    assert f"{name}: no tables are written; expected a name for JSON Lines" in done.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["ray", "pyarrow"])
def test_the_extra_is_named_where_ray_is_missing(part):
    code = f"import sys; sys.modules[{part!r}] = None; from resift.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "rerank", "p.parquet", "-o", "out", "--engine", "ray"]
    done = children.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "pip install 'resift[ray]'" in done.stderr
