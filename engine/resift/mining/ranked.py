"""Ranked: the candidates of every query, as its pool gives them or as words and vectors retrieve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.retrieval.bm25 import Bm25
from resift.retrieval.fusion import fuse
from resift.retrieval.words import LONG_WORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from resift.mining.collection import Collection
    from resift.retrieval.vectors import Vectors

RETRIEVING = "retrieving"


def ranked(
    collection: Collection,
    depth: int,
    *,
    vectors: Vectors | None = None,
    stem: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> Iterator[list[int]]:
    """The best `depth` documents of each query, best first: its pool's, or else those that BM25 and the `vectors` find.

    Raises ExtraError without bm25s, InputError for vectors that do not belong to the collection.
    """
    queries = collection.queries
    if all(query.ranking is not None for query in queries):
        if vectors is not None:
            raise InputError(f"{collection.name} holds candidate pools, which are not retrieved; vectors cannot be used with them")
        yield from ([*(query.ranking or [])][:depth] for query in queries)
        return
    if vectors is not None:
        vectors.check(collection.size, collection.rows)
    index = Bm25((document.text for document in collection.documents[: collection.size]), pattern=LONG_WORD, stem=stem)
    nearest = iter(() if vectors is None else vectors.best([query.row for query in queries], depth))
    for number, query in enumerate(queries, 1):
        rankings: list[Sequence[int]] = [index.best(query.text, depth).tolist()]
        if vectors is not None:
            rankings.append(next(nearest).tolist())
        if progress:
            progress(RETRIEVING, number, len(queries))
        yield fuse(rankings, depth)
