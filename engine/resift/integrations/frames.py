"""Frames: reranks the (query id, query, document) rows of a pandas, Polars or Arrow frame in one call (extra: frames)."""

from __future__ import annotations

from array import array
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resift.errors import ExtraError, InputError
from resift.inputs import check_count
from resift.pools.collection import rerank_pools
from resift.pools.reading import CandidatePool
from resift.reranker import Reranker

try:
    import narwhals.stable.v2 as nw
    from narwhals.exceptions import DuplicateError
except ImportError as error:
    raise ExtraError("resift.integrations.frames needs narwhals 2: pip install 'resift[frames]'", name="narwhals") from error

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Iterator

    from narwhals.stable.v2.typing import IntoDataFrameT
    from numpy.typing import NDArray

    from resift.plans import Plan
    from resift.ranking import Ranking

ADDED_COLUMNS = {"rank": np.int32, "score": np.float32, "logit": np.float32, "tokens_cut": np.int32, "query_tokens_cut": np.int32}
"""The columns that are added, and their types."""
ROWS = 1024
"""Number of rows that are checked at a time: their texts are in memory as Python objects."""


class QueryRows(NamedTuple):
    """A query and the positions of its rows."""

    text: str
    rows: NDArray[np.int64]
    """int64[n]: positions in the frame, from 0, ascending"""


def rerank_frame(  # noqa: PLR0913 - the columns, the model, the form of the result
    frame: IntoDataFrameT,
    *,
    query: str = "query",
    document: str = "document",
    by: str | None = "qid",
    model: str | os.PathLike[str] | None = None,
    reranker: Reranker | None = None,
    top_k: int | None = None,
    plan: Plan | str | None = None,
    sort: bool = False,
    prefix: str = "",
) -> IntoDataFrameT:
    """Reranks each query's rows; returns a frame of the same type with the rows, their columns and five more columns.

    - rank: int32, from 1 within a query; rows of equal logits rank in their order
    - score, logit: float32, as in RankedDocument; NaN where the plan gave a document none
    - tokens_cut, query_tokens_cut: int32, tokens cut from the end of the document and of the query; a lower bound for a text of
      more than 100,000 characters

    `frame`: a pandas or Polars DataFrame or a pyarrow Table. It is not changed; a pandas index is kept.
    `query`, `document`: the columns of text. `by`: the column that tells queries apart (None: their text does). A query's rows
    need not be adjacent.
    `model`: the source for `Reranker.load` (None: the embedded model), loaded for this call; or a `reranker`, loaded already.
    `top_k`: the number of each query's best rows to keep (None: all). `plan`: as for `Reranker.rerank`.
    `sort`: False keeps the rows in their order; True puts each query's rows together, best first, queries in the order of their
    first rows.
    `prefix`: the beginning of the names of the added columns.

    All rows are checked before the model is loaded. Then the pools are ranked as a stream: only a few of them are copied into
    memory at once. Raises InputError for a missing column, a name that the frame already has, a null, or a query id with two
    queries; TypeError for a lazy frame, or a cell or an argument of the wrong type; otherwise like `Reranker.load` and
    `Reranker.rerank`.
    """
    top_k = check_count("top_k", top_k)
    if model is not None and reranker is not None:
        raise InputError("both model and reranker are given; expected one of them")
    if reranker is not None and not isinstance(reranker, Reranker):
        raise TypeError(f"reranker is {type(reranker).__name__}; expected a Reranker: give a folder or a hub id as model")
    table = _read(frame)
    new_names = [prefix + name for name in ADDED_COLUMNS]
    _check_names(table.columns, [query, document, *([] if by is None else [by])], new_names)
    queries = _queries(table, query, by)
    for _ in _texts(table, document):
        pass  # only for the errors that it raises
    documents = table.get_column(document)
    pools = (CandidatePool(text, _take(documents, rows)) for text, rows in queries)

    columns = [np.zeros(len(table), kind) for kind in ADDED_COLUMNS.values()]
    best_first = [np.empty(0, np.int64)]
    if queries:
        with Reranker.load(model) if reranker is None else nullcontext(reranker) as loaded:
            for (_, rows), (_, ranking) in zip(queries, rerank_pools(loaded, pools, top_k=top_k, plan=plan), strict=True):
                positions = rows[[result.index for result in ranking]]
                best_first.append(positions)
                for column, cells in zip(columns, _cells(ranking), strict=True):
                    column[positions] = cells
    order = np.concatenate(best_first)
    if not sort:
        order.sort()
    if sort or len(order) < len(table):
        table = table[order]
    ranked: IntoDataFrameT = _with_columns(table, {name: column[order] for name, column in zip(new_names, columns, strict=True)})
    return ranked


