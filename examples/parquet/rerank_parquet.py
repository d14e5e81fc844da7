"""Ranks the candidate pools of a Parquet file into another Parquet file, as a stream: its size does not matter.

    python examples/parquet/rerank_parquet.py pairs.parquet ranked.parquet --top-k 3

Needs resift and pyarrow. The input has a row for each pair or for each pool, as `resift rerank --pools` reads it. The output has a
row for each ranked document, and appears once it is complete.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from resift import Reranker, ResiftError
from resift.pools import read_pools, rerank_pools

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = pa.schema(
    {
        "qid": pa.string(),
        "query": pa.string(),
        "rank": pa.int32(),  # from 1
        "index": pa.int32(),  # of the document in its pool, from 0
        "docid": pa.string(),
        "document": pa.string(),
        "logit": pa.float32(),
        "score": pa.float32(),  # null: only a first look read the document
    }
)
ROW_GROUP = 10_000
"""Rows that are written at once."""


def ranked_rows(reranker: Reranker, source: str, top_k: int | None) -> Iterator[dict[str, Any]]:
    """A row of SCHEMA for each of the `top_k` best documents of each pool (None: for all)."""
    for pool, ranking in rerank_pools(reranker, read_pools(source), top_k=top_k):
        for rank, result in enumerate(ranking, 1):
            docid = pool.fields[result.index].get("docid") if pool.fields else None
            yield {
                "qid": None if pool.qid is None else str(pool.qid),
                "query": pool.query,
                "rank": rank,
                "index": result.index,
                "docid": None if docid is None else str(docid),
                "document": result.document,
                "logit": result.logit,
                "score": result.score,
            }


def write(rows: Iterator[dict[str, Any]], out: Path) -> int:
    """Writes the rows, and returns how many they are. `out` appears at the end: until then they are in a file beside it."""
    unfinished = out.with_name(f"{out.name}.partial")
    count = 0
    try:
        with pq.ParquetWriter(unfinished, SCHEMA) as writer:
            while group := list(islice(rows, ROW_GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
                count += len(group)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def main() -> None:
    """Ranks one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a Parquet file of pairs or pools")
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--top-k", type=int, help="documents of each pool that are written (default: all)")
    parser.add_argument("--model", help="an artifact (default: the embedded model)")
    arguments = parser.parse_args()
    try:
        with Reranker.load(arguments.model) as reranker:
            count = write(ranked_rows(reranker, arguments.source, arguments.top_k), arguments.out)
    except (ResiftError, OSError) as error:
        raise SystemExit(str(error)) from error
    print(f"{count} rows in {arguments.out}")


if __name__ == "__main__":
    main()
