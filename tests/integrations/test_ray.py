"""Past one machine, on a Ray of two CPUs that this module starts. The embedded model ranks, so no toolchain is needed."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import sys
import sysconfig
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray, which has an environment of its own in .ci/full")

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data
from hypothesis import given
from hypothesis import strategies as st

from resift import ArtifactError, InferenceError, InputError, OutputError, Reranker, Settings
from resift.integrations.ray import RankPools, data, rerank_parquet
from resift.integrations.ray.cluster import room
from resift.integrations.ray.parts import OutFolder, Part, find_sources, read_rows, split
from resift.integrations.ray.table import check_columns, rank_batches
from tests.support import children

RESIFT = Path(sysconfig.get_path("scripts")) / "resift"
WORDS = ["tide", "moon", "sea", "bread", "yeast", "salt", "wind", "sail", "harbour", "anchor", "lamp", "clock", "map", "river"]
WHEN = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def embedded():
    with Reranker.load(settings=Settings(threads=1)) as loaded:
        yield loaded


def text(choose: random.Random) -> str:
    return " ".join(choose.choices(WORDS, k=choose.randint(1, 12)))


def rows(count: int, seed: int = 0) -> list[dict]:
    """Pools of 0 to 6 candidates with fields of their own, one of them named as resift names a result's."""
    choose = random.Random(seed)
    return [
        {
            "qid": f"q{seed}-{number}",
            "query": text(choose),
            "candidates": [
                {
                    "docid": number * 10 + place,
                    "text": text(choose),
                    "score": place / 4,
                    "tags": [choose.choice(WORDS)] * (place % 3),
                    "seen": WHEN if place % 2 else None,
                }
                for place in range(number % 7)
            ],
            "batch": seed,
        }
        for number in range(count)
    ]


def table(pools: list[dict]) -> pa.Table:
    candidate = [("docid", pa.int64()), ("text", pa.string()), ("score", pa.float64()), ("tags", pa.list_(pa.string()))]
    candidate.append(("seen", pa.timestamp("ms", tz="UTC")))
    columns = [("qid", pa.string()), ("query", pa.string()), ("candidates", pa.list_(pa.struct(candidate))), ("batch", pa.int8())]
    return pa.Table.from_pylist(pools, schema=pa.schema(columns))


def expected(reranker: Reranker, pools: list[dict], top_k: int | None = None) -> list[dict]:
    """What a pool's row should become, by the plain API."""
    ranked = []
    for pool in pools:
        ranking = reranker.rerank(pool["query"], [candidate["text"] for candidate in pool["candidates"]], top_k=top_k)
        results = []
        for result in ranking:
            given = pool["candidates"][result.index]
            own = {
                name: getattr(result, name)
                for name in ("index", "score", "logit", "scored_by", "tokens_cut", "tokens_cut_at_least")
            }
            kept = {name: given[name] for name in ("docid", "tags", "seen")}
            results.append(kept | {"given_score": given["score"]} | own)
        head = {"qid": pool["qid"], "query": pool["query"], "batch": pool["batch"]}
        ranked.append(head | {"query_tokens_cut": ranking.query_tokens_cut, "results": results})
    return ranked


def ranked(reranker: Reranker, given: pa.Table, **more) -> pa.Table:
    return pa.Table.from_batches([batch for batch, _ in rank_batches(reranker, given.to_batches(), "the table", **more)])


