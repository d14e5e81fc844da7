"""The comparison with rivals: the protocol, what is kept of a run, its figures, and what a later run is told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from resift import Reranker
from resift.pools.reading import CandidatePool
from tests.conftest import REPOSITORY

FAKE = """
import sys
sys.path.insert(0, {scripts!r})
from protocol import serve

def load(model, threads, *options):
    print("a banner on standard output")
    if model == "broken":
        raise ValueError("these weights are not mine\\nand more lines")
    def score(query, documents):
        print("and more of it")
        with open({asked!r}, "a") as file:
            file.write(query + chr(10))
        if query == "raise":
            raise RuntimeError("no such query")
        if query == "die":
            import os
            os._exit(7)
        return [len(document) * (-1 if model == "backwards" else 1) for document in documents]
    return score

serve(load, ("numpy",))
"""


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))


@pytest.fixture
def asked(tmp_path):
    """The queries that fakes were asked, a line each."""
    return tmp_path / "asked"


@pytest.fixture
def contender(tmp_path, asked):
    """contender(name): one that runs the fake, in this interpreter."""
    from benchmarks.compare.catalogue import SCRIPTS, Contender
    from benchmarks.environments import Environment

    script = tmp_path / "run_fake.py"
    script.write_text(FAKE.format(scripts=str(SCRIPTS), asked=str(asked)))
    return lambda name: Contender(name, name.upper(), str(script), Environment(name, (), interpreter=sys.executable), "checkpoint")


@pytest.fixture
def started(contender):
    """started(model): a running fake with that model."""
    from benchmarks.compare.running import ContenderProcess

    processes = []

    def start(model):
        processes.append(ContenderProcess(contender("fake"), model, 1))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def case(*queries, name="fake-30", at_once=1):
    from benchmarks.compare.cases import Case

    documents = ["a", "bbb", "cc", "dddd"]
    pools = tuple(CandidatePool(query, documents, query, [{"label": label} for label in (0, 1, 0, 2)]) for query in queries)
    return Case(name, pools, 1, at_once, labelled=True)


def measurement(tmp_path, contenders, models):
    from benchmarks.compare.rounds import Measurement
    from benchmarks.compare.turns import KeptTurns

    identities = {each.name: f"{each.name} {models[each.name]}" for each in contenders}
    return Measurement(list(contenders), models, identities, KeptTurns(tmp_path / "turns.jsonl"), tmp_path)


def run(tmp_path, contenders, models, *cases, repeats=1):
    from benchmarks.compare.rounds import measure_cases, measure_starts

    found = measurement(tmp_path, contenders, models)
    measure_starts(found, cases[0])
    measure_cases(found, cases, repeats)
    return found


# The protocol


def test_a_contender_answers_in_scores_whatever_its_library_prints(started):
    process = started("lengths")
    answer = process.rank([("q", ["a", "bbb"]), ("r", ["cc"])])
    assert answer["scores"] == [[1.0, 3.0], [2.0]]
    assert answer["seconds"] > 0
    assert process.report()["versions"]["numpy"] == np.__version__


def test_what_a_library_computes_when_its_scores_are_read_is_timed(monkeypatch):
    from benchmarks.compare.catalogue import SCRIPTS

    monkeypatch.syspath_prepend(str(SCRIPTS))
    import protocol

    now = [0.0]

    def score(_query, documents):
        for _ in documents:
            now[0] += 1.0
            yield 1.0

    monkeypatch.setattr(protocol, "time", SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0]))
    for score_many in (None, lambda pools: [score(*pool) for pool in pools]):
        now[0] = 0.0
        answer = protocol.respond({"pools": [["q", ["a", "b"]], ["r", ["c"]]]}, score, score_many, ())
        assert (answer["seconds"], answer["cpu_seconds"]) == (3.0, 3.0)
        assert answer["scores"] == [[1.0, 1.0], [1.0]]


def test_documents_are_prepared_before_the_clock_starts(monkeypatch):
    from benchmarks.compare.catalogue import SCRIPTS

    monkeypatch.syspath_prepend(str(SCRIPTS))
    import protocol

    now, prepared = [0.0], []

    def prepare(pools):
        now[0] += 5.0
        prepared.extend(pools)

    monkeypatch.setattr(protocol, "time", SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0]))
    answer = protocol.respond({"pools": [["q", ["a"]]]}, lambda _query, documents: [1.0 for _ in documents], None, (), prepare)
    assert (answer["seconds"], prepared) == (0.0, [["q", ["a"]]])


def test_resift_reads_prepared_documents_from_a_store(monkeypatch, split_artifact):
    from benchmarks.compare.catalogue import SCRIPTS

    monkeypatch.syspath_prepend(str(SCRIPTS))
    import protocol

    monkeypatch.setattr(protocol, "serve", lambda *_: None)
    import run_resift

    monkeypatch.delitem(sys.modules, "run_resift")
    loaded, load = [], Reranker.load
    monkeypatch.setattr(Reranker, "load", lambda *values, **named: loaded.append(load(*values, **named)) or loaded[-1])
    pool = ("why are there tides", ["The moon pulls the sea.", "Bread rises.", "The sea rises twice a day."])
    score, score_many, prepare = run_resift.load(str(split_artifact), 1, "first-look", "prepared")
    found = []
    for each in (pool, ("what rises", ["Bread.", pool[1][0]])):
        prepare([each])
        found.append(score(*each))
        counts = loaded[0].rerank(*each, plan="first-look").states
        assert (counts.prepared, counts.cached, counts.new) == (len(each[1]), 0, 0)
    assert score_many([pool]) == [found[0]]
    new, _ = run_resift.load(str(split_artifact), 1, "first-look")
    assert new(*pool) == found[0]
    for reranker in loaded:
        reranker.close()


def test_why_a_contender_does_not_load_is_told(started):
    from benchmarks.compare.running import ContenderError

    with pytest.raises(ContenderError, match=r"^ValueError: these weights are not mine$"):
        started("broken").rank([("q", ["a"])])


def test_an_error_or_an_end_is_told(started):
    from benchmarks.compare.running import ContenderError

    process = started("lengths")
    with pytest.raises(ContenderError, match="no such query"):
        process.rank([("raise", ["a"])])
    assert process.rank([("q", ["a"])])["scores"] == [[1.0]]
    with pytest.raises(ContenderError, match="exit code 7"):
        process.rank([("die", ["a"])])


def test_a_paused_contender_answers_once_it_runs_again(started):
    process = started("lengths")
    process.rank([("q", ["a"])])
    process.pause()
    process.resume()
    assert process.rank([("q", ["a", "bb"])])["scores"] == [[1.0, 2.0]]


# Rounds, and what is kept of them


def test_every_request_goes_to_every_contender_and_one_that_fails_is_named(tmp_path, contender):
    contenders = [contender("one"), contender("two"), contender("three")]
    found = run(tmp_path, contenders, {"one": "x", "two": "broken", "three": "backwards"}, case("q", "r"), repeats=2)
    assert found.reasons == {"two": "ValueError: these weights are not mine"}
    ranks = [turn for turn in found.turns if turn.case == "fake-30"]
    assert [(turn.group, turn.repeat) for turn in ranks] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert all(set(turn.answers) == {"one", "three"} for turn in found.turns)
    assert ranks[0].answers["three"]["scores"] == [[-1.0, -3.0, -2.0, -4.0]]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, contender, asked):
    contenders, models = [contender("one"), contender("two")], {"one": "x", "two": "broken"}
    first = run(tmp_path, contenders, models, case("q", "r"))
    with (tmp_path / "turns.jsonl").open("a") as file:
        file.write('{"case": "fake-30", "torn')
    asked.unlink()
    second = run(tmp_path, contenders, models, case("q", "r"))
    assert not asked.exists()
    assert second.turns == first.turns
    assert second.reasons == first.reasons
    # A further case is new, and a contender that has changed is asked again.
    run(tmp_path, contenders, models, case("q", "r"), case("s", name="other-30"))
    assert asked.read_text().split() == ["q", "s", "s"]  # both cases' first pools warm up
    asked.unlink()
    run(tmp_path, contenders, {**models, "one": "changed"}, case("q", "r"))
    assert {"q", "r"} <= set(asked.read_text().split())


def test_a_run_out_of_time_has_some_requests_of_every_case(tmp_path, contender):
    found = run(tmp_path, [contender("one")], {"one": "x"}, case("q", "r"), case("s", "t", "u", name="other-30"))
    order = [(turn.case, turn.group) for turn in found.turns if turn.case != "start"]
    assert order == [("fake-30", 0), ("other-30", 0), ("fake-30", 1), ("other-30", 1), ("other-30", 2)]


def test_a_turn_with_fewer_contenders_is_not_taken_over(tmp_path, contender):
    """Ratios are of one turn: what a newcomer answers later cannot be compared with it."""
    run(tmp_path, [contender("one")], {"one": "x"}, case("q"))
    both = run(tmp_path, [contender("one"), contender("two")], {"one": "x", "two": "x"}, case("q"))
    assert all(set(turn.answers) == {"one", "two"} for turn in both.turns)
    assert {turn.case for turn in both.turns} == {"fake-30", "start"}


def test_no_turn_begins_after_the_time(tmp_path, contender):
    from benchmarks.compare.rounds import measure_cases

    found = measurement(tmp_path, [contender("one")], {"one": "x"})
    found.until = 0
    measure_cases(found, [case("q")], 1)
    assert found.turns == []


def test_queries_that_come_at_once_are_one_request(tmp_path, contender):
    found = run(tmp_path, [contender("one")], {"one": "x"}, case("q", "r", "s", at_once=2))
    assert [len(turn.answers["one"]["scores"]) for turn in found.turns if turn.case == "fake-30"] == [2, 1]


# Figures


def turn(group, answers, repeat=0, of="fake-30"):
    from benchmarks.compare.turns import Turn

    found = {
        name: {"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_mb": 100.0, "elsewhere": 0.0, "scores": [scores]}
        for name, (seconds, scores) in answers.items()
    }
    return Turn(of, "digest", group, repeat, dict.fromkeys(answers, ""), found)


BEST, WORST = [1.0, 3.0, 2.0, 4.0], [4.0, 2.0, 3.0, 1.0]


def test_ratios_are_taken_within_a_turn():
    from benchmarks.compare import figures

    # The machine was ten times slower in the second turn, for both.
    turns = [turn(0, {"base": (0.1, BEST), "other": (0.2, BEST)}), turn(1, {"base": (1.0, BEST), "other": (2.0, BEST)})]
    row = figures.rows_of(case("q", "r"), turns, "base", "base")[1]
    assert row["contender"] == "other"
    assert row["seconds_ratio"] == {"median": pytest.approx(2), "quartiles": pytest.approx([2, 2])}
    assert row["cpu_seconds_ratio"]["median"] == pytest.approx(2)
    assert row["pairs_s"] == pytest.approx(8 / 2.2)


def test_percentiles_are_over_all_measurements():
    from benchmarks.compare import figures

    # One slow measurement of three in a pool: the pool's median hides it, the 95th percentile of all twelve does not.
    seconds = [[0.1, 0.1, 0.9], [0.1, 0.1, 0.9], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]
    turns = [turn(group, {"a": (each, BEST)}, repeat) for group, row in enumerate(seconds) for repeat, each in enumerate(row)]
    row = figures.times(turns, "a", case("q", "r", "s", "t"))
    assert row["p50_ms"] == pytest.approx(100)
    assert row["p95_ms"] == pytest.approx(1000 * np.percentile(np.ravel(seconds), 95))
    assert row["p95_ms"] > 800


def test_quality_is_that_of_the_rankings():
    from benchmarks.compare import figures

    turns = [turn(0, {"base": (1, BEST), "same": (1, BEST), "reversed": (1, WORST)})]
    rows = {row["contender"]: row for row in figures.rows_of(case("q"), turns, "base", "base")}
    assert (rows["same"]["nDCG@10"], rows["same"]["tau"], rows["same"]["overlap@10"]) == (1.0, 1.0, 1.0)
    assert rows["reversed"]["tau"] == -1
    assert rows["reversed"]["nDCG@10"] < rows["reversed"]["reference_nDCG@10"] == 1
    unlabelled = replace(case("q"), labelled=False)
    assert figures.rows_of(unlabelled, turns, "base", "base")[0]["nDCG@10"] is None
    assert figures.rows_of(case("q"), turns, "base", "absent")[0]["tau"] is None


def test_who_is_missing_is_in_every_table_with_the_reason():
    from benchmarks.compare import report

    turns = [
        turn(0, {"resift-full": (0.1, BEST), "pytorch": (0.5, BEST)}),
        replace(
            turn(0, {"resift-full": (0.5, BEST)}, of="start"),
            answers={"resift-full": {"seconds": 0.5, "peak_mb": 190.0, "versions": {}}},
        ),
    ]
    found = report.content([case("q")], turns, "resift-full", {"install_mb": {"resift-full": 200.0}}, {"kjarni": "no wheel"})
    for text in (report.tables(found), report.tables(found, markdown=True)):
        assert text.count("kjarni, float32") == 3
        assert text.count("not measured: no wheel") == 3
        assert "5.00x" in text
        assert "Best rival of equal quality: sentence-transformers, PyTorch float32, 5.00x" in text
    assert "scores" not in json.dumps(found)
    rows = [row.count("|") for row in report.tables(found, markdown=True).splitlines() if row.startswith("| sentence")]
    assert rows == [3, 12]  # of the table of all cases, and of the case's own


# Later runs


def report_of(ratios, processor="one"):
    turns = [
        {"case": "c", "answers": {"resift-full": {"seconds": 1.0}, "pytorch": {"seconds": ratio}}, "group": 0, "repeat": 0}
        for ratio in ratios
    ]
    return {"format": 1, "machine": {"processor": processor}, "turns": turns}


def test_a_fall_beyond_noise_is_told_from_one_within():
    from benchmarks.compare import against

    steady = [5.0, 5.1, 4.9, 5.0, 5.05, 4.95]
    (certain,) = against.falls(report_of(steady), report_of([each - 1 for each in steady]))
    assert certain.is_certain
    assert (certain.rival, certain.contender, certain.before, certain.after) == ("pytorch", "resift-full", 5.0, 4.0)
    (within,) = against.falls(report_of([3, 8, 5, 4, 7, 5.2]), report_of([3.5, 7, 5, 4, 7, 4.8]))
    assert not within.is_certain
    assert against.falls(report_of(steady), report_of([each + 1 for each in steady])) == []
    assert not against.falls(report_of([5.0, 5.0]), report_of([2.0, 2.0]))[0].is_certain  # two turns tell nothing


def test_a_report_of_another_machine_is_refused():
    from benchmarks.compare import against

    with pytest.raises(against.MachineError, match="processor is 'other', here it is 'one'"):
        against.falls(report_of([1.0], "other"), report_of([1.0]))
    with pytest.raises(against.MachineError, match="format 0"):
        against.falls({**report_of([1.0]), "format": 0}, report_of([1.0]))


# Cases, contenders and the list of benchmarks


def test_generated_pairs_have_their_length_and_are_the_same_everywhere():
    from benchmarks.compare.texts import SPREAD, generated_pools

    def length(query, document):
        return len(query.split()) + len(document.split()) + 3

    for tokens in (10, 95, 256):
        pools = generated_pools(tokens, 6, 2, length)
        found = [length(pool.query, document) for pool in pools for document in pool.documents]
        assert all((1 - SPREAD) * tokens - 1 <= each <= (1 + SPREAD) * tokens + 1 for each in found)
        assert abs(np.mean(found) / tokens - 1) < SPREAD / 2
        assert [pool.documents for pool in generated_pools(tokens, 6, 2, length)] == [pool.documents for pool in pools]


def test_what_the_catalogue_names_exists():
    from benchmarks.compare.catalogue import CONTENDERS, LOCKED, SCRIPTS

    assert len({each.name for each in CONTENDERS}) == len(CONTENDERS)
    for each in CONTENDERS:
        assert (SCRIPTS / each.script).is_file(), each.name
        versions = each.environment.constraints.read_text().lower().replace("_", "-")
        for requirement in each.environment.requirements:
            name = requirement.split("[")[0].split("<")[0].split(">")[0]
            assert requirement == str(REPOSITORY) or f"\n{name}" in versions, f"{each.name}: {requirement} is not locked"
    assert {path.stem for path in LOCKED.glob("*.in")} == {path.stem for path in LOCKED.glob("*.txt")}


def test_unknown_contenders_and_cases_are_refused_by_name(monkeypatch, capsys, tmp_path):
    import benchmarks.compare.__main__ as command

    for arguments, message in (
        (["--contenders", "nobody"], "no contender 'nobody'"),
        (["--cases", "nothing"], "no case 'nothing'"),
    ):
        monkeypatch.setattr("sys.argv", ["compare", "--folder", str(tmp_path / "folder"), *arguments])
        assert command.main() == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for an interpreter")
def test_why_an_environment_cannot_be_made_is_told(tmp_path):
    from benchmarks.environments import Environment, InstallError

    versions = tmp_path / "versions.txt"
    versions.write_text("resift-of-no-index==1.0\n")
    environment = Environment("none", ("resift-of-no-index",), versions, tmp_path)
    pip = environment.python
    pip.parent.mkdir(parents=True)
    # In place of an interpreter with pip: what pip says with and without the constraint.
    pip.write_text(f"""#!{sys.executable}
