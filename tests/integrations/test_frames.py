"""rerank_frame on real pandas and Polars frames and Arrow tables: order, columns, index, types, and what it refuses."""

from __future__ import annotations

import datetime as dt
import importlib
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resift import ArtifactError, ExtraError, InputError, Ranking, Reranker
from resift.integrations import frames
from resift.integrations.frames import ADDED_COLUMNS, rerank_frame
from tests.support import tiny

TEXTS = tiny.texts()
QUERIES = {"tides": "how do tides work", "bread": "why does bread rise", 7: "a query with an int for its id"}
KINDS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}


def columns(qids) -> dict[str, list]:
    """A column for each of the rows with these query ids, and one more."""
    return {
        "note": [f"row {row}" for row in range(len(qids))],
        "qid": list(qids),
        "document": [TEXTS[1 + 2 * (row % 50)] for row in range(len(qids))],
        "query": [QUERIES.get(qid, str(qid)) for qid in qids],
    }


def expected(data, reranker, top_k=None) -> dict[int, tuple]:
    """The added cells of each row that is kept, by Reranker.rerank; best first, query by query."""
    cells = {}
    for qid in dict.fromkeys(data["qid"]):
        rows = [row for row, other in enumerate(data["qid"]) if other == qid]
        ranking = reranker.rerank(data["query"][rows[0]], [data["document"][row] for row in rows], top_k=top_k)
        for rank, result in enumerate(ranking, 1):
            cells[rows[result.index]] = (rank, result.score, result.logit, result.tokens_cut, ranking.query_tokens_cut)
    return cells


def rows_of(frame) -> dict[str, list]:
    """The columns of any frame, in order."""
    if isinstance(frame, pd.DataFrame):
        return {name: frame[name].tolist() for name in frame.columns}
    return frame.to_pydict() if isinstance(frame, pa.Table) else frame.to_dict(as_series=False)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


UNSORTED = ["tides", "bread", "tides", "tides", "moon", "bread", "tides", "bread"]


def test_rows_and_columns_stay_in_order_and_the_cells_are_the_rerankers(kind, reranker):
    data = columns(UNSORTED)
    frame = kind(data)
    before = rows_of(frame)
    ranked = rerank_frame(frame, reranker=reranker)
    assert type(ranked) is type(frame)
    found = rows_of(ranked)
    assert list(found) == [*data, *ADDED_COLUMNS]
    assert {name: found[name] for name in data} == before == rows_of(frame)
    cells = expected(data, reranker)
    assert list(zip(*(found[name] for name in ADDED_COLUMNS), strict=True)) == [cells[row] for row in range(len(UNSORTED))]


def test_sorted_each_query_is_together_best_first(kind, reranker):
    data = columns(UNSORTED)
    found = rows_of(rerank_frame(kind(data), reranker=reranker, sort=True))
    cells = expected(data, reranker)
    assert found["note"] == [f"row {row}" for row in cells]
    assert found["qid"] == ["tides"] * 4 + ["bread"] * 3 + ["moon"]
    assert found["rank"] == [1, 2, 3, 4, 1, 2, 3, 1]
    assert found["logit"] == [cell[2] for cell in cells.values()]


@pytest.mark.parametrize("top_k", [1, 2, 99])
def test_top_k_keeps_the_best_rows_of_each_query_in_their_order(kind, reranker, top_k):
    data = columns(UNSORTED)
    cells = expected(data, reranker, top_k)
    found = rows_of(rerank_frame(kind(data), reranker=reranker, top_k=top_k))
    assert found["note"] == [f"row {row}" for row in sorted(cells)]
    assert found["rank"] == [cells[row][0] for row in sorted(cells)]
    best_first = rows_of(rerank_frame(kind(data), reranker=reranker, top_k=top_k, sort=True))
    assert best_first["note"] == [f"row {row}" for row in cells]


def test_types_of_the_added_columns_are_the_same_for_no_rows_and_for_some(kind, reranker):
    for qids in ([], ["tides"], UNSORTED):
        ranked = rerank_frame(kind(columns(qids)), reranker=reranker)
        types = [str(ranked[name].type if kind is pa.table else ranked[name].dtype).lower() for name in ADDED_COLUMNS]
        real = "float" if kind is pa.table else "float32"
        assert types == ["int32", real, real, "int32", "int32"]
        assert len(ranked) == len(qids)


def test_without_rows_no_model_is_loaded(kind, tmp_path):
    assert len(rerank_frame(kind(columns([])), model=tmp_path / "missing")) == 0
    with pytest.raises(ArtifactError):
        rerank_frame(kind(columns(["tides"])), model=tmp_path / "missing")


