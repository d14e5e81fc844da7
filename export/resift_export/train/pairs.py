"""pairs: the queries to learn from, each once, with documents that answer them and documents that do not."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.files.names import path_text
from resift.pools.training_pairs import TrainingDocument, TrainingPairs, read_pairs
from resift.retrieval.words import key_of
from resift_export.distill.data import sha256_of
from resift_export.distill.recipe import DataFile

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from pathlib import Path

    from resift.encoding.tokenizer import PairTokenizer

MINIMUM_QUERIES = 50
"""Queries below which a gain cannot be told from chance."""
RANKED_NEGATIVES = 15
"""Maximum number of a query's negatives that are ranked with its answers, where the gain is measured."""
NO_NEGATIVES, TOO_LONG = "without a negative", "too long for the model"
Key = bytes


@dataclass(frozen=True)
class TrainingData:
    """The queries of the files, each once."""

    queries: list[TrainingPairs]
    files: list[DataFile]
    left_out: Counter[str] = field(default_factory=Counter)
    """number of queries that are not used, by reason"""
    siblings: int = 0
    """negatives that answer their query by another line or list, which are not used"""
    repeated: int = 0
    """lines whose query is that of an earlier one, with which they are joined"""


def document_key(text: str) -> Key:
    """The key by which documents are compared: a digest of their words, without case and punctuation."""
    return hashlib.blake2b(key_of(text).encode(errors="surrogatepass"), digest_size=16).digest()


def read_data(paths: Sequence[Path], tokenizer: PairTokenizer) -> TrainingData:
    """Reads the queries of `paths`; see TrainingData for what is left out.

    Raises InputError, which names file and line, for other content, and for too few queries, or labels of one kind only.
    """
    if not paths:
        raise InputError("no data given; expected one or more files of training pairs, as `resift mine` writes them")
    joined: dict[str, TrainingPairs] = {}
    files, lines = [], 0
    for path in paths:
        if str(path) == "-" or (path.exists() and not path.is_file()):
            raise InputError(f"{path} is not a file; expected files, as a resumed run reads them again")
        rows = 0
        for rows, pairs in enumerate(read_pairs(path), 1):  # noqa: B007 - rows is used below
            key = key_of(pairs.query)
            joined[key] = pairs if key not in joined else _join(joined[key], pairs)
        lines += rows
        files.append(DataFile(name=path_text(path.name), sha256=sha256_of(path), rows=rows))
    queries, left_out, siblings = [], Counter[str](), 0
    for pairs in joined.values():
        positive = _distinct(pairs.positive)
        negative = _distinct(pairs.negative)
        siblings += len(negative.keys() & positive.keys())
        others = [document for key, document in negative.items() if key not in positive]
        if not others:
            left_out[NO_NEGATIVES] += 1
        elif tokenizer.encode(pairs.query, []).query_tokens_cut:
            left_out[TOO_LONG] += 1
        else:
            queries.append(TrainingPairs(pairs.query, list(positive.values()), others, pairs.qid))
    data = TrainingData(queries, files, left_out, siblings, lines - len(joined))
    _check(data, len(joined))
    return data


def without(queries: Iterable[TrainingPairs], answers: Container[Key]) -> list[TrainingPairs]:
    """The queries without the negatives whose keys are among `answers`; those that have no other negative are left out."""
    found = []
    for pairs in queries:
        negative = [document for document in pairs.negative if document_key(document.text) not in answers]
        if negative:
            found.append(TrainingPairs(pairs.query, pairs.positive, negative, pairs.qid))
    return found


def answers_of(queries: Iterable[TrainingPairs]) -> set[Key]:
    """The keys of the documents that answer the queries."""
    return {document_key(document.text) for pairs in queries for document in pairs.positive}


def pool_of(pairs: TrainingPairs, limit: int = RANKED_NEGATIVES) -> tuple[str, list[str], list[int]]:
    """The query, its documents and their labels. The answers come last, so that equal logits do not favour them."""
    negatives = [document.text for document in pairs.negative[:limit]]
    answers = [document.text for document in pairs.positive]
    return pairs.query, [*negatives, *answers], [0] * len(negatives) + [1] * len(answers)


def _check(data: TrainingData, total: int) -> None:
    names = ", ".join(file.name for file in data.files)
    if total and data.left_out[NO_NEGATIVES] == total:
        raise InputError(
            f"none of the {total} queries of {names} has a negative, so there is nothing to tell apart; expected documents that do "
            "not answer them, too: `resift mine` finds some"
        )
    if len(data.queries) < MINIMUM_QUERIES:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in data.left_out.items()) or "none is left out"
        raise InputError(
            f"{names}: {len(data.queries)} queries to learn from ({reasons}); expected {MINIMUM_QUERIES} or more, better 500, as "
            "a gain on fewer cannot be told from chance"
        )


def _join(first: TrainingPairs, second: TrainingPairs) -> TrainingPairs:
    return TrainingPairs(first.query, [*first.positive, *second.positive], [*first.negative, *second.negative], first.qid)


def _distinct(documents: Sequence[TrainingDocument]) -> dict[Key, TrainingDocument]:
    """The first document of each key, in order."""
    found: dict[Key, TrainingDocument] = {}
    for document in documents:
        found.setdefault(document_key(document.text), document)
    return found
