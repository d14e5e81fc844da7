"""Retrieves candidates for queries from a corpus, for data without a retriever's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.retrieval.bm25 import Bm25

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def bm25(documents: Iterable[tuple[str, str]], queries: Mapping[str, str], depth: int) -> dict[str, list[str]]:
    """The docids of each query's best `depth` documents by BM25, best first; fewer where fewer share a word with the query.

    By `Bm25` with its own words: lower-cased words of two letters or more, without English stop words. Languages written without
    spaces therefore need another retriever. Documents with equal scores keep the corpus's order, on every machine; documents that
    share no word with the query are not retrieved.

    Raises ExtraError if bm25s is not installed, InputError if there is no document.
    """
    docids: list[str] = []

    def texts() -> Iterator[str]:
        for docid, text in documents:
            docids.append(docid)
            yield text

    index = Bm25(texts())
    return {qid: [docids[place] for place in index.best(query, depth)] for qid, query in queries.items()}