import sys
conflict = "ERROR: Cannot install x because of conflicts.\\n\\nERROR: ResolutionImpossible: see a page"
sys.exit("WARNING: none\\nERROR: No matching distribution found for x" if "--dry-run" in sys.argv else conflict)
""")
    pip.chmod(0o755)
    with pytest.raises(InstallError, match=r"^No matching distribution found for x$"):
        environment._pip("-c", str(versions), *environment.requirements)


def test_one_list_runs_every_benchmark(monkeypatch, capsys):
    import benchmarks.__main__ as command

    listed = set(command.names())
    assert {"compare", "frontier", "load", "older", "sizes"} <= listed
    assert listed == {
        path.stem if path.stem != "__main__" else path.parent.name
        for path in (*(REPOSITORY / "benchmarks").glob("*.py"), *(REPOSITORY / "benchmarks").glob("*/__main__.py"))
        if "def main(" in path.read_text() and path.parent.name + path.stem != "benchmarks__main__"
    }
    monkeypatch.setattr("sys.argv", ["benchmarks", "nothing"])
    assert command.main() == 2
    assert "no benchmark 'nothing'" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["benchmarks", "frontier", "--help"])
    monkeypatch.delitem(sys.modules, "benchmarks.frontier", raising=False)  # runpy warns of a module that a test has imported
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert "--reference" in said.out
    header = json.loads(said.err.removeprefix("# "))
    assert {"processor", "usable_cores", "instruction_sets", "python", "resift", "numpy"} < header.keys()
    assert any(name.startswith("onnxruntime") for name in header)


def test_the_plot_is_written_in_light_and_dark(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.compare.plot import plot

    rows = [
        {"contender": name, "p50_ms": ms, "nDCG@10": quality, "reference_nDCG@10": 0.8}
        for name, ms, quality in (("resift-full", 260.0, 0.801), ("pytorch", 1700.0, 0.8), ("infinity", 1700.0, 0.8))
    ]
    of = {"case": "dl19-30", "requests": 8, "candidates": 30, "threads": 2}
    report = {"machine": {"processor": "a processor"}, "cases": [{**of, "rows": rows}, {**of, "case": "words-10", "rows": rows}]}
    written = plot(report, tmp_path)
    assert sorted(path.name for path in written) == [
        f"compare-{theme}.{kind}" for theme in ("dark", "light") for kind in ("png", "svg")
    ]
    assert all(path.stat().st_size > 5000 for path in written)
    assert plot({**report, "cases": []}, tmp_path) == []
