"""Generates queries for documents that have none: questions by an endpoint, or keyword queries from the documents' own words."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from resift.questions.asking import Asking
from resift.questions.endpoint import Budget
from resift.questions.extract import Extractor
from resift.questions.journal import Head, QuestionJournal, digest, digest_of_text
from resift.questions.prompt import messages
from resift.questions.round_trip import RoundTrip
from resift.retrieval.words import key_of, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from resift.mining.collection import MiningDocument
    from resift.questions.endpoint import Address
    from resift.reranker import Reranker

    Progress = Callable[[str, int, int], object]

EXTRACTIVE = "extractive"
SHORTEST = 5
"""Words of a text that is asked about; in a shorter one there is nothing to ask."""
TOO_SHORT, LOST, WITHOUT = "too short", "its question does not find it again", "no question"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """How queries are generated."""

    per_document: int = 1
    """maximum number of queries of a document"""
    characters: int = 6_000
    """of a document's text that are sent to an endpoint"""
    limit: int | None = None
    """number of documents, drawn at random; None: all"""
    seed: int = 0
    """of the order in which documents are asked about"""
    concurrency: int = 4
    """requests at once"""
    max_requests: int | None = None
    """over all runs that belong together, repeated requests included; None: as many as it takes"""
    best: int = 10
    """among so many documents a query must find its own; 0: no query is left out for that"""


@dataclass(slots=True)
class Generated:
    """Queries, and what became of the rest."""

    rows: list[dict[str, Any]]
    """{"qid", "query", "positive", "negative", "method"} of each query, in the order of the documents"""
    documents: int
    """number of documents in the corpus"""
    left_out: Counter[str] = field(default_factory=Counter)
    """number of queries, or of documents without one, by reason"""
    requests: int = 0
    """number of requests, over all runs that belong together"""
    remaining: int = 0
    """number of documents that were not asked about, as the budget was spent"""


class Generation:
    """Generates queries for the documents of a corpus."""

    def __init__(
        self,
        documents: Sequence[MiningDocument],
        options: QuestionOptions,
        *,
        reranker: Reranker | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`reranker`: what ranks the documents that a query finds by BM25, its own among them; None: they stay in BM25's order."""
        self._documents, self._options, self._reranker, self._progress = documents, options, reranker, progress

    def extract(self) -> Generated:
        """Makes keyword queries from the documents' own words; see `Extractor`. Nothing is sent anywhere.

        Raises ExtraError without bm25s, unless `options.best` is 0.
        """
        extractor = Extractor(document.text for document in self._documents)
        found, count = Generated([], len(self._documents)), self._options.per_document
        chosen = self._chosen(found)
        self._finish(found, {each: extractor.queries(self._documents[each].text, count) for each in chosen}, EXTRACTIVE)
        return found

    def ask(self, address: Address, journal_path: Path, write: Callable[[Generated], object]) -> Generated:
        """Asks an endpoint for questions that the documents answer, and passes them to `write`.

        What it answered is in the file `journal_path` until all is written, and is not asked for again; documents for which it
        failed are. So the same call goes on where an earlier one ended, and the requests of both count for `options.max_requests`.

        Raises InputError if the endpoint cannot be used or the journal belongs to another run, OutputError if the journal cannot be
        written, ExtraError without bm25s, unless `options.best` is 0.
        """
        journal = QuestionJournal(journal_path, self._head(address.model))
        try:
            found = Generated([], len(self._documents))
            chosen = self._chosen(found)
            self._ask(address, journal, chosen)
            entries = [journal.entries[position] for position in chosen if position in journal.entries]
            found.requests, found.remaining = journal.requests, len(chosen) - len(entries)
            found.left_out.update(entry.fault for entry in entries if entry.fault is not None)
            queries = {entry.document: entry.questions for entry in entries if entry.fault is None}
            self._finish(found, queries, address.model)
            write(found)
        except BaseException:
            if journal.entries:
                journal.close()
            else:
                journal.delete()
            raise
        if len(queries) == len(chosen):
            journal.delete()
        else:
            journal.close()
        return found

    def _head(self, model: str) -> Head:
        instruction = f"{messages('', self._options.per_document, 0)} {self._options.characters}"
        return Head(documents=digest(self._documents), method=model, instruction=digest_of_text(instruction))

    def _ask(self, address: Address, journal: QuestionJournal, chosen: Sequence[int]) -> None:
        """Asks about the chosen documents of which the journal has no questions yet."""
        pending = [each for each in chosen if each not in journal.entries or journal.entries[each].fault is not None]
        options, budget = self._options, Budget(self._options.max_requests, journal.requests)
        asking = Asking(self._documents, address, budget, count=options.per_document, characters=options.characters)
        for done, entry in enumerate(asking.entries(pending, options.concurrency), len(chosen) - len(pending) + 1):
            journal.add(entry)
            if self._progress:
                self._progress("asking", done, len(chosen))

    def _chosen(self, found: Generated) -> list[int]:
        """Positions of the documents to ask about, in the order of asking, so that any part of them is a sample."""
        positions = [position for position, document in enumerate(self._documents) if len(words(document.text)) >= SHORTEST]
        found.left_out[TOO_SHORT] += len(self._documents) - len(positions)
        random.Random(self._options.seed).shuffle(positions)  # noqa: S311 - no secret
        return positions[: self._options.limit]

    def _finish(self, found: Generated, queries: Mapping[int, Sequence[str]], method: str) -> None:
        """Fills in the rows: the queries that find their document again, in the order of the documents, equal ones once."""
        found.left_out[WITHOUT] += sum(not questions for questions in queries.values())
        flat = [(question, position) for position in sorted(queries) for question in queries[position]]
        survivors = [True] * len(flat)
        if self._options.best and flat:
            survivors = list(RoundTrip(self._documents, self._options.best, self._reranker).survive(flat, self._progress))
        found.left_out[LOST] += survivors.count(False)
        rows: dict[str, dict[str, Any]] = {}
        numbers: Counter[int] = Counter()
        for (question, position), survives in zip(flat, survivors, strict=True):
            if survives:
                numbers[position] += 1
                document = self._documents[position]
                positive = {"text": document.text} if document.docid is None else {"docid": document.docid, "text": document.text}
                head = {"qid": f"q{position}-{numbers[position]}", "query": question}
                row = rows.setdefault(key_of(question), {**head, "positive": [], "negative": [], "method": method})
                row["positive"].append(positive)
        found.rows = list(rows.values())


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON Lines of the rows, which are training pairs without negatives."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
