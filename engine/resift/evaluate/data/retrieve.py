"""Retrieves candidates for queries from a corpus, for data without a retriever's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ExtraError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray


def bm25(documents: Iterable[tuple[str, str]], queries: Mapping[str, str], depth: int) -> dict[str, list[str]]:
    """The docids of each query's best `depth` documents by BM25, best first; fewer where fewer share a word with the query.

    By bm25s with its defaults (Lucene's variant, k1 = 1.5, b = 0.75) and its tokenizer: lower-cased words of two letters or more,
    without English stop words. Languages written without spaces therefore need another retriever. Documents with equal scores keep
    the corpus's order, on every machine; documents that share no word with the query are not retrieved. The texts are read once
    and not kept in memory. Their token ids and the index take some 22 bytes per word of the corpus at the peak (200,000 documents
    of 80 words: 350 MB).

    Raises ExtraError if bm25s is not installed, InputError if there is no document.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ExtraError("retrieval by BM25 needs bm25s, which cannot be imported: pip install 'resift[eval]'") from error
    docids: list[str] = []

    def texts() -> Iterator[str]:
        for docid, text in documents:
            docids.append(docid)
            yield text

    tokenized = bm25s.tokenize(texts(), show_progress=False)
    if not docids:
        raise InputError("the corpus holds no documents")
    if not tokenized.vocab:  # no document has a word
        return {qid: [] for qid in queries}
    index = bm25s.BM25()
    index.index(tokenized, show_progress=False)
    rankings: dict[str, list[str]] = {}
    for qid, query in queries.items():
        (words,) = bm25s.tokenize(query, return_ids=False, show_progress=False)
        ids = index.get_tokens_ids(words)
        rankings[qid] = [docids[place] for place in _best(index.get_scores_from_ids(ids), depth)]
    return rankings


def _best(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Positions of the `depth` highest scores above 0, best first, equal ones in order."""
    places = np.flatnonzero(scores > 0)
    if len(places) > depth:
        lowest = np.partition(scores[places], -depth)[-depth]
        places = places[scores[places] >= lowest]
    return places[np.argsort(-scores[places], kind="stable")][:depth]
