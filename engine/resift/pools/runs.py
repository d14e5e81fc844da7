"""Runs: pools from a TREC run, with the texts of its queries and documents from BEIR's files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.pools.beir import Texts, read_corpus, read_queries
from resift.pools.reading import CandidatePool, read_lines
from resift.pools.tables import Item
from resift.pools.trec import read_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from resift.documents import DocumentTemplate


@dataclass(frozen=True, slots=True)
class RunTexts:
    """The texts of the queries and documents that a run names, in memory."""

    run: str
    """the file of the run, for messages"""
    files: Texts
    queries: Mapping[str, str]
    documents: Mapping[str, str]

    @classmethod
    def read(
        cls, run: str, files: Texts, rankings: Mapping[str, Iterable[str]], template: DocumentTemplate | None = None
    ) -> RunTexts:
        """The texts of the queries and docids in `rankings`. Raises InputError like `read_queries` and `read_corpus`."""
        queries = {qid: query for qid, query in read_queries(files.queries) if qid in rankings}
        docids = {docid for ranked in rankings.values() for docid in ranked}
        return cls(run, files, queries, dict(read_corpus(files.corpus, docids, template)))

    def pool(self, qid: str, ranked: Mapping[str, int], docids: Iterable[str]) -> CandidatePool:
        """The pool of a query with the candidates `docids`; `ranked`: the line of the run that names each of its documents.

        Raises InputError that names the run's line for a query or a document without a text.
        """
        if qid not in self.queries:
            line = min(ranked.values())
            raise InputError(f"{self.run}, line {line}: query {qid!r} is not in {os.fspath(self.files.queries)}")
        fields = [{"docid": docid} for docid in docids]
        for candidate in fields:
            docid = candidate["docid"]
            if docid not in self.documents:
                where = f"{self.run}, line {ranked[docid]}"
                raise InputError(f"{where}: document {docid!r} is not in {os.fspath(self.files.corpus)}; expected its text there")
        return CandidatePool(self.queries[qid], [self.documents[candidate["docid"]] for candidate in fields], qid, fields)


def run_pools(
    run: str, lines: Iterable[tuple[int, bytes]], files: Texts, depth: int | None, template: DocumentTemplate | None = None
) -> Iterator[Item]:
    """The pools of a run's queries, in its order, with the best `depth` documents of each (None: all).

    The run is read twice, first for its ids and then, as the numbered `lines`, as a stream. The texts of its documents are in
    memory. Raises InputError that names file and line for a line, a query or a document that cannot be used.
    """
    rankings = {qid: tuple(ranked) for qid, ranked in read_run(run, read_lines(run), depth)}
    texts = RunTexts.read(run, files, rankings, template)
    del rankings
    for qid, ranked in read_run(run, lines, depth):
        number = min(ranked.values())
        yield Item(number, f"{run}, line {number}", b"", texts.pool(qid, ranked, ranked))
