"""PairTokenizer: queries and documents to encodings. Text never passes this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding

DOCUMENT_SHARE = 4
"""A query may take all but one part in DOCUMENT_SHARE of a pair's room; what a longer one has beyond that is cut."""


@dataclass(frozen=True, slots=True)
class Encodings:
    """n encoded pairs, ragged."""

    ids: list[NDArray[np.int64]]
    segment_ids: list[NDArray[np.int64]]
    lengths: NDArray[np.int32]
    """int32[n]: tokens, special tokens included"""
    tokens_cut: NDArray[np.int32]
    """int32[n]: tokens dropped at the end of the document"""
    query_tokens_cut: NDArray[np.int32]
    """int32[n]: tokens dropped at the end of the query"""

    def stack(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs, int64[b, width] each, for pairs `rows` of one length."""
        return {
            "input_ids": np.stack([self.ids[row] for row in rows]),
            "token_type_ids": np.stack([self.segment_ids[row] for row in rows]),
        }


class PairTokenizer:
    """Encodes pairs as the tokenizer's own pair encoding with truncation="only_second" does.

    A query is encoded once for all its documents. That is equal by the tokenizer's construction: it encodes both texts
    on their own and only then joins them, in the template that `post_process` applies here
    (https://huggingface.co/docs/tokenizers/components#postprocessors). The one departure is a query so long that it
    would leave the document less than a quarter of the room: only_second fails on it, here its end is cut and reported.

    Any str can be encoded; a lone surrogate, which has no UTF-8 form, is read as U+FFFD.
    """

    def __init__(self, source: bytes, max_length: int) -> None:
        """Reads `source`, the content of a tokenizer.json, for pairs of at most `max_length` tokens.

        Raises ArtifactError if it cannot be read, InputError if `max_length` has no room for two texts.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_buffer(source)
        except ValueError as error:
            raise ArtifactError(f"tokenizer.json cannot be read: {error}; export the artifact again") from error
        # Set once and never again: threads share the tokenizer, and toggling them fails with "Already borrowed".
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special_tokens = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        self._room = max_length - special_tokens
        if self._room < DOCUMENT_SHARE:
            raise InputError(
                f"max_length is {max_length} tokens, of which {special_tokens} are special; "
                f"expected at least {special_tokens + DOCUMENT_SHARE}, so that both texts have room"
            )

    @property
    def vocabulary(self) -> int:
        """Number of tokens it knows."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def template(self) -> list[str]:
        """The tokens around an empty query and an empty document, such as [CLS] [SEP] [SEP], each with its segment id."""
        pair = self._tokenizer.encode("", "")
        return [f"{token}:{segment}" for token, segment in zip(pair.tokens, pair.type_ids, strict=True)]

    def encode(self, queries: Sequence[str], documents: Sequence[str]) -> Encodings:
        """Encodes the pairs (queries[i], documents[i])."""
        distinct = list(dict.fromkeys(queries))
        encoded_queries = dict(zip(distinct, self._encode_texts(distinct), strict=True))
        cut_from_query = {query: self._cut_query(encoding) for query, encoding in encoded_queries.items()}
        pairs = []
        tokens_cut = np.zeros(len(documents), np.int32)
        for row, (query, document) in enumerate(zip(queries, self._encode_texts(documents), strict=True)):
            room = self._room - len(encoded_queries[query])
            tokens_cut[row] = max(0, len(document) - room)
            if tokens_cut[row]:
                document.truncate(room)
            pairs.append(self._tokenizer.post_process(encoded_queries[query], document))
        ids = [np.array(pair.ids, np.int64) for pair in pairs]
        return Encodings(
            ids=ids,
            segment_ids=[np.array(pair.type_ids, np.int64) for pair in pairs],
            lengths=np.array([len(row) for row in ids], np.int32),
            tokens_cut=tokens_cut,
            query_tokens_cut=np.array([cut_from_query[query] for query in queries], np.int32),
        )

    def _encode_texts(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast([_encodable(text) for text in texts], add_special_tokens=False)

    def _cut_query(self, query: Encoding) -> int:
        """Cuts what a query has beyond its share and returns how many tokens that was."""
        limit = self._room - self._room // DOCUMENT_SHARE
        excess = max(0, len(query) - limit)
        if excess:
            query.truncate(limit)
        return excess


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