def test_a_model_is_loaded_for_the_call_and_closed(artifact, reranker, monkeypatch):
    loaded, load = [], Reranker.load
    monkeypatch.setattr(frames.Reranker, "load", lambda *given: loaded.append(load(*given)) or loaded[0])
    data = columns(UNSORTED)
    assert rerank_frame(pd.DataFrame(data), model=artifact).equals(rerank_frame(pd.DataFrame(data), reranker=reranker))
    assert len(loaded) == 1
    assert not loaded[0]._close.alive
    assert reranker.rerank("still", ["open"])


def test_a_pandas_index_is_kept_whatever_it_is(reranker):
    data = columns(UNSORTED)
    indexes = [
        pd.Index([5, 5, 5, 1, 1, 0, 0, 0], name="rank of old"),
        pd.Index(list("hgfedcba")),
        pd.MultiIndex.from_product([["x", "y"], range(4)], names=["a", "b"]),
        pd.date_range("2026-01-01", periods=8),
    ]
    cells = expected(data, reranker)
    for index in indexes:
        frame = pd.DataFrame(data, index=index)
        ranked = rerank_frame(frame, reranker=reranker)
        pd.testing.assert_index_equal(ranked.index, index)
        pd.testing.assert_frame_equal(ranked[frame.columns], frame)
        assert ranked["rank"].tolist() == [cells[row][0] for row in range(len(UNSORTED))]
        best_first = rerank_frame(frame, reranker=reranker, sort=True)
        pd.testing.assert_frame_equal(best_first[frame.columns], frame.iloc[list(cells)])


class Subclass(pd.DataFrame):
    @property
    def _constructor(self):
        return Subclass


@pytest.mark.parametrize("shape", [{}, {"sort": True}, {"top_k": 1}])
def test_a_subclass_of_pandas_and_its_attributes_are_kept(reranker, shape):
    frame = Subclass(columns(UNSORTED))
    frame.attrs["source"] = "a test"
    ranked = rerank_frame(frame, reranker=reranker, **shape)
    assert type(ranked) is Subclass
    assert ranked.attrs == frame.attrs


def test_other_columns_keep_their_types(reranker):
    data = columns(UNSORTED)
    pandas = pd.DataFrame(data).assign(
        list=[[row] for row in range(8)],
        category=pd.Categorical(UNSORTED),
        nullable=pd.array([1, None] * 4, dtype="Int64"),
        when=pd.date_range("2026-01-01", periods=8, tz="UTC"),
        **{"": 1.5},
    )
    pandas[3] = "an int for a name"
    pandas.columns.name = "columns"
    ranked = rerank_frame(pandas, reranker=reranker, top_k=2)
    assert ranked.columns.name == "columns"
    pd.testing.assert_frame_equal(ranked[pandas.columns], pandas.loc[ranked.index])

    polars = pl.DataFrame(data).with_columns(
        pl.Series("list", [[row] for row in range(8)]), pl.Series("struct", [{"a": row} for row in range(8)]), empty=None
    )
    found = rerank_frame(polars, reranker=reranker, top_k=2)
    assert found.select(polars.columns).equals(polars[[int(note.split()[1]) for note in found["note"]]])

    arrow = pa.Table.from_pandas(pandas.drop(columns=3))
    ranked_arrow = rerank_frame(arrow, reranker=reranker)
    assert ranked_arrow.select(arrow.column_names).equals(arrow)
    assert ranked_arrow.schema.metadata == arrow.schema.metadata
    assert ranked_arrow.to_pandas()["rank"].tolist() == rerank_frame(pandas, reranker=reranker)["rank"].tolist()


def test_every_kind_of_text_column_is_read(reranker):
    data = columns(UNSORTED)
    want = rerank_frame(pd.DataFrame(data), reranker=reranker)["logit"].tolist()
    document, query = data["document"], data["query"]
    kinds = [
        *(pd.DataFrame(data).astype({"document": dtype, "query": dtype}) for dtype in ("object", "str", "string", "category")),
        pd.DataFrame(data).astype({"document": pd.ArrowDtype(pa.large_string())}),
        pl.DataFrame(data).cast({"document": pl.Categorical, "query": pl.Enum(sorted(set(query)))}),
        pa.table({**data, "document": pa.array(document, pa.large_string()), "query": pa.array(query).dictionary_encode()}),
        pa.table({**data, "document": pa.array(document, pa.string_view())}),
        pa.concat_tables([pa.table(data).slice(start, 3) for start in (0, 3, 6)]),
    ]
    for frame in kinds:
        found = rerank_frame(frame, reranker=reranker)["logit"]
        assert (found.to_pylist() if isinstance(frame, pa.Table) else found.to_list()) == want


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2, 1],
        [1.5, 2.5, 1.5],
        [Decimal(1), Decimal(2), Decimal(1)],
        [True, False, True],
        [dt.date(2026, 1, day) for day in (1, 2, 1)],
    ],
)
def test_query_ids_may_be_anything_that_compares(kind, reranker, ids):
    frame = kind({"qid": ids, "query": ["a", "b", "a"], "document": TEXTS[1:4]})
    assert sorted(rows_of(rerank_frame(frame, reranker=reranker))["rank"]) == [1, 1, 2]


