"""`resift tune`: what it prints and writes, and what it refuses. Times are pretended: a millisecond a candidate and thread."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import tomllib
from dataclasses import asdict

import pytest

from resift import Settings
from resift.cli.main import main
from resift.evaluate.tuning.timing import Bench
from resift.pools.trec import read_qrels
from tests.support import tiny
from tests.support.commands import LINES, QUERY, answered, resift

TEXTS = tiny.texts()


def lines(count=4, size=12, label=None):
    rows = []
    for number in range(count):
        candidates = [{"docid": f"d{place}", "text": TEXTS[(number * 7 + place) % len(TEXTS)]} for place in range(size)]
        if label:
            candidates = [{**each, "label": label(place)} for place, each in enumerate(candidates)]
        rows.append({"qid": f"q{number}", "query": TEXTS[number], "candidates": candidates})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def with_own_query():
    """The lines of pools, of which the second holds its query as a third candidate."""
    first, own, *others = lines().splitlines()
    row = json.loads(own)
    row["candidates"].insert(2, {"docid": "q1", "text": row["query"]})
    return b"\n".join([first, json.dumps(row).encode(), *others])


@pytest.fixture
def pools(file):
    return file(lines(), "pools.jsonl")


@pytest.fixture
def pretended(monkeypatch):
    """Sets the milliseconds of a call to `factor` for each candidate and thread."""

    def pretend(factor=1.0):
        monkeypatch.setattr(Bench, "milliseconds", lambda self, settings, pool: factor * len(pool.documents) / settings.threads)

    pretend()
    return pretend


@pytest.fixture
def tune(artifact, pools, pretended, capsys, monkeypatch):
    """tune(options): exit code, standard output and standard error of `resift tune` on tiny pools and threads 1 and 2."""
    monkeypatch.setattr("resift.cli.meter.LINE_SECONDS", math.inf)

    def run(*options, source=pools):
        given = [] if "--threads" in options else ["--threads", "2"]
        try:
            code = main(["tune", str(source), "--model", str(artifact), "--precision", "int8", *given, *map(str, options)])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_table_shows_the_frontier_and_what_was_chosen(tune):
    code, out, err = tune("--candidates", 4, 8, 12)
    assert (code, err) == (0, "")
    assert "4 pools, none has a relevant document by labels, so quality is the agreement with the ranking of all" in out
    assert "4 were timed, 4 times each" in out
    assert "p95 of 4 pools says little" in out
    rows = [line.split() for line in out.splitlines() if "int8  " in line]
    assert rows[-1] == ["*", "12", "int8", "2", "256", "6.0", "6.0", "1.0000"]
    assert out.splitlines()[-1] == "* chosen: 12 candidates, int8, 2 threads: p95 6.0 ms"


def test_queries_left_out_of_their_own_candidates_are_counted(tune, file):
    out = tune("--candidates", 4, source=file(with_own_query(), "own.jsonl"))[1]
    assert "4 were timed, 4 times each; queries left out of their own candidates, by id and text: 1" in out


def test_it_says_how_little_few_queries_tell(tune, file):
    source = file(lines(label=lambda place: int(place == 6)), "graded.jsonl")
    found = json.loads(tune("--candidates", 6, 12, "--json", source=source)[1])
    chosen = found["chosen"]
    [rival] = [point for point in found["points"] if point["candidates"] != chosen["candidates"]]
    low, high = rival["lead"]
    said = (
        f"nDCG@10 of {chosen['candidates']} candidates minus that of {rival['candidates']}: "
        f"{chosen['quality'] - rival['quality']:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}], {high - low:.4f} wide, by 4 queries"
    )
    unclear = ": these cannot tell which is better" if low <= 0 <= high else ""
    assert said + unclear in tune("--candidates", 6, 12, source=source)[1].splitlines()


def test_json_holds_every_point(tune):
    code, out, _ = tune("--candidates", 4, 8, 12, "--budget-ms", 4.5, "--json")
    found = json.loads(out)
    assert code == 0
    assert [(point["candidates"], point["latency_ms"]["p95"], point["fits"]) for point in found["points"]] == [
        (4, 2.0, True),
        (8, 4.0, True),
        (12, 6.0, False),
    ]
    assert found["chosen"] == found["points"][1]
    assert found["chosen"]["settings"] == asdict(Settings(provider="cpu", threads=2, token_budget=256, precision="int8"))


def test_one_thread_is_one_thread(tune):
    out = json.loads(tune("--threads", 1, "--json")[1])
    assert {point["settings"]["threads"] for point in out["points"]} == {1}


def test_labels_and_judgements_beside_the_pools_count(tune, file, tmp_path):
    source = file(lines(label=lambda place: int(place == 3)), "graded.jsonl")
    code, out, _ = tune(source=source)
    assert code == 0
    assert "4 pools, 4 of them have labels" in out
    assert "order given: nDCG@10 0.4307" in out
    (tmp_path / "graded.qrels").write_text("q1 0 d0 1\nq1 0 elsewhere 1\n")
    found = json.loads(tune("--json", source=source)[1])
    assert (found["judged"], round(found["given"], 4)) == (1, 0.6131)
    other = tmp_path / "other.txt"
    other.write_text("q1 0 d0 1\nq2 0 d0 1\n")
    found = json.loads(tune("--qrels", other, "--json", source=source)[1])
    assert (found["judged"], found["given"]) == (2, 1.0)
    assert read_qrels(other) == {"q1": {"d0": 1}, "q2": {"d0": 1}}


def test_it_says_if_reranking_is_no_better_than_the_order_given(tune, file):
    source = file(lines(label=lambda place: int(place == 0)), "first.jsonl")
    said = "reranking buys nothing within this budget: the order given has nDCG@10 1.0000"
    assert said in tune("--budget-ms", 100, source=source)[1]
    assert "reranking buys nothing" not in tune("--budget-ms", 100, source=file(lines(), "unlabelled.jsonl"))[1]


def test_a_limit_reads_the_first_pools_only(tune):
    assert json.loads(tune("--limit", 2, "--json")[1])["pools"] == 2


# The file


def test_the_file_is_read_by_every_command(tune, tmp_path, artifact):
    out = tmp_path / "tuned.toml"
    code, _, err = tune("--candidates", 4, 8, "--budget-ms", 4.5, "--out", out)
    assert (code, err) == (0, "")
    assert Settings.read(out) == Settings(provider="cpu", precision="int8", threads=2, token_budget=256)
    written = tomllib.loads(out.read_text())
    assert written["retrieval"] == {"candidates": 8}
    assert set(written["measured"]) == {
        *("model", "machine", "p50_ms", "p95_ms", "budget_ms", "measure", "quality"),
        *("pools_judged", "pools_timed", "date", "resift"),
    }
    assert (written["measured"]["p95_ms"], written["measured"]["measure"]) == (4.0, "agreement@10")
    runs = json.loads(answered(resift("info", artifact, "--json", "--settings", out)))["runs"]
    assert (runs["threads"], runs["token_budget"], runs["precision"]) == (2, 256, "int8")
    ranked = answered(resift("rerank", QUERY, "--model", artifact, "--settings", out, given=LINES))
    assert ranked == answered(resift("rerank", QUERY, "--model", artifact, given=LINES))


def test_any_text_is_written_as_toml(tune, tmp_path, monkeypatch):
    from resift import machine

    name = 'a "processor"\n[settings]\nthreads = 9 \\ \x00\x1b é'
    monkeypatch.setattr(machine, "processor", lambda: name)
    assert tune("--out", tmp_path / "tuned.toml")[0] == 0
    assert Settings.read(tmp_path / "tuned.toml").threads == 2
    assert tomllib.loads((tmp_path / "tuned.toml").read_text())["measured"]["machine"].startswith(name)


def test_what_was_fixed_is_written_too(tune, tmp_path):
    assert tune("--max-length", 30, "--threads", 1, "--out", tmp_path / "tuned.toml")[0] == 0
    expected = Settings(provider="cpu", threads=1, token_budget=256, max_length=30, precision="int8")
    assert Settings.read(tmp_path / "tuned.toml") == expected


def test_settings_from_a_file_are_kept_to(tune, tmp_path):
    fixed = tmp_path / "fixed.toml"
    fixed.write_text("[settings]\nthreads = 1\ntoken_budget = 100\nmax_length = 30\n")
    code = tune("--settings", fixed, "--threads", 2, "--out", tmp_path / "tuned.toml")[0]
    assert code == 0
    found = Settings.read(tmp_path / "tuned.toml")
    assert (found.threads, found.token_budget, found.max_length) == (2, 100, 30)


def test_if_nothing_holds_the_budget_nothing_is_written_and_the_code_is_3(tune, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, out, err = tune("--budget-ms", 0.5, "--out", tmp_path / "tuned.toml", "--plot", tmp_path / "tuned.svg")
    assert code == 3
    assert "does not hold the budget" in out
    assert err.startswith(
        "resift: nothing holds 0.5 ms for 95% of all calls; the nearest is 5 candidates, int8, 2 threads, p95 2.5 ms"
    )
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_plot_shows_every_point(tune, tmp_path, kind):
    plot = tmp_path / f"tuned.{kind}"
    assert tune("--candidates", 4, 8, 12, "--budget-ms", 4.5, "--plot", plot)[0] == 0
    content = plot.read_bytes()
    if kind == "png":
        assert content.startswith(b"\x89PNG\r\n")
    else:
        text = content.decode()
        for said in (">4<", ">8<", ">12<", "budget, 4.5 ms", "chosen", "agreement@10, mean of 4 pools"):
            assert said in text


# What is refused, before anything is measured


@pytest.fixture
def unmeasured(monkeypatch):
    def refuse(*_):
        raise AssertionError("measured before the refusal")

    monkeypatch.setattr(Bench, "orders", refuse)


def refused(run, said, code=1):
    found, out, err = run
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    if code == 1:
        assert err.count("\n") == 1


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("option", ["--out", "--plot"])
class TestRefusedNames:
    def name(self, option, stem="tuned"):
        return f"{stem}.toml" if option == "--out" else f"{stem}.svg"

    def test_an_existing_file(self, tune, tmp_path, option):
        path = tmp_path / self.name(option)
        path.write_text("mine")
        refused(tune(option, path), "already exists; choose another name, or use --overwrite")
        assert path.read_text() == "mine"

    def test_a_folder(self, tune, tmp_path, option):
        refused(tune(option, tmp_path, "--overwrite"), "is not a regular file")

    def test_a_missing_folder(self, tune, tmp_path, option):
        refused(tune(option, tmp_path / "none" / self.name(option)), "none is not a folder; create it")

    def test_an_artifacts_folder(self, tune, copy, option):
        before = sorted(copy.iterdir())
        refused(tune(option, copy / self.name(option), "--overwrite"), "would be part of an artifact, which holds only")
        assert sorted(copy.iterdir()) == before

    def test_an_artifacts_folder_through_a_link(self, tune, copy, tmp_path, option):
        (tmp_path / "link").symlink_to(copy)
        refused(tune(option, tmp_path / "link" / self.name(option)), "would be part of an artifact")

    def test_the_input(self, tune, file, option):
        source = file(lines(), self.name(option))
        refused(tune(option, source, "--overwrite", source=source), "is also an input")
        assert source.read_bytes() == lines()

    def test_the_input_by_another_name(self, tune, pools, tmp_path, option):
        os.link(pools, tmp_path / self.name(option))
        refused(tune(option, tmp_path / self.name(option), "--overwrite"), "is also an input")

    def test_a_device(self, tune, option):
        refused(tune(option, "/dev/null", "--overwrite"), "is not a regular file")

    def test_a_name_that_is_too_long(self, tune, tmp_path, option):
        refused(tune(option, tmp_path / self.name(option, "x" * 300)), "cannot be written")

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written(self, tune, tmp_path, option):
        folder = tmp_path / "closed"
        folder.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        refused(tune(option, folder / self.name(option)), "cannot be written")


def test_overwrite_replaces_a_file_and_keeps_a_link(tune, tmp_path):
    (tmp_path / "real.toml").write_text("before")
    (tmp_path / "tuned.toml").symlink_to("real.toml")
    assert tune("--out", tmp_path / "tuned.toml", "--overwrite")[0] == 0
    assert (tmp_path / "tuned.toml").is_symlink()
    assert Settings.read(tmp_path / "real.toml").threads == 2


def test_a_file_that_appears_meanwhile_is_kept(tune, tmp_path, monkeypatch):
    path = tmp_path / "tuned.toml"

    def appear(self, settings, pool):
        path.write_text("mine")
        return 1.0

    monkeypatch.setattr(Bench, "milliseconds", appear)
    refused(tune("--out", path), "tuned.toml already exists")
    assert path.read_text() == "mine"


def test_a_full_disk_leaves_what_was_there(tune, tmp_path, monkeypatch):
    path = tmp_path / "tuned.toml"
    path.write_text("before")

    def full(_):
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    refused(tune("--out", path, "--overwrite"), "tuned.toml cannot be written: No space left")
    assert (path.read_text(), sorted(tmp_path.iterdir())) == ("before", before)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--plot", "tuned.gif"], "'tuned.gif' is not the name of a plot; expected one that ends in .svg, .png, .pdf", 2),
        (["--qrels", "none.qrels"], "none.qrels cannot be read", 1),
        (["--settings", "none.toml"], "none.toml cannot be read", 1),
        (["--candidates"], "expected at least one argument", 2),
        (["--out", "a.svg", "--plot", "a.svg"], "a.svg is named for two outputs", 1),
        (["--check", "a.toml", "--out", "b.toml"], "--check takes no --out", 2),
        (["--check", "a.toml", "--settings", "b.toml"], "--check takes no --settings", 2),
    ],
)
def test_other_command_lines_are_refused(tune, tmp_path, monkeypatch, options, said, code):
    monkeypatch.chdir(tmp_path)
    refused(tune(*options), said, code)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "none of the 0 pools has two candidates"),
        (lines(size=1), "none of the 4 pools has two candidates"),
        (lines(size=0), "none of the 4 pools has two candidates"),
        (b"water\n", "line 1: not JSON"),
        (lines() + b'{"query": 3}\n', "line 5: 'query' is a number"),
        (lines(label=lambda place: "high"), "pool 1 (qid 'q0'): candidates[0]: 'label' is a string, 'high'; expected an integer"),
    ],
    ids=["empty", "pools of one", "empty pools", "text", "a bad line", "labels as text"],
)
def test_bad_pools_are_refused(tune, file, content, said):
    refused(tune(source=file(content, "bad.jsonl")), said)


@pytest.mark.parametrize(("module", "option", "name"), [("tomli_w", "--out", "a.toml"), ("matplotlib", "--plot", "a.svg")])
def test_a_missing_extra_is_named_before_anything_is_measured(tune, tmp_path, monkeypatch, unmeasured, module, option, name):
    monkeypatch.setitem(sys.modules, module, None)
    refused(tune(option, tmp_path / name), "pip install 'resift[eval]'")


def test_an_interruption_leaves_no_file(tune, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Bench, "milliseconds", interrupted)
    assert tune("--out", tmp_path / "tuned.toml", "--plot", tmp_path / "tuned.svg") == (130, "", "resift: interrupted\n")
    assert sorted(tmp_path.iterdir()) == before


# A second run


@pytest.fixture
def tuned(tune, tmp_path):
    assert tune("--candidates", 4, 8, "--budget-ms", 4.5, "--out", tmp_path / "tuned.toml")[0] == 0
    return tmp_path / "tuned.toml"


def test_a_second_run_uses_the_files_settings_and_candidates(tune, tuned, pretended):
    pretended(1.1)
    code, out, err = tune("--check", tuned)
    assert (code, err) == (0, "")
    assert "8 calls on 4 pools, the first 8 candidates of each: p50 4.4 ms, p95 4.4 ms" in out
    assert "within 4.5 ms: 100.0% of all calls; expected 95% or more" in out


def test_a_second_run_that_does_not_hold_its_budget_has_code_3(tune, tuned, pretended):
    pretended(1.2)
    code, out, err = tune("--check", tuned)
    assert code == 3
    assert "within 4.5 ms: 0.0%" in out
    assert err == f"resift: {tuned} does not hold its budget: 0.0% of all calls took at most 4.5 ms\n"
    assert tune("--check", tuned, "--budget-ms", 5)[0] == 0
    found = json.loads(tune("--check", tuned, "--json")[1])
    assert (found["holds"], found["share_within"], found["candidates"], found["settings"]["threads"]) == (False, 0.0, 8, 2)


@pytest.mark.parametrize("name", ["own.qrels", "other.qrels"])
def test_a_second_run_goes_by_the_judgements_of_the_first(tune, tuned, file, name):
    """The query's document is judged relevant, so it is a candidate: the largest pool has 13."""
    tuned.write_text(tuned.read_text().replace("candidates = 8", "candidates = 13"))
    source, judgements = file(with_own_query(), "own.jsonl"), file(b"q1 0 q1 1\n", name)
    options = [] if name == "own.qrels" else ["--qrels", judgements]
    assert "p95 6.5 ms" in tune("--check", tuned, "--budget-ms", 9, *options, source=source)[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("budget_ms", "#"), "names no budget; give one with --budget-ms"),
        (lambda text: text.replace('model = "', 'model = "not '), "was measured with not "),
        (lambda text: text.replace("candidates = 8", "candidates = 0"), "candidates is 0; expected 1 or more"),
        (lambda text: text.replace("candidates = 8", "candidates = 'all'"), "expected [retrieval] and [measured] as"),
        (lambda text: text.replace("threads = 2", "thread = 2"), "[settings] has 'thread'"),
    ],
)
def test_a_file_that_cannot_be_checked_is_refused(tune, tuned, change, said):
    tuned.write_text(change(tuned.read_text()))
    refused(tune("--check", tuned), said)
