"""`resift calibrate`: what it prints and writes, how its file is used, and what it refuses."""

from __future__ import annotations

import json
import sys
import tomllib

import numpy as np
import pytest

from resift import Reranker, Settings
from resift.cli.main import main
from tests.support import tiny

pytest.importorskip("tomli_w")
TEXTS = tiny.texts()


@pytest.fixture(scope="module")
def content(reranker):
    """40 pools of 8, of which the half with the higher logits is relevant, but for every fifth by rank, turned round."""
    pools = [(TEXTS[number], [TEXTS[(7 * number + place) % len(TEXTS)] for place in range(8)]) for number in range(40)]
    ranks = np.argsort(np.argsort(np.concatenate([reranker.logits(*pool) for pool in pools]), kind="stable"))
    labels = ((ranks >= len(ranks) / 2) != (ranks % 5 == 0)).astype(int).reshape(40, 8).tolist()
    rows = [
        {"query": query, "candidates": [{"text": text, "label": label} for text, label in zip(texts, row, strict=True)]}
        for (query, texts), row in zip(pools, labels, strict=True)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def run(capsys, artifact, file, content):
    """run(options): exit code, standard output and standard error of `resift calibrate` on the pools, or of another command."""

    calibrate = ("calibrate", artifact, file(content, "pools.jsonl"))

    def run(*options, command=calibrate):
        try:
            code = main([*map(str, command), *map(str, options)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def settings(run, tmp_path):
    path = tmp_path / "settings.toml"
    assert run("-o", path)[0] == 0
    return path


def test_the_tables(run):
    code, out, err = run("--precision", 0.7, "--recall", 0.5)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "on pools: 40 queries, 320 pairs, 160 of them relevant (label 1 or above)" in lines[0]
    assert lines[1] == "40 queries say little, and the intervals are too narrow: expected 50 or more"
    assert "chosen by the log loss on held-out queries in 5 folds: platt " in lines[2]
    for start in ("sigmoid of the logit ", "calibrated ", "0.", "precision 0.7: threshold 0.", "recall 0.5: threshold 0."):
        assert any(line.startswith(start) for line in lines), start
    assert lines[-1].startswith("These figures are for pools like these: 8 candidates in the median")


def test_on_a_terminal_every_line_fits(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = run("--precision", 0.7, "--recall", 0.5)[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].strip().endswith("They say nothing of others.")


def test_the_file_holds_the_calibration_and_the_settings_that_it_was_fitted_with(run, artifact, tmp_path, file):
    before = file(
        b"[settings]\nmax_length = 32\nplan = 'full'\n[retrieval]\ncandidates = 7\n[measured]\nmodel = 'm'\n", "tuned.toml"
    )
    path = tmp_path / "settings.toml"
    code, out, err = run("-o", path, "--settings", before, "--precision", 0.7, "--threads", 1, "--json")
    assert (code, err) == (0, "")
    printed, written = json.loads(out), tomllib.loads(path.read_text())
    assert written["settings"] == {"max_length": 32, "plan": "full", "threads": 1}
    assert (written["retrieval"], written["measured"]) == ({"candidates": 7}, {"model": "m"})
    assert written["calibration"]["max_length"] == 32
    figures = written["calibration"]["measured"]
    assert (figures["queries"], figures["pairs"], figures["relevant"], figures["candidates"]) == (40, 320, 160, 8)
    assert figures["calibrated"]["ece"][0] == pytest.approx(printed["after"]["ece"]["value"], abs=1e-6)
    assert figures["threshold"][0]["threshold"] == printed["thresholds"][0]["threshold"]
    read = Settings.read(path)
    assert read.calibration.table() == {name: value for name, value in written["calibration"].items() if name != "measured"}
    with Reranker.load(artifact, settings=read) as reranker:
        assert all(each.probability is not None for each in reranker.rerank(TEXTS[0], TEXTS[1:5]))


def test_a_threshold_on_the_command_line(run, settings, artifact, file):
    documents = file("".join(f"{text}\n" for text in TEXTS[1:9]).encode())
    rerank = ("rerank", TEXTS[0], documents, "--model", artifact)
    every = json.loads(run("--json", "--settings", settings, command=rerank)[1])["results"]
    edge = every[3]["probability"]
    passing = json.loads(run("--json", "--settings", settings, "--threshold", edge, command=rerank)[1])["results"]
    assert passing == [each for each in every if each["probability"] >= edge]
    table = run("--settings", settings, "--threshold", edge, command=rerank)[1].splitlines()
    assert len(table) == 1 + len(passing)
    assert table[0].split() == ["rank", "score", "probability", "line", "document"]
    assert table[1].split()[2] == f"{every[0]['probability']:.3f}"
    code, out, err = run("--threshold", 0.5, command=rerank)
    assert (code, out) == (1, "")
    assert "the settings have no calibration: write one with `resift calibrate" in err
    assert run("--threshold", 1.5, command=rerank)[0] == 2
    assert "does not take" in run("--threshold", 0.5, "--engine", "ray", "--out", "o", command=("rerank", "p.parquet"))[2]


def test_a_threshold_for_a_file_of_pools_is_part_of_the_job(run, settings, artifact, file, content, tmp_path):
    out = tmp_path / "ranked.jsonl"
    rerank = ("rerank", "--pools", file(content, "pools.jsonl"), "--out", out, "--model", artifact)
    assert "no calibration" in run("--threshold", 0.5, command=rerank)[2]
    assert not list(tmp_path.glob("ranked*")), "a refused call changes nothing"
    assert run("--settings", settings, "--threshold", 0.5, command=rerank)[0] == 0
    ranked = [json.loads(line)["results"] for line in out.read_text().splitlines()]
    assert len(ranked) == 40
    probabilities = [each["probability"] for results in ranked for each in results]
    assert 0 < len(probabilities) < 320
    assert min(probabilities) >= 0.5
    out.unlink()
    plan = ("--plan", "full")
    assert run("--settings", settings, *plan, command=rerank)[0] == 0
    assert sum(len(json.loads(line)["results"]) for line in out.read_text().splitlines()) == 320


def test_a_precision_that_is_not_reached_is_said_and_the_file_is_written(run, tmp_path):
    path = tmp_path / "settings.toml"
    code, out, err = run("-o", path, "--precision", 0.99)
    assert code == 3
    assert err.count("\n") == 1
    assert "no threshold reaches precision 0.99 with 10 pairs or more; the highest precision is 0." in err
    assert "expected a lower --precision, or more labelled queries; " in err
    assert "precision 0.99: no threshold reaches it; the highest precision is 0." in out
    assert Settings.read(path).calibration


def test_eval_reports_both_kinds_of_probabilities(run, settings, artifact, file, content):
    pytest.importorskip("ir_measures")
    command = ("eval", file(content, "pools.jsonl"), "--model", artifact)
    plain, calibrated = (run(*more, "--json", "-", command=command)[1] for more in ((), ("--settings", settings)))
    before, after = json.loads(plain)["systems"][1], json.loads(calibrated)["systems"][1]
    assert before["calibrated"] is None
    assert after["sigmoid"] == before["sigmoid"]
    assert after["calibrated"]["brier"]["value"] < before["sigmoid"]["brier"]["value"]
    lines = run("--settings", settings, command=command)[1].splitlines()
    for name in ("sigmoid", "calibrated"):
        rows = [line.split()[-4:-2] for line in lines if f", {name} " in line]
        assert rows == [[kind, f"{after[name][kind.lower()]['value']:.4f}"] for kind in ("ECE", "Brier")]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--precision", "int8"], 2, "argument --precision: expected a share above 0, and at most 1, such as 0.9; found 'int8'"),
        (["--recall", "0"], 2, "argument --recall: expected a share above 0"),
        (["--method", "beta"], 2, "argument --method: invalid choice"),
        (["--relevant-from", "0"], 2, "argument --relevant-from: expected a whole number"),
        (["--relevant-from", "2"], 1, "all 320 pairs of pools are not relevant, as labels are 0, 1 and 2 or more is relevant"),
        (["--limit", "9"], 1, "pools has 9 different queries to calibrate by; expected 10 or more, better 50"),
        (["-o", "no/such/folder.toml"], 1, "no/such is not a folder"),
        (["--settings", "no.toml"], 1, "the settings file no.toml cannot be read"),
    ],
)
def test_bad_commands_and_data_are_one_line(run, options, code, said):
    found, out, err = run(*options)
    assert (found, out) == (code, "")
    assert said in err
    assert code == 2 or err.count("\n") == 1


def test_a_file_that_exists_is_replaced_only_if_told(run, settings):
    before = settings.read_bytes()
    assert "already exists" in run("-o", settings)[2]
    assert settings.read_bytes() == before
    assert run("-o", settings, "--overwrite", "--method", "isotonic")[0] == 0
    assert Settings.read(settings).calibration.method == "isotonic"


def test_a_calibration_of_another_artifact_is_refused_and_can_be_fitted_anew(run, settings, artifact_of, tmp_path, file):
    other = artifact_of("bert", labels=2)
    documents = file(b"one\ntwo\n")
    code, out, err = run("--settings", settings, command=("rerank", "why", documents, "--model", other))
    assert (code, out) == (1, "")
    assert "run `resift calibrate` for this artifact" in err
    again = tmp_path / "again.toml"
    assert "cannot" not in run("--settings", settings, "-o", again, "--overwrite")[2]
    assert Settings.read(again).calibration == Settings.read(settings).calibration