def test_without_query_ids_the_text_tells_queries_apart(kind, reranker):
    data = columns(UNSORTED)
    without = kind({name: values for name, values in data.items() if name != "qid"})
    found, want = rerank_frame(without, by=None, reranker=reranker), rerank_frame(kind(data), reranker=reranker)
    assert {name: rows_of(found)[name] for name in ADDED_COLUMNS} == {name: rows_of(want)[name] for name in ADDED_COLUMNS}
    by_query = rerank_frame(kind(data), by="query", reranker=reranker)
    assert rows_of(by_query) == rows_of(want)


def test_equal_documents_rank_in_the_order_of_their_rows(kind, reranker):
    frame = kind({"qid": ["a"] * 4, "query": ["tides"] * 4, "document": ["same", "other", "same", "same"]})
    ranks = rows_of(rerank_frame(frame, reranker=reranker))["rank"]
    assert ranks[0] < ranks[2] < ranks[3]


def test_what_is_cut_is_said(reranker):
    long = " ".join(TEXTS)[:120_000]
    data = {"qid": [1, 1, 2], "query": ["tides", "tides", long[:5000]], "document": [long, "short", "short"]}
    found = rows_of(rerank_frame(pl.DataFrame(data), reranker=reranker))
    assert found["tokens_cut"] == [reranker.rerank("tides", [long])[0].tokens_cut, 0, 0]
    assert found["query_tokens_cut"] == [0, 0, reranker.rerank(long[:5000], ["short"]).query_tokens_cut]
    assert found["tokens_cut"][0] > 1000 < found["query_tokens_cut"][2] * 10


def test_texts_are_taken_from_the_frame_a_few_pools_at_a_time(kind, reranker, monkeypatch):
    monkeypatch.setattr("resift.pools.collection.WINDOW_PAIRS", 20)
    ahead, most, submit, rank = 0, 0, Reranker.submit, Ranking.of

    def submitting(self, query, documents, **named):
        nonlocal ahead, most
        ahead += 1
        most = max(most, ahead)
        return submit(self, query, documents, **named)

    def ranking(*given, **named):
        nonlocal ahead
        ahead -= 1
        return rank(*given, **named)

    monkeypatch.setattr(Reranker, "submit", submitting)
    monkeypatch.setattr(Ranking, "of", ranking)
    data = columns([f"query {row // 5}" for row in range(500)])
    assert len(rerank_frame(kind(data), reranker=reranker)) == 500
    assert 2 <= most <= 5  # of 100 pools


def test_an_output_is_reranked_with_a_prefix(kind, reranker):
    once = rerank_frame(kind(columns(UNSORTED)), reranker=reranker)
    with pytest.raises(InputError, match=r"'rank', 'score', .* already.*prefix="):
        rerank_frame(once, reranker=reranker)
    twice = rows_of(rerank_frame(once, reranker=reranker, prefix="again_"))
    assert twice["again_rank"] == twice["rank"]


def test_other_names_for_the_columns(kind, reranker):
    data = columns(UNSORTED)
    renamed = kind({"q": data["query"], "d": data["document"], "id": data["qid"], "query": [0] * 8})
    found = rows_of(rerank_frame(renamed, query="q", document="d", by="id", reranker=reranker))
    assert found["rank"] == rows_of(rerank_frame(kind(data), reranker=reranker))["rank"]


def changed(name, row, value):
    data = columns(UNSORTED)
    data[name] = [value if place == row else cell for place, cell in enumerate(data[name])]
    return data


@pytest.mark.parametrize("name", ["document", "query", "qid"])
def test_a_null_is_named_by_column_and_row(kind, name, reranker):
    with pytest.raises(InputError, match=rf"column '{name}' is null in row 5 \(from 0\)"):
        rerank_frame(kind(changed(name, 5, None)), reranker=reranker)


@pytest.mark.parametrize("null", [float("nan"), pd.NA, pd.NaT])
@pytest.mark.parametrize("name", ["document", "qid"])
def test_what_pandas_calls_missing_is_a_null(null, name, reranker):
    frame = pd.DataFrame(changed(name, 5, null), dtype=object)
    with pytest.raises(InputError, match=rf"'{name}' is null in row 5"):
        rerank_frame(frame, reranker=reranker)


