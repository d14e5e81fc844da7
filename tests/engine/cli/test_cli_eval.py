"""`resift eval` as its users see it: what it prints and writes, and what it refuses before it scores."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import msgspec
import pytest

import resift_export
from resift.cli.main import main
from resift.evaluate.results import Evaluation
from resift.reranker import Reranker

pytest.importorskip("ir_measures")

GATE = Path(resift_export.__file__).parent / "data" / "gate.jsonl"


@pytest.fixture
def run(capfdbinary, artifact):
    """run(*arguments): exit code, output and messages of `resift eval` on three labelled pools with the tiny artifact."""

    def call(*arguments, data=GATE, model=artifact):
        models = () if model is None else ("--model", model)
        code = main([*map(str, ("eval", data, "--limit", 3, *models, *arguments))])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.fixture
def unscored(monkeypatch):
    """Fails the test if anything is scored."""

    def submit(*_):
        pytest.fail("scored")

    monkeypatch.setattr(Reranker, "submit", submit)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def complaint(done, code=1):
    assert (done[0], done[1]) == (code, "")
    assert done[2].startswith("resift: ")
    assert done[2].count("\n") == 1
    return done[2]


def test_the_table(run, artifact):
    code, out, _ = run()
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "gate: 3 queries, 30 pairs, 30 judgements"
    assert lines[2].split() == ["system", "nDCG@10", "P@1", "RR@10", "AP", "R@10"]
    assert lines[3].startswith("order given")
    assert lines[4].startswith(f"{artifact.name} int8")
    assert lines[6].split() == ["latency", "p50", "ms", "p95", "ms", "pairs/s"]
    assert lines[7].startswith(f"{artifact.name} int8")
    assert lines[8] == ""
    assert lines[9].startswith("minus order given")
    assert any(line.split() == ["candidates", "5", "10"] for line in lines)
    assert "qid" not in out


def test_on_a_terminal_every_line_fits(monkeypatch, artifact):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["eval", str(GATE), "--limit", "3", "--model", str(artifact), "--per-query"]) == 0
    lines = sys.stdout.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    begin = next(number for number, line in enumerate(lines) if line.startswith("qid, "))
    assert lines[begin].endswith("  query")
    queries = [json.loads(line)["query"] for line in GATE.read_text().splitlines()[:3]]
    shown = [line[lines[begin].index("  query") + 2 :] for line in lines[begin + 1 :]]
    assert len(shown) == 3
    for query, found in zip(queries, shown, strict=True):
        assert query == found or (found.endswith("…") and query.startswith(found[:-1]))


def test_queries_left_out_of_their_own_candidates_are_counted(run, file, tmp_path):
    candidates = [{"docid": docid, "text": text, "label": int(docid == "a")} for docid, text in (("q", "what"), ("a", "that"))]
    data = file(json.dumps({"qid": "q", "query": "what", "candidates": candidates}).encode(), "own.jsonl")
    page = tmp_path / "own.html"
    lines = run("--html", page, data=data)[1].splitlines()
    assert lines[0] == "own: 1 queries, 1 pairs, 1 judgements"
    said = "queries left out of their own candidates, as in BEIR: 1"
    assert said in lines
    assert said in page.read_text()


def test_precisions_measures_and_every_query(run, artifact):
    arguments = ["--precision", "int8", "--precision", "float32", "--measure", "P@1", "--measure", "AP", "--per-query"]
    code, out, _ = run(*arguments, "--baseline", f"{artifact.name} int8", "--candidates", 4)
    lines = out.splitlines()
    assert code == 0
    assert lines[2].split()[:3] == ["system", "P@1", "AP"]
    assert [line.split()[1] for line in lines[3:6]] == ["given", "int8", "float32"]
    assert lines[11].startswith(f"minus {artifact.name} int8")
    assert lines[-4].startswith("qid, P@1")
    assert len(lines[-1].split()) > 4
    assert "gate: 3 queries, 12 pairs" in out


def test_files(run, tmp_path):
    code, out, _ = run("--json", tmp_path / "x.json", "--html", tmp_path / "x.html")
    assert (code, out.splitlines()[0]) == (0, "gate: 3 queries, 30 pairs, 30 judgements")
    evaluation = msgspec.json.decode((tmp_path / "x.json").read_bytes(), type=Evaluation)
    assert [system.kind for system in evaluation.systems] == ["given", "artifact"]
    assert (tmp_path / "x.html").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html", "x.json"]


def test_json_on_standard_output_instead_of_the_table(run):
    code, out, _ = run("--json", "-")
    assert code == 0
    assert json.loads(out)["systems"][0]["name"] == "order given"


def test_another_engines_scores_need_no_model(run, file, unscored):
    pools = [json.loads(line) for line in GATE.read_text().splitlines()[:3]]
    lines = [f"{pool['qid']} Q0 {row['docid']} 1 {row['label']} x" for pool in pools for row in pool["candidates"][:6]]
    code, out, _ = run("--scores", file("\n".join(lines).encode(), "other.trec"), model=None)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[3:5]] == ["order", "other.trec"]
    assert "other.trec: 12 candidates have no score; they rank last, in the order given" in out


def test_the_default_model(monkeypatch, run, artifact):
    load = Reranker.load
    asked = []

    def tiny(source=None, **more):
        asked.append(source)
        return load(artifact, **more)

    monkeypatch.setattr(Reranker, "load", tiny)
    assert run(model=None)[0] == 0
    assert asked == [None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "float32"], "the baseline is 'float32'; expected one of the systems: 'order given', "),
        (["--json", "{tmp}/no/x.json"], "is not a folder; create it"),
        (["--html", "{tmp}"], "is not a regular file"),
        (["--json", "{tmp}/a", "--html", "{tmp}/../{tmp.name}/a"], "named for two outputs"),
        (["--json", "{tmp}/link", "--html", "{tmp}/a"], "named for two outputs"),
        (["--json", "{tmp}/data.jsonl"], "is also an input"),
        (["--json", "{tmp}/data.qrels"], "is also an input"),
        (["--html", "{tmp}/hard"], "is also an input"),
        (["--html", "{tmp}/earlier"], "already exists; choose another name, or use --overwrite"),
        (["--scores", "{tmp}/scores", "--html", "{tmp}/scores"], "is also an input"),
        (["--json", "{artifact}/x.json"], "would be part of an artifact"),
        (["--json", "{tmp}/" + "x" * 256], "cannot be written: File name too long"),
        (["--scores", "{tmp}/missing"], "cannot be read: No such file"),
    ],
)
def test_refused_before_anything_is_scored(run, unscored, tmp_path, artifact, arguments, message):
    data = tmp_path / "data.jsonl"
    data.write_bytes(GATE.read_bytes())
    (tmp_path / "data.qrels").write_text("g01 0 g01-1 1\n")
    (tmp_path / "scores").write_text("q Q0 d 1 1 x\n")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to(data)
    (tmp_path / "earlier").write_text("earlier")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    asked = [argument.format(tmp=tmp_path, artifact=artifact) for argument in arguments]
    assert message in complaint(run(*asked, data=data))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.usefixtures("unscored")
@pytest.mark.parametrize("measure", ["P@0", "\udcff"])
def test_a_measure_that_cannot_be_computed_is_a_wrong_command_line(run, capfdbinary, measure):
    with pytest.raises(SystemExit) as stop:
        run("--measure", measure)
    assert stop.value.code == 2
    said = capfdbinary.readouterr().err.decode().splitlines()[-1]
    assert said.startswith("resift eval: error: argument --measure: ")
    assert "cannot be computed" in said


def test_an_interruption_leaves_earlier_files_as_they_were(run, monkeypatch, tmp_path):
    submit, calls = Reranker.submit, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return submit(self, *arguments)

    monkeypatch.setattr(Reranker, "submit", interrupted)
    (tmp_path / "x.json").write_text("earlier")
    outputs = ("--json", tmp_path / "x.json", "--html", tmp_path / "x.html", "--overwrite")
    assert complaint(run(*outputs), code=130) == "resift: interrupted\n"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.json": "earlier"}


def test_without_the_extra(run, monkeypatch, unscored):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert "pip install 'resift[eval]'" in complaint(run())


def test_a_query_that_could_control_the_terminal(run, file):
    pools = [json.loads(line) for line in GATE.read_text().splitlines()[:3]]
    pools[0]["query"] = "\x1b[2J why\nis it"
    code, out, _ = run("--per-query", data=file("\n".join(map(json.dumps, pools)).encode(), "odd.jsonl"))
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[2J why is it" in out
