"""general: pairs of other subjects, whose scores by the checkpoint are to stay: without them, a training forgets what it knew.

Their labels are not needed: the loss is the squared difference from the checkpoint's own logits (learning without forgetting,
arXiv:1606.09282).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from resift.errors import InputError
from resift.files.names import path_text
from resift.pools.source import read_pools
from resift.retrieval.words import key_of
from resift_export.distill.data import sha256_of
from resift_export.distill.recipe import DataFile
from resift_export.recipe import Recipe
from resift_export.train.pairs import document_key

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from resift.encoding.tokenizer import PairTokenizer
    from resift_export.train.pairs import Key


class General(NamedTuple):
    """Pairs of query and document to keep, and the files that they come from; none for the built-in ones."""

    pairs: list[tuple[str, str]]
    files: list[DataFile]


def read_general(paths: Sequence[Path], excluded: Container[str], answers: Container[Key], tokenizer: PairTokenizer) -> General:
    """The pairs of the pools in `paths`, or the built-in calibration pairs.

    Left out are those of queries with an `excluded` key or too long for `tokenizer`, and those of documents among `answers`. Raises
    InputError, which names file and line, for other content, and if no pair remains.
    """
    if not paths:
        built_in = [(pair.query, pair.document) for pair in Recipe().calibration_pairs()]
        return General([pair for pair in built_in if is_usable(pair[0], excluded, tokenizer)], [])
    pairs, files = [], []
    for path in paths:
        if str(path) == "-" or (path.exists() and not path.is_file()):
            raise InputError(f"{path} is not a file; expected files, as a resumed run reads them again")
        pools = list(read_pools(path))
        files.append(DataFile(name=path_text(path.name), sha256=sha256_of(path), rows=len(pools)))
        pairs += [
            (pool.query, document)
            for pool in pools
            if is_usable(pool.query, excluded, tokenizer)
            for document in pool.documents
            if document_key(document) not in answers
        ]
    if not pairs:
        raise InputError(f"{', '.join(file.name for file in files)}: no pair to keep; expected queries and documents not held out")
    return General(pairs, files)


def is_usable(query: str, excluded: Container[str], tokenizer: PairTokenizer) -> bool:
    """Whether the query's key is not among `excluded`, and `tokenizer` reads all of it."""
    return key_of(query) not in excluded and not tokenizer.encode(query, []).query_tokens_cut


def draw(pairs: Sequence[tuple[str, str]], count: int, seed: int) -> list[int]:
    """The places of `count` of the pairs in random order; if there are fewer, each is drawn about as often as any other."""
    generator = random.Random(f"{seed} general")  # noqa: S311 - no secret
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += generator.sample(range(len(pairs)), min(len(pairs), count - len(drawn)))
    return drawn