def test_nan_for_a_query_id_is_a_null_everywhere(kind, reranker):
    frame = kind({"qid": [1.0, float("nan")], "query": ["a", "b"], "document": ["c", "d"]})
    with pytest.raises(InputError, match="'qid' is null in row 1"):
        rerank_frame(frame, reranker=reranker)


def test_a_null_far_down_is_found_before_the_model_is_loaded(kind, tmp_path):
    data = columns(["tides"] * 3000)
    data["document"][2999] = None
    with pytest.raises(InputError, match="row 2999"):
        rerank_frame(kind(data), model=tmp_path / "missing")


def test_one_query_id_with_two_queries_is_refused(kind, reranker):
    with pytest.raises(InputError, match=r"qid 'bread' has 'why does bread rise' in row 1 and 'another' in row 5"):
        rerank_frame(kind(changed("query", 5, "another")), reranker=reranker)


@pytest.mark.parametrize(("values", "named"), [([1, 2], "int"), ([b"a", b"b"], "bytes"), ([["a"], ["b"]], "list")])
def test_documents_that_are_not_text_are_refused(kind, values, named, reranker):
    with pytest.raises(TypeError, match=rf"column 'document', row 0 \(from 0\) is {named}; expected text"):
        rerank_frame(kind({"qid": [1, 1], "query": ["a", "a"], "document": values}), reranker=reranker)


def test_query_ids_that_do_not_compare_are_refused(kind, reranker):
    with pytest.raises(TypeError, match=r"column 'qid', row 0 \(from 0\) is list; expected an id"):
        rerank_frame(kind({"qid": [[1], [2]], "query": ["a", "a"], "document": ["b", "c"]}), reranker=reranker)


def test_a_missing_column_is_named_beside_those_there_are(kind, reranker):
    with pytest.raises(InputError, match=r"no column 'text', only 'note', 'qid', 'document', 'query'"):
        rerank_frame(kind(columns(UNSORTED)), document="text", reranker=reranker)
    with pytest.raises(InputError, match="no column 'query', only none"):
        rerank_frame(kind({}), reranker=reranker)


def test_columns_of_one_name_are_refused(reranker):
    for frame in (pd.DataFrame([[1, 2]], columns=["a", "a"]), pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])):
        with pytest.raises(InputError, match="'a' 2 times; rename the columns first"):
            rerank_frame(frame, reranker=reranker)


def test_lazy_frames_and_what_is_no_frame_are_refused(reranker):
    with pytest.raises(TypeError, match=r"a lazy LazyFrame; .* frame\.collect\(\)"):
        rerank_frame(pl.LazyFrame(columns(UNSORTED)), reranker=reranker)
    batch = pa.record_batch(columns(UNSORTED))
    for other in (columns(UNSORTED), [], None, pd.Series(["a"]), pl.Series(["a"]), pa.array(["a"]), batch, "frame.csv"):
        with pytest.raises(TypeError, match=rf"frame is {type(other).__name__}; expected a pandas or Polars DataFrame"):
            rerank_frame(other, reranker=reranker)


def test_arguments_are_checked_first(reranker):
    frame = pd.DataFrame(columns(UNSORTED))
    with pytest.raises(InputError, match="both model and reranker"):
        rerank_frame(frame, model="somewhere", reranker=reranker)
    with pytest.raises(InputError, match="top_k is 0"):
        rerank_frame(frame, top_k=0, reranker=reranker)
    with pytest.raises(TypeError, match="reranker is str"):
        rerank_frame(frame, reranker="somewhere")
    with pytest.raises(TypeError, match="NoneType"):
        rerank_frame(frame, prefix=None, reranker=reranker)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    qids=st.lists(st.sampled_from(["tides", "bread", "x", ""]), max_size=12),
    top_k=st.none() | st.integers(1, 4),
    sort=st.booleans(),
)
def test_all_three_agree_with_the_reranker_on_any_rows(reranker, qids, top_k, sort):
    data = columns(qids)
    cells = expected(data, reranker, top_k)
    order = list(cells) if sort else sorted(cells)
    for kind in KINDS.values():
        found = rows_of(rerank_frame(kind(data), reranker=reranker, top_k=top_k, sort=sort))
        assert list(found["note"]) == [f"row {row}" for row in order]
        assert list(zip(*(found[name] for name in ADDED_COLUMNS), strict=True)) == [cells[row] for row in order]
        assert np.isfinite(found["logit"]).all()


def test_without_narwhals_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals.stable.v2", None)
    monkeypatch.delitem(sys.modules, "resift.integrations.frames")
    with pytest.raises(ExtraError, match=r"pip install 'resift\[frames\]'"):
        importlib.import_module("resift.integrations.frames")