def read(out: Path) -> list[dict]:
    """The rows of OUT in the order of its files' names."""
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder of three files, with row groups that parts do not coincide with; the last has no rows."""
    folder = tmp_path / "pools"
    folder.mkdir()
    pq.write_table(table(rows(23, 1)), folder / "a.parquet", row_group_size=5)
    pq.write_table(table(rows(9, 2)), folder / "b.parquet")
    pq.write_table(table([]), folder / "c.parquet")
    return folder


# Rows


def test_a_row_is_ranked_as_by_the_reranker_and_keeps_its_fields_and_their_types(embedded):
    found = ranked(embedded, table(rows(20)))
    assert found.to_pylist() == expected(embedded, rows(20))
    result = found.schema.field("results").type.value_type
    assert result.field("seen").type == pa.timestamp("ms", tz="UTC")
    assert result.field("logit").type == pa.float32()


def test_batches_do_not_show_in_the_result(embedded):
    whole = table(rows(20))
    pieces = [batch for start, size in ((0, 7), (7, 1), (8, 12)) for batch in whole.slice(start, size).to_batches()]
    found = [row for batch, _ in rank_batches(embedded, pieces, "t") for row in batch.to_pylist()]
    assert found == expected(embedded, rows(20))


def test_top_k_and_max_candidates(embedded):
    assert ranked(embedded, table(rows(9)), top_k=2).to_pylist() == expected(embedded, rows(9), top_k=2)
    first = [pool | {"candidates": pool["candidates"][:3]} for pool in rows(9)]
    batches = list(rank_batches(embedded, table(rows(9)).to_batches(), "t", max_candidates=3))
    assert [row for batch, _ in batches for row in batch.to_pylist()] == expected(embedded, first)
    assert sum(pairs for _, pairs in batches) == sum(len(pool["candidates"]) for pool in first)


def test_a_job_is_known_by_what_its_plan_keeps(embedded):
    with Reranker.load(settings=Settings(threads=1, plan="balanced")) as by_plan:
        plans = [[data._identity(each, top_k)["plan"] for top_k in (None, 20, 30)] for each in (embedded, by_plan)]
    assert plans == [["full", "first-look:20,full", "first-look:30,full"], ["first-look:20,full"] * 3]


def test_windows_are_columns_where_they_are_on(embedded):
    given = pa.table({"query": ["tides"] * 2, "documents": [["the moon pulls the sea " * 40, "bread"], []]})
    with Reranker.load(settings=Settings(threads=1, max_length=64, windows=3)) as windowed:
        [row, _] = ranked(windowed, given).to_pylist()
        found = windowed.rerank("tides", given["documents"][0].as_py())
        assert [(each["logit"], each["windows"], each["window"]) for each in row["results"]] == [
            (each.logit, each.windows, each.window) for each in found
        ]
        assert data._identity(windowed, None)["windows"] == 3
    assert {each.windows for each in found} == {3, 1}
    assert "windows" not in ranked(embedded, given).to_pylist()[0]["results"][0]
    assert "windows" not in data._identity(embedded, None)


def test_a_template_says_what_is_read_and_a_scale_what_is_written(embedded):
    given = table(rows(8))
    chosen = {"document_template": "{docid}: {text}", "scores": "sigmoid"}
    with Reranker.load(settings=Settings(threads=1, **chosen)) as other:
        for row, pool in zip(ranked(other, given).to_pylist(), rows(8), strict=True):
            texts = [f"{candidate['docid']}: {candidate['text']}" for candidate in pool["candidates"]]
            expected = embedded.rerank(pool["query"], texts)
            assert [(each["index"], each["logit"]) for each in row["results"]] == [(each.index, each.logit) for each in expected]
            assert all(0 < each["score"] < 1 and each["tags"] is not None for each in row["results"])
        assert {name: data._identity(other, None)[name] for name in chosen} == chosen
    assert not chosen.keys() & data._identity(embedded, None).keys()


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.string(), 2),
    ],
    ids=str,
)
def test_documents_of_any_kind_of_list(embedded, kind):
    texts = [["salt in bread", "the moon pulls the sea"], ["a lamp", ""]]
    given = pa.table({"query": ["tides", "light"], "documents": pa.array(texts, kind)})
    found = ranked(embedded, given.slice(1))
    assert found.schema.names == ["query", "query_tokens_cut", "results"]
    [row] = found.to_pylist()
    wanted = embedded.rerank("light", texts[1])
    assert [(result["index"], result["logit"]) for result in row["results"]] == [(item.index, item.logit) for item in wanted]


def test_own_columns_named_like_new_ones_are_kept(embedded):
    given = pa.table({"query": ["a"], "documents": [["b"]], "results": [1], "given_results": [2], "query_tokens_cut": [3]})
    [row] = ranked(embedded, given).to_pylist()
    assert (row["given_given_results"], row["given_results"], row["given_query_tokens_cut"]) == (1, 2, 3)
    assert (row["query_tokens_cut"], row["results"][0]["index"]) == (0, 0)


TEXTS = pa.array([["b"]])
UNFIT = {
    "no query": ({"documents": TEXTS}, "found documents"),
    "no documents": ({"query": ["a"]}, "either 'documents' or 'candidates'"),
    "both": ({"query": ["a"], "documents": TEXTS, "candidates": TEXTS}, "either 'documents' or 'candidates'"),
    "numbers": ({"query": [1], "documents": TEXTS}, "'query' is int64; expected string"),
    "one string": ({"query": ["a"], "documents": ["b"]}, "'documents' is string; expected list<string>"),
    "lists of numbers": ({"query": ["a"], "documents": [[1]]}, "'documents' is list<"),
    "no text": ({"query": ["a"], "candidates": [[{"docid": 1}]]}, "expected list<struct<text: string"),
    "text of bytes": ({"query": ["a"], "candidates": [[{"text": b"b"}]]}, "expected list<struct<text: string"),
    "strings": ({"query": ["a"], "candidates": TEXTS}, "expected list<struct<text: string"),
}


@pytest.mark.parametrize(("columns", "message"), UNFIT.values(), ids=UNFIT)
def test_columns_that_hold_no_pools_are_refused(columns, message):
    with pytest.raises(InputError, match=f"^pools.parquet: .*{message.replace('(', '.')}"):
        check_columns(pa.table(columns).schema, "pools.parquet")


def test_columns_and_fields_of_one_name_are_refused():
    twice = pa.schema([("query", pa.string()), ("documents", pa.list_(pa.string())), ("x", pa.int8()), ("x", pa.int8())])
    with pytest.raises(InputError, match="the column 'x' is there 2 times"):
        check_columns(twice, "t")
    fields = pa.struct([pa.field("text", pa.string()), pa.field("x", pa.int8()), pa.field("x", pa.int8())])
    with pytest.raises(InputError, match="the candidates' field 'x' is there 2 times"):
        check_columns(pa.schema([("query", pa.string()), ("candidates", pa.list_(fields))]), "t")


BAD_ROWS = {
    "query": ({"query": None, "candidates": [{"text": "a"}]}, "'query' is null"),
    "list": ({"query": "a", "candidates": None}, "the list is null"),
    "candidate": ({"query": "a", "candidates": [{"text": "b"}, None]}, "the text at 1 is null"),
    "text": ({"query": "a", "candidates": [{"text": None}]}, "the text at 0 is null"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_null_is_refused_with_its_row(embedded, bad, message):
    schema = pa.schema([("query", pa.string()), ("candidates", pa.list_(pa.struct([("text", pa.string())])))])
    given = pa.Table.from_pylist([{"query": "a", "candidates": [{"text": "b"}]}] * 3 + [bad], schema=schema)
    with pytest.raises(InputError, match=rf"^f, row 103 \(from 0\): {message}"):
        list(rank_batches(embedded, given.to_batches(max_chunksize=2), "f", first=100))


def test_bytes_that_are_not_utf8_are_refused(embedded):
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")])
    given = pa.table({"query": ["a"], "documents": pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), bad)})
    with pytest.raises(InputError, match=r"rows 0 to 0: damaged: .*UTF8"):
        ranked(embedded, given)


# Parts


@given(st.integers(0, 40), st.integers(1, 50), st.integers(1, 50))
def test_parts_hold_every_row_once_in_order(tmp_path_factory, count, group, pools):
    path = tmp_path_factory.mktemp("parts") / "p.parquet"
    columns = {"query": [str(number) for number in range(count)], "documents": [["a"]] * count}
    pq.write_table(pa.table(columns, schema=DOCUMENTS), path, row_group_size=group)
    parts = split(find_sources(str(path)), pools)
    names = [part.name for part in parts]
    assert names == sorted(set(names))
    found = [pa.Table.from_batches(list(read_rows(pafs.LocalFileSystem(), part))) for part in parts]
    assert all(len(rows) <= pools for rows in found)
    assert [len(rows) for rows in found] == [part.stop - part.start for part in parts]
    assert pa.concat_tables(found)["query"].to_pylist() == [str(number) for number in range(count)]


DOCUMENTS = pa.schema([("query", pa.string()), ("documents", pa.list_(pa.string()))])
PART = Part("", 0, 2, "part-000000-000000000000.parquet")
JOB = {"model": "m", "top_k": None}


@pytest.fixture
def folder(tmp_path):
    found = OutFolder(str(tmp_path / "out"), JOB)
    found.begin()
    return found


def test_a_part_that_was_cut_off_is_not_done(folder, tmp_path):
    folder.write(PART, pa.table({"a": [1, 2]}))
    assert folder.finished_parts([PART]) == {PART.name}
    path = tmp_path / "out" / PART.name
    for size in (0, 10, path.stat().st_size - 1):
        os.truncate(path, size)
        assert folder.finished_parts([PART]) == set()
        with pytest.raises(OutputError, match=r"1 of 1 parts are not in .*all machines share"):
            folder.finish([PART])
        folder.write(PART, pa.table({"a": [1, 2]}))


def test_a_part_with_other_rows_is_not_done(folder):
    folder.write(PART, pa.table({"a": [1]}))
    assert folder.finished_parts([PART]) == set()


def test_out_of_another_job_is_refused(folder, tmp_path):
    with pytest.raises(OutputError, match="begun as another job: its model is 'm', not 'other'"):
        OutFolder(str(tmp_path / "out"), JOB | {"model": "other"}).begin()
    OutFolder(str(tmp_path / "out"), JOB).begin()


def test_a_part_of_another_job_is_refused(folder, tmp_path):
    other = OutFolder(str(tmp_path / "out"), JOB | {"model": "other"})  # began at the same moment, and lost
    other.write(PART, pa.table({"a": [1, 2]}))
    with pytest.raises(OutputError, match="written by another job"):
        folder.finished_parts([PART])


def test_files_of_someone_else_are_refused(folder, tmp_path):
    (tmp_path / "out" / "mine.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match=r"mine\.parquet, which is not of this job"):
        folder.finished_parts([PART])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_bytes(b"")
    with pytest.raises(OutputError, match=r"holds mine.txt and no _job.json"):
        OutFolder(str(tmp_path / "full"), JOB).begin()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_damaged_job_is_refused(tmp_path, content):
    (tmp_path / "_job.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"_job\.json is no job"):
        OutFolder(str(tmp_path), JOB).begin()


def test_sources_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_sources(str(tmp_path / "none.parquet"))
    with pytest.raises(InputError, match=r"no files that end in \.parquet"):
        find_sources(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b'{"query": "a", "documents": []}')
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
        find_sources(str(tmp_path))
    with pytest.raises(InputError, match="is not a location of Parquet files"):
        find_sources("nowhere://a/b")
    with pytest.raises(InputError, match="is not a location of Parquet files"):
        find_sources("a\0b")


# The cluster


def test_two_workers_give_what_one_reranker_gives(embedded, source, tmp_path):
    out = tmp_path / "ranked"
    done = rerank_parquet(source, out, workers=2, part_pools=4)
    wanted = expected(embedded, rows(23, 1) + rows(9, 2))
    assert read(out) == wanted
    assert (done.parts, done.resumed, done.pools) == (6 + 3 + 1, 0, 32)
    assert done.pairs == sum(len(row["results"]) for row in wanted)
    assert {path.name for path in out.iterdir() if not path.name.startswith("part-")} == {"_job.json", "_SUCCESS"}
    again = rerank_parquet(source, out, part_pools=4)
    assert (again.resumed, again.pools, again.pairs) == (10, 0, 0)
    assert pq.read_table(out).num_rows == 32  # a Parquet folder as others read it: the names with _ are left out


def test_only_what_is_missing_or_cut_off_is_ranked_again(embedded, source, tmp_path):
    out = tmp_path / "ranked"
    rerank_parquet(source, out, part_pools=4)
    names = sorted(path.name for path in out.glob("part-*"))
    before = {name: (out / name).stat().st_ino for name in names}
    (out / names[1]).unlink()
    os.truncate(out / names[3], 20)
    (out / "_SUCCESS").unlink()
    (out / f"_{names[1]}.0123").write_bytes(b"PAR1")
    done = rerank_parquet(source, out, part_pools=4)
    assert (done.resumed, done.pools) == (8, 8)
    assert read(out) == expected(embedded, rows(23, 1) + rows(9, 2))
    assert [name for name in names if (out / name).stat().st_ino != before[name]] == [names[1], names[3]]
    assert not list(out.glob("_part-*"))


def killed():
    """Actors that are killed once, at the third part, before or after it is written: a file next to OUT says when."""

    # A class of a function is pickled by value: the actors cannot import this module.
    class Killed(data._RankParts):
        def _rank(self, part):
            before, after = (Path(f"{self._task.out}.{moment}") for moment in ("before", "after"))
            if part.start == 8 and before.exists():
                before.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            told = super()._rank(part)
            if part.start == 8 and after.exists():
                after.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return told

    return Killed


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_is_killed_leaves_no_gap_and_no_duplicate(embedded, source, tmp_path, monkeypatch, moment):
    monkeypatch.setattr(data, "_run_actors", partial(data._run_actors, actor=killed()))
    out, waiting = tmp_path / "ranked", tmp_path / f"ranked.{moment}"
    waiting.touch()
    done = rerank_parquet(source, out, workers=2, part_pools=4)
    assert not waiting.exists()
    assert read(out) == expected(embedded, rows(23, 1) + rows(9, 2))
    assert (done.parts, done.pools) == (10, 32)


def deadly():
    """Actors that die of the last part."""

    class Deadly(data._RankParts):
        def _rank(self, part):
            if part.name.startswith("part-000002"):
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._rank(part)

    return Deadly


def test_a_part_that_kills_its_workers_is_given_up_and_the_others_stay(embedded, source, tmp_path, monkeypatch):
    out = tmp_path / "ranked"
    with monkeypatch.context() as patch:
        patch.setattr(data, "RETRIES", 1)
        patch.setattr(data, "_run_actors", partial(data._run_actors, actor=deadly()))
        with pytest.raises(InferenceError, match=r"Ray gave up a part .*finished parts are kept") as caught:
            rerank_parquet(source, out, workers=1, part_pools=16)
    assert "\n" not in str(caught.value)
    assert not (out / "_SUCCESS").exists()
    done = rerank_parquet(source, out, workers=1, part_pools=16)
    assert done.resumed >= 1
    assert read(out) == expected(embedded, rows(23, 1) + rows(9, 2))


def test_a_bad_row_is_one_error_that_names_it_and_what_was_done_stays(tmp_path):
    pools = tmp_path / "p.parquet"
    good = [{"query": text(random.Random(number)), "documents": ["salt", "sea"]} for number in range(6)]
    pq.write_table(pa.Table.from_pylist([*good, {"query": "a", "documents": None}], schema=DOCUMENTS), pools)
    with pytest.raises(InputError, match=r"p.parquet, row 6 \(from 0\): the list is null") as caught:
        rerank_parquet(pools, tmp_path / "out", workers=1, part_pools=2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_another_model_or_input_is_refused(source, tmp_path):
    out = tmp_path / "ranked"
    rerank_parquet(source, out, workers=1)
    with pytest.raises(OutputError, match="its max_length is 512, not 64"):
        rerank_parquet(source, out, workers=1, settings=Settings(max_length=64))
    for top_k in (3, np.int64(3)):
        with pytest.raises(OutputError, match="its top_k is None, not 3"):
            rerank_parquet(source, out, workers=1, top_k=top_k)
    pq.write_table(table(rows(9, 3)), source / "b.parquet")
    with pytest.raises(OutputError, match=r"its input b\.parquet is '"):
        rerank_parquet(source, out, workers=1)
    with pytest.raises(ArtifactError, match="no artifact 'nothing'"):
        rerank_parquet(source, out, workers=1, model="nothing")


def test_threads_and_resources(source, tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        rerank_parquet(source, tmp_path / "out", workers=0)
    with pytest.raises(InputError, match="choose an OUT outside"):
        rerank_parquet(source, source / "out")
    assert not (source / "out").exists()


def test_as_many_workers_as_there_is_room_for():
    settings = [Settings(threads=threads, provider="cpu") for threads in (1, 2, 3)]
    assert [room(each) for each in settings] == [2, 1, 1]


def test_ranking_in_a_pipeline_of_ones_own(embedded, source):
    pools = ray.data.read_parquet(str(source / "a.parquet"))
    ranked = pools.map_batches(RankPools, batch_format="pyarrow", batch_size=8, concurrency=1, num_cpus=1)
    found = sorted(ranked.take_all(), key=lambda row: int(row["qid"].partition("-")[2]))
    assert found == expected(embedded, rows(23, 1))


# The command line


def resift(*arguments):
    """Joins this module's Ray."""
    joined = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return children.run([RESIFT, *map(str, arguments)], capture_output=True, text=True, env=joined)


def test_the_command_line_ranks_into_a_folder(embedded, source, tmp_path):
    done = resift("rerank", source, "-o", tmp_path / "out", "--engine", "ray", "--workers", "1", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    assert "resift: ranked 32 pools, " in done.stderr
    assert read(tmp_path / "out") == expected(embedded, rows(23, 1) + rows(9, 2), top_k=2)


def test_without_an_address_a_ray_of_its_own_is_started_and_ended(embedded, source, tmp_path):
    code = """
import ray, sys
from resift.integrations.ray import rerank_parquet
print(rerank_parquet(*sys.argv[1:], workers=1).pools, ray.is_initialized())
"""
    command = [sys.executable, "-c", code, source, tmp_path / "out"]
    done = children.run(command, capture_output=True, text=True)
    assert done.stdout.split()[-2:] == ["32", "False"], done.stderr
    assert "Started a local Ray instance" in done.stderr
    assert read(tmp_path / "out") == expected(embedded, rows(23, 1) + rows(9, 2))
    assert ray.is_initialized()


def test_an_error_is_one_line(tmp_path):
    done = resift("rerank", tmp_path / "none.parquet", "-o", tmp_path / "out", "--engine", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "none.parquet does not exist" in done.stderr