def _read(frame: Any) -> nw.DataFrame[Any]:
    try:
        table: nw.DataFrame[Any] | nw.LazyFrame[Any] = nw.from_native(frame)
    except DuplicateError as error:
        raise InputError(f"{' '.join(str(error).split())}; rename the columns first") from error
    except TypeError as error:
        raise TypeError(f"frame is {type(frame).__name__}; expected a pandas or Polars DataFrame or a pyarrow Table") from error
    if isinstance(table, nw.LazyFrame):
        raise TypeError(
            f"frame is a lazy {type(frame).__name__}; expected one in memory: collect it first, in Polars with frame.collect()"
        )
    return table


def _check_names(columns: list[str], required: list[str], new: list[str]) -> None:
    for name in required:
        if name not in columns:
            raise InputError(
                f"the frame has no column {name!r}, only {', '.join(map(repr, columns)) or 'none'}; name its columns with query, "
                "document and by (by=None: queries are told apart by their text)"
            )
    conflicts = [name for name in new if name in columns]
    if conflicts:
        raise InputError(
            f"the frame has {', '.join(map(repr, conflicts))} already, the name of a column to be added; "
            "give those a prefix, such as prefix='rerank_'"
        )


def _queries(table: nw.DataFrame[Any], query: str, by: str | None) -> list[QueryRows]:
    """The queries in the order of their first rows. Raises InputError if a query id has two queries."""
    texts: dict[Hashable, str] = {}
    rows: dict[Hashable, array[int]] = {}
    keys = _texts(table, query) if by is None else _keys(table, by)
    for row, (key, text) in enumerate(zip(keys, _texts(table, query), strict=True)):
        if texts.setdefault(key, text) != text:
            raise InputError(
                f"column {query!r}: {by} {key!r} has {texts[key]!r:.80} in row {rows[key][0]} and {text!r:.80} in row {row}, "
                "counted from 0; expected one query for each"
            )
        rows.setdefault(key, array("q")).append(row)
    return [QueryRows(texts[key], np.array(rows[key], np.int64)) for key in texts]


def _keys(table: nw.DataFrame[Any], by: str) -> Iterator[Hashable]:
    for row, key in enumerate(_values(table, by)):
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(
                f"column {by!r}, row {row} (from 0) is {type(key).__name__}; expected an id, such as an int or a str"
            ) from error
        if key != key:  # noqa: PLR0124 - NaN, which is not a null in Polars and Arrow
            raise InputError(_missing(by, row))
        yield key


def _texts(table: nw.DataFrame[Any], name: str) -> Iterator[str]:
    for row, value in enumerate(_values(table, name)):
        if not isinstance(value, str):
            raise TypeError(
                f"column {name!r}, row {row} (from 0) is {type(value).__name__}; expected text: cast the column, or drop the row"
            )
        yield value


def _values(table: nw.DataFrame[Any], name: str) -> Iterator[Any]:
    """The values of a column, a few rows at a time. Raises InputError for a null."""
    column = table.get_column(name)
    for start in range(0, len(column), ROWS):
        part = column[start : start + ROWS]
        nulls = part.is_null()
        if nulls.any():
            raise InputError(_missing(name, start + nulls.to_list().index(True)))
        yield from part.to_list()


def _missing(name: str, row: int) -> str:
    return f"column {name!r} is null in row {row} (from 0); expected a value in every row: drop such rows or fill them first"


def _take(column: nw.Series[Any], rows: NDArray[np.int64]) -> list[str]:
    """The values in `rows`, by slices of adjacent rows: they copy nothing, and Arrow can slice types that it cannot index."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [value for run in runs for value in column[int(run[0]) : int(run[-1]) + 1].to_list()]


def _with_columns(table: nw.DataFrame[Any], columns: dict[str, NDArray[Any]]) -> Any:
    """The native frame with columns added."""
    if table.implementation.is_pandas_like():
        return table.to_native().assign(**columns)  # narwhals would drop pandas' attrs and the class of a subclass
    series = [nw.new_series(name, column, backend=table.implementation) for name, column in columns.items()]
    return table.with_columns(series).to_native()


def _cells(ranking: Ranking) -> Iterator[Any]:
    """The cells of the added columns, a column at a time, best first."""
    yield range(1, len(ranking) + 1)
    yield [result.score for result in ranking]
    yield [result.logit for result in ranking]
    yield [result.tokens_cut for result in ranking]
    yield ranking.query_tokens_cut
