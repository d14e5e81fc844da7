"""PairTokenizer: queries and documents to encodings. Text never passes this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding

DOCUMENT_SHARE = 4
"""A query may take all but one part in DOCUMENT_SHARE of a pair's room; what a longer one has beyond that is cut."""

PART_CHARACTERS = 200_000
"""`PairTokenizer.parts` yields as soon as this many characters were encoded, ..."""
PART_DOCUMENTS = 64
"""... or this many documents."""


@dataclass(frozen=True, slots=True)
class Encodings:
    """n encoded pairs of one query, their tokens one after the other."""

    ids: NDArray[np.int32]
    """int32[t]: token ids of all pairs, t = lengths.sum()"""
    segment_ids: NDArray[np.int32]
    """int32[t]: segment ids of all pairs"""
    lengths: NDArray[np.int32]
    """int32[n]: tokens, special tokens included"""
    tokens_cut: NDArray[np.int32]
    """int32[n]: tokens dropped at the end of the document"""
    at_least: NDArray[np.bool_]
    """bool[n]: tokens_cut is a lower bound, as the document was too long to be counted to its end"""
    query_tokens_cut: int
    """tokens dropped at the end of the query"""
    offsets: NDArray[np.int64] = field(init=False)
    """int64[n + 1]: pair i is the tokens from offsets[i] up to offsets[i + 1]"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids of pair `number`, from 0: views of int32[lengths[number]] each."""
        span = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[span], self.segment_ids[span]

    @classmethod
    def join(cls, parts: Sequence[Encodings]) -> Encodings:
        """The pairs of at least one part, in order; all parts must have one query."""
        if len(parts) == 1:
            return parts[0]
        columns = ("ids", "segment_ids", "lengths", "tokens_cut", "at_least")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        return cls(**joined, query_tokens_cut=parts[0].query_tokens_cut)


class PairTokenizer:
    """Encodes pairs as the tokenizer's own pair encoding with truncation="only_second" does.

    A query is encoded once for all its documents. That is equal by the tokenizer's construction: it encodes both texts
    on their own and only then joins them, in a template that is the same for all pairs
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

    def encode(self, query: str, documents: Sequence[str]) -> Encodings:
        """Encodes the pairs of `query` with each of n `documents`."""
        return Encodings.join(list(self.parts(query, documents)) or [self._encode_pairs(*self._encode_query(query), [])])

    def parts(self, query: str, documents: Sequence[str]) -> Iterator[Encodings]:
        """`encode` in steps: yields the encodings of consecutive documents after each bounded amount of text.

        A caller who stops between two parts spends at most PART_CHARACTERS and one document on what is not wanted. All parts
        together hold every document once; no documents are no parts.
        """
        start, characters = 0, 0
        encoded_query = self._encode_query(query) if documents else None
        for end, document in enumerate(documents, 1):
            characters += len(document)
            if encoded_query and (characters >= PART_CHARACTERS or end - start == PART_DOCUMENTS or end == len(documents)):
                yield self._encode_pairs(*encoded_query, documents[start:end])
                start, characters = end, 0

    def _encode_query(self, query: str) -> tuple[Encoding, int]:
        """The query's encoding and how many tokens beyond its share were cut from it."""
        [encoding] = self._encode_texts([query])
        limit = self._room - self._room // DOCUMENT_SHARE
        excess = max(0, len(encoding) - limit)
        if excess:
            encoding.truncate(limit)
        return encoding, excess

    def _encode_pairs(self, query: Encoding, query_tokens_cut: int, documents: Sequence[str]) -> Encodings:
        room = self._room - len(query)
        pairs = []
        tokens_cut = np.zeros(len(documents), np.int32)
        for row, document in enumerate(self._encode_texts(documents)):
            tokens_cut[row] = max(0, len(document) - room)
            if tokens_cut[row]:
                document.truncate(room)
            pairs.append(self._tokenizer.post_process(query, document))
        return Encodings(
            ids=np.array([token for pair in pairs for token in pair.ids], np.int32),
            segment_ids=np.array([segment for pair in pairs for segment in pair.type_ids], np.int32),
            lengths=np.array([len(pair) for pair in pairs], np.int32),
            tokens_cut=tokens_cut,
            at_least=np.zeros(len(documents), np.bool_),
            query_tokens_cut=query_tokens_cut,
        )

    def _encode_texts(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast([_encodable(text) for text in texts], add_special_tokens=False)


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
