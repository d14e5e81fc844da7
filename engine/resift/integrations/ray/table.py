"""Table: pools in Arrow record batches, one row each, and the ranked rows."""

from __future__ import annotations

from itertools import islice, tee
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from resift.errors import InputError
from resift.pools.collection import rerank_pools
from resift.pools.reading import CandidatePool, free_name, to_candidate
from resift.pools.source import template_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from resift.documents import DocumentTemplate
    from resift.ranking import Ranking
    from resift.reranker import Reranker

QUERY, TEXT, RESULTS, QUERY_TOKENS_CUT = "query", "text", "results", "query_tokens_cut"
POOL = ("documents", "candidates")
"""The column with a pool's texts is one of these: list<string>, or list<struct<text: string, ...>>."""
RESULT_FIELDS = {
    "index": pa.int32(),
    "score": pa.float32(),
    "logit": pa.float32(),
    "scored_by": pa.string(),
    "tokens_cut": pa.int32(),
    "tokens_cut_at_least": pa.bool_(),
}
"""The fields of a result that resift adds: those of a RankedDocument, without its text."""
WINDOW_FIELDS = {"windows": pa.int32(), "window": pa.int32()}
"""The fields that resift adds as well where documents are read in windows."""


def check_columns(schema: pa.Schema, where: str) -> None:
    """Raises InputError that begins with `where` unless the columns hold pools.

    The columns must be `query`, a string, and either `documents`, a list of strings, or `candidates`, a list of structs that have
    a string `text`. Other columns and fields may be of any type.
    """
    _check_distinct(schema.names, f"{where}: the column")
    pool_columns = [name for name in POOL if name in schema.names]
    if QUERY not in schema.names or len(pool_columns) != 1:
        names = ", ".join(schema.names) or "none"
        raise InputError(f"{where}: expected the column 'query' and either 'documents' or 'candidates'; found {names}")
    if not _is_text(schema.field(QUERY).type):
        raise InputError(f"{where}: 'query' is {schema.field(QUERY).type}; expected string")
    column = schema.field(pool_columns[0]).type
    item = column.value_type if _is_list(column) else None
    if pool_columns[0] == "documents":
        if item is None or not _is_text(item):
            raise InputError(f"{where}: 'documents' is {column}; expected list<string>")
        return
    fields = [item.field(index) for index in range(item.num_fields)] if item is not None and pa.types.is_struct(item) else []
    if not any(field.name == TEXT and _is_text(field.type) for field in fields):
        raise InputError(f"{where}: 'candidates' is {column}; expected list<struct<text: string, ...>>")
    _check_distinct([field.name for field in fields], f"{where}: the candidates' field")


def rank_batches(  # noqa: PLR0913 - input, its name in messages, and options
    reranker: Reranker,
    batches: Iterable[pa.RecordBatch],
    where: str,
    *,
    first: int = 0,
    top_k: int | None = None,
    max_candidates: int | None = None,
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yields each ranked batch, and the number of pairs that were scored for it.

    In place of `documents` or `candidates`, a ranked row has `query_tokens_cut` and `results`, best first. A result has the
    candidate's own fields except its text, those of `RESULT_FIELDS` and, with windows, those of `WINDOW_FIELDS`, as in
    `CandidatePool.ranked`. Other columns stay as they are; a column with the name of a new one becomes given_NAME. `first` is the
    number of the first row, for messages, which begin with `where`. `max_candidates`: candidates read of each pool; None: all.
    Raises InputError for a row that is not a pool, and otherwise like `Reranker.rerank`.
    """
    ahead, behind = tee(batches)  # rerank_pools reads pools ahead of the one that it yields
    ranked_pools = rerank_pools(reranker, _pools(ahead, where, first, max_candidates, template_of(reranker.settings)), top_k=top_k)
    fields = RESULT_FIELDS if reranker.resolved.windows == 1 else RESULT_FIELDS | WINDOW_FIELDS
    for batch in behind:
        rows = list(islice(ranked_pools, batch.num_rows))
        yield _ranked_batch(batch, [ranking for _, ranking in rows], fields), sum(len(pool.documents) for pool, _ in rows)


def _pools(
    batches: Iterable[pa.RecordBatch], where: str, first: int, size: int | None, template: DocumentTemplate | None
) -> Iterator[CandidatePool]:
    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(f"{where}, rows {first} to {first + batch.num_rows - 1}: damaged: {error}") from error
        lists = _lists(batch)
        read = template if pa.types.is_struct(lists.values.type) else None
        texts = (lists if read else pa.LargeListArray.from_arrays(lists.offsets, _texts(lists.values))).to_pylist()
        rows = zip(batch.column(QUERY).to_pylist(), lists.is_null().to_pylist(), texts, strict=True)
        for number, (query, is_missing, documents) in enumerate(rows, first):
            if query is None or is_missing or None in documents:
                missing = "'query'" if query is None else "the list" if is_missing else f"the text at {documents.index(None)}"
                raise InputError(f"{where}, row {number} (from 0): {missing} is null; expected a query and a list of texts")
            pool = CandidatePool(query, documents).first(size)
            if read:
                here = f"{where}, row {number} (from 0): candidates"
                pool.documents[:] = [to_candidate(item, f"{here}[{n}]", read)[0] for n, item in enumerate(pool.documents)]
            yield pool
        first += batch.num_rows


def _ranked_batch(batch: pa.RecordBatch, rankings: Sequence[Ranking], fields: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    other = {name: batch.column(name) for name in batch.schema.names if name not in POOL}
    new = {
        QUERY_TOKENS_CUT: pa.array([ranking.query_tokens_cut for ranking in rankings], pa.int32()),
        RESULTS: _results(_lists(batch), rankings, fields),
    }
    columns = {free_name(name, new, other): column for name, column in other.items()} | new
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _results(lists: pa.LargeListArray, rankings: Sequence[Ranking], fields: Mapping[str, pa.DataType]) -> pa.ListArray:
    """A list<struct> with an item for each ranked document and its `fields`; the candidates' own fields keep their types."""
    counts = np.array([len(ranking) for ranking in rankings], np.int64)
    rows = [result for ranking in rankings for result in ranking]
    new = {name: pa.array([getattr(row, name) for row in rows], type=kind) for name, kind in fields.items()}
    other = {}
    if pa.types.is_struct(lists.type.value_type):
        starts = np.repeat(lists.offsets.to_numpy()[:-1], counts)
        positions = pa.array(starts + np.array([row.index for row in rows], np.int64))
        other = {name: values.take(positions) for name, values in _fields(lists.values).items() if name != TEXT}
    columns = {free_name(name, new, other): values for name, values in other.items()} | new
    items = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32()), items)


def _lists(batch: pa.RecordBatch) -> pa.LargeListArray:
    [column] = [batch.column(name) for name in POOL if name in batch.schema.names]
    return column.cast(pa.large_list(column.type.value_type))


def _texts(values: pa.Array) -> pa.LargeStringArray:
    """The texts of documents or candidates; null for a candidate that is null."""
    texts = _fields(values)[TEXT] if pa.types.is_struct(values.type) else values
    return texts.cast(pa.large_string())


def _fields(values: pa.StructArray) -> dict[str, pa.Array]:
    return dict(zip((field.name for field in values.type), values.flatten(), strict=True))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _check_distinct(names: Sequence[str], what: str) -> None:
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise InputError(f"{what} {duplicates[0]!r} is there {names.count(duplicates[0])} times; expected distinct names")
