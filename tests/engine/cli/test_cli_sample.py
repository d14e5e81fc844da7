"""`resift sample`, and what a newcomer types first: nothing, a word that is almost a command, --help."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from resift.cli.main import main, parser
from resift.cli.sample import read_sample
from tests.support.commands import answered, complaint, resift


def commands():
    [found] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return found.choices


def refused(capsys, *arguments):
    """The last line of standard error of a wrong command line."""
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments)])
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


@pytest.fixture
def sample(tmp_path, capsys):
    assert main(["sample", str(tmp_path / "sample")]) == 0
    capsys.readouterr()
    return tmp_path / "sample"


def test_the_sample_is_labelled_and_small():
    pools = read_sample()
    assert len(pools) == 12
    assert len({pool["query"] for pool in pools}) == 12
    texts = [candidate["text"] for pool in pools for candidate in pool["candidates"]]
    assert len(set(texts)) == len(texts) == sum(len(pool["candidates"]) for pool in pools)
    for pool in pools:
        assert 8 <= len(pool["candidates"]) <= 10
        labels = [candidate["label"] for candidate in pool["candidates"]]
        assert set(labels) == {0, 1, 2}
        assert labels[0] != 2, "the order given leaves something to do"
        assert all(candidate.keys() == {"docid", "title", "text", "label"} for candidate in pool["candidates"])


def test_the_files_of_the_sample_are_named_and_not_replaced(tmp_path, capsys):
    folder = tmp_path / "new" / "sample"
    assert main(["sample", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = lines[: lines.index("")]
    assert sorted(names) == sorted(str(path) for path in folder.rglob("*") if path.is_file())
    assert [name.removeprefix(f"{folder}/") for name in names] == [
        "documents.txt", "pools.jsonl", "pairs.csv", "run.trec", "run.qrels", "beir/corpus.jsonl", "beir/queries.jsonl",
        "beir/qrels/test.tsv",
    ]  # fmt: skip
    (folder / "run.trec").unlink()
    assert main(["sample", str(folder)]) == 0, "the sample itself is no reason to refuse"
    assert capsys.readouterr().out.splitlines() == lines
    assert (folder / "run.trec").is_file()
    (folder / "pairs.csv").write_text("mine")
    assert main(["sample", str(folder)]) == 1
    assert "already exists; choose another name, or use --overwrite" in capsys.readouterr().err
    assert (folder / "pairs.csv").read_text() == "mine"
    assert main(["sample", str(folder), "--overwrite"]) == 0
    assert (folder / "pairs.csv").read_text() != "mine"
    assert main(["sample", str(folder / "pairs.csv")]) == 1
    assert capsys.readouterr().err == f"resift: {folder}/pairs.csv is not a folder; choose another DIR\n"


def test_every_form_of_the_sample_is_evaluated_alike(artifact, sample, capsys):
    pytest.importorskip("ir_measures")
    texts = ("--texts", sample / "beir" / "corpus.jsonl", "--queries", sample / "beir" / "queries.jsonl")
    figures = []
    for data in [
        (sample / "pools.jsonl",),
        (sample / "pairs.csv",),
        (sample / "beir", "--run", sample / "run.trec", "--document-template", "{text}"),
        (sample / "run.trec", *texts, "--document-template", "{text}"),
    ]:
        assert main(["eval", *map(str, data), "--model", str(artifact), "--json", "-"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["data"]["pools"], found["data"]["pairs"], found["data"]["judgements"]) == (12, 96, 96)
        figures.append([system["measures"] for system in found["systems"]])
    assert figures[0] == figures[1] == figures[2] == figures[3]


def test_the_embedded_model_answers_the_first_query_of_the_sample(sample, capsys):
    query = read_sample()[0]["query"]
    assert main(["rerank", query, str(sample / "documents.txt"), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["results"][0]
    assert read_sample()[0]["candidates"][best["index"]]["label"] == 2


def test_a_run_of_the_sample_is_reranked_into_a_better_run(sample, tmp_path, capsys):
    """What the page of collections shows, measured by trec_eval."""
    ir_measures = pytest.importorskip("ir_measures")
    out = tmp_path / "reranked.trec"
    assert main(["rerank", "--pools", f"{sample}/beir", "--run", f"{sample}/run.trec", "--out", str(out), "--format", "trec"]) == 0
    qrels = list(ir_measures.read_trec_qrels(str(sample / "run.qrels")))
    before, after = (
        ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, list(ir_measures.read_trec_run(str(path))))[
            ir_measures.nDCG @ 10
        ]
        for path in (sample / "run.trec", out)
    )
    assert len(out.read_text().splitlines()) == 96
    assert before < 0.7
    assert after > 0.8


# What a newcomer types


def test_without_a_command_it_says_what_it_can_do():
    out = answered(resift())
    assert out.startswith("resift ")
    assert all(re.search(rf"\b{name}\b", out) for name in commands())
    lines = [line.strip() for line in out.splitlines() if line.startswith("  resift ")]
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_three_lines_to_try_work(tmp_path, artifact, monkeypatch, capsys):
    import shlex

    main([])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  resift ")]
    monkeypatch.chdir(tmp_path)
    for line in lines:
        words = shlex.split(line)[1:]
        assert main([*words, *(["--model", str(artifact)] if words[0] == "rerank" else [])]) == 0
    assert len((tmp_path / "ranked.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rernk", "q"], "invalid choice: 'rernk' (choose from "),
        (["rerank", "q", "--topk", "3"], "unrecognized arguments: --topk 3; did you mean --top-k?"),
        (["rerank", "q", "--formt=trec"], "unrecognized arguments: --formt=trec; did you mean --format?"),
        (["rerank", "q", "-", "--topk", "-x"], "did you mean --top-k?"),
        (["rerank", "q", "--provider", "cdua"], "; did you mean cuda?"),
        (["rerank", "q", "--provider", "gpu"], "invalid choice: 'gpu' (choose from "),
        (["rerank", "q", "f", "more"], "unrecognized arguments: more"),
        (["serve", "--prot", "1"], "did you mean --port?"),
        (["--verson"], "did you mean --version?"),
        (["rerank", "q", "--xyzzy"], "unrecognized arguments: --xyzzy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_almost_right_gets_a_suggestion(capsys, arguments, said):
    last = refused(capsys, *arguments)
    assert said in last
    assert ("did you mean" in last) == ("did you mean" in said or arguments[0] == "rernk")
    if arguments[0] == "rernk":
        assert last.endswith("; did you mean rerank?")


def test_help_fits_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name, command in {"": parser(), **commands()}.items():
        for line in command.format_help().splitlines():
            assert len(line) <= 80, f"{name}: {line}"


def test_options_show_their_choices_and_kinds():
    for name, command in commands().items():
        for action in command._actions:
            if action.option_strings and action.nargs != 0:
                shown = " ".join(command.format_help().split())
                assert action.metavar or action.choices, f"{name} {action.option_strings}"
                if action.choices:
                    listed = [",".join(map(str, action.choices)), ", ".join(name for name in action.choices if name != "auto")]
                    assert any(each in shown for each in listed), f"{name} {action.option_strings}"


def test_pools_without_their_option_name_it_and_the_engine(tmp_path, capsys):
    said = refused(capsys, "rerank", "pools.parquet", "-o", tmp_path)
    assert said.endswith("--out is for pools: --pools pools.parquet --out FILE, or --engine ray for Parquet on a Ray cluster")
    (tmp_path / "pools.jsonl").touch()
    assert f"--pools {tmp_path / 'pools.jsonl'} --out FILE" in refused(capsys, "rerank", tmp_path / "pools.jsonl", "-o", "out")
    assert "--pools POOLS and --out OUT must be given together" in refused(capsys, "rerank", "what are tides", "-o", "out")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["q", "--run", "r"], "--run, --texts, --queries, --format, --with-documents, --max-candidates, --on-error"),
        (["q", "--with-documents"], "are for --pools POOLS"),
        (["q", "--max-candidates", "3"], "are for --pools POOLS"),
        (["q", "--overwrite"], "are for --pools POOLS"),
        (["q", "--format", "trec"], "are for --pools POOLS"),
        (["q", "--on-error", "skip"], "are for --pools POOLS"),
        (["--pools", "p", "--out", "o", "--format", "trec", "--with-documents"], "--with-documents is for JSON Lines"),
        (["q", "--document-template", "{title"], "argument --document-template: document template '{title'"),
        (["q", "--document-template", "title"], "names no field"),
        (["p.parquet", "-o", "o", "--engine", "ray", "--run", "r"], "--engine ray does not take"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(capsys, more, said):
    assert said in refused(capsys, "rerank", *more)


def test_info_begins_with_what_runs_here(artifact):
    brief, whole = answered(resift("info", artifact)), answered(resift("info", artifact, "--all"))
    assert brief.splitlines()[0].startswith("model: ")
    assert brief.splitlines()[1:4] == [f"artifact: {artifact}", "runs:", "  variant: model.int8.onnx"]
    assert len(brief.splitlines()) < 30
    assert brief.splitlines()[-1] == "`resift info --all` also prints the graphs, the certificate and the recipe"
    assert whole.startswith("".join(f"{line}\n" for line in brief.splitlines()[:-1]))
    assert "\ngraphs:\n" in whole
    assert "graphs:" not in brief
    assert "\nforced: no\n" in whole
    assert "\n  revision: none\n" in whole
    assert "\ndocument_template: {text}\nscores: sigmoid\n" in brief


def test_a_missing_text_of_a_run_is_one_line(sample):
    said = complaint(resift("rerank", "--pools", sample / "run.trec", "--out", sample / "out"))
    assert (
        said == f"resift: {sample / 'run.trec'} is a TREC run, which holds no texts; name them: --texts FILE and --queries FILE\n"
    )
