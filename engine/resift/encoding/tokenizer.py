"""PairTokenizer: queries and documents to encodings. Text never passes this file."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, cast

import numpy as np

from resift import process
from resift.documents import encodable
from resift.encoding.encodings import Encodings
from resift.encoding.extent import SHORT_TEXT_CHARACTERS, EncodedText, Extent
from resift.encoding.seams import last_seam, seam_spaces
from resift.encoding.template import PairTemplate
from resift.encoding.tokenizer_check import check_tokenizer
from resift.encoding.truncation import DOCUMENT_SHARE, document_room, longest_first, query_room
from resift.encoding.windows import reach, spans
from resift.errors import ArtifactError, InferenceError, InputError, ResiftError, importing, shortage
from resift.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Encoding

    from resift.settings import Truncation

PROBE = "a \uff21\ufb01 e\u0301 \u6771\u4eac \U0001f30a \ue000\uffff"
"""A text that is encoded at load as a test: characters that normalizers map, and some that few vocabularies have."""
PART_CHARACTERS = 100_000
"""`PairTokenizer.parts` yields after this many characters per usable core (0.1 s to 0.3 s), ..."""
PART_DOCUMENTS = 256
"""... or after this many documents."""


class PairTokenizer:
    """Encodes pairs like the tokenizer's own pair encoding with truncation="only_second", or with "longest_first".

    A query is encoded once for all its documents. The result is the same because the tokenizer encodes both texts separately
    and then joins them with a template that is the same for all pairs
    (https://huggingface.co/docs/tokenizers/components#postprocessors). The one difference is a query so long that it would
    leave the document less than a quarter of the room: only_second fails on it; here its end is cut and reported.

    A text of more than SHORT_TEXT_CHARACTERS characters is first cut at a seam (see seams.py). This does not change the tokens
    that the pair keeps, and makes the number of tokens cut a lower bound. If the text has no seam there, or too few tokens before
    it, its first LONG_TEXT_LIMITS[0] characters are encoded, then LONG_TEXT_LIMITS[1] if those give too few tokens; for several
    windows, then twice as many each time, up to the limit that follows from CHARACTERS_PER_WINDOW_TOKEN.

    Any str can be encoded; a lone surrogate, which has no UTF-8 form, is read as U+FFFD.
    """

    def __init__(self, source: bytes, max_length: int, *, prompt: str = "", truncation: Truncation = "only_second") -> None:
        """Reads `source`, the content of a tokenizer.json, for pairs of at most `max_length` tokens.

        `prompt` is put before every query and counts as part of it. `truncation`: which text of a longer pair is cut, see
        Settings.truncation. Raises ArtifactError if `source` cannot be read, if `check_tokenizer` refuses it or if it cannot
        be used for pairs, and InputError if `max_length` has no room for the prompt and two texts.
        """
        with importing("tokenizers"):
            from tokenizers import Tokenizer

        check_tokenizer(source)
        self._cores = usable_cores()
        self._truncation = truncation
        with _refusing("tokenizer.json cannot be read"):
            self._tokenizer = Tokenizer.from_buffer(source)
            # Only here: threads share the tokenizer, and changing these options while it is in use fails with "Already borrowed".
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._seam_spaces = self._find_seam_spaces()
            self._empty = self._tokenizer.encode("", "")
        dropout = getattr(self._tokenizer.model, "dropout", None)
        if dropout:
            raise ArtifactError(f"tokenizer.json drops {dropout:.0%} of its merges at random; set its model.dropout to null")
        self._special = len(self._empty)
        self._room = max_length - self._special
        if self._room < DOCUMENT_SHARE:
            raise InputError(
                f"max_length is {max_length} tokens, of which {self._special} are special; "
                f"expected at least {self._special + DOCUMENT_SHARE}, so that both texts have room"
            )
        self._encode_whole([PROBE])
        with _refusing("tokenizer.json cannot encode a pair"):
            self._template = self._read_template()
            self.vocabulary = 1 + max(self._largest_id(), *self._empty.ids, -1)
            """The largest token id that it can produce, plus one: the number of embeddings that a model must have."""
        if self._template.special.tolist() != [self._empty.ids, self._empty.type_ids]:
            raise ArtifactError("tokenizer.json joins empty texts differently from others; export the artifact again")
        if self.vocabulary > np.iinfo(np.int32).max:
            raise ArtifactError(f"tokenizer.json has the token id {self.vocabulary - 1}; expected ids below 2**31")
        self._prompt = prompt
        self._check_prompt(prompt, "the model's prompt")

    @cached_property
    def unknown(self) -> int | None:
        """The id of the token that stands for text outside the vocabulary, such as [UNK]; None if there is no such token."""
        model = json.loads(self._tokenizer.model.__getstate__())
        if "unk_id" in model:  # Unigram
            return cast("int | None", model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self._tokenizer.token_to_id(token)

    def template(self) -> list[str]:
        """The tokens around an empty query and an empty document, such as [CLS] [SEP] [SEP], each with its segment id."""
        return [f"{token}:{segment}" for token, segment in zip(self._empty.tokens, self._empty.type_ids, strict=True)]

    def encode(self, query: str, documents: Sequence[str]) -> Encodings:
        """Encodes the pairs of `query` with each of n `documents`. Raises ArtifactError if the tokenizer fails on a text."""
        parts = list(self.parts(query, documents))
        return Encodings.join(parts or [self._join(self._encode_query(query), [], self._room)])

    def overhead(self, query: str) -> int:
        """Tokens of the query and special tokens in a pair of `query` whose document was cut.

        With longest_first, the document is assumed to be the longer text: a longer query keeps one token more if the room is odd.
        """
        text = self._encode_query(query)
        longer = max(text.tokens, self._room)
        query_tokens = len(text.ids) if self._truncation == "only_second" else longest_first(text.tokens, longer, self._room)[0]
        return self._special + query_tokens

    def parts(
        self,
        query: str,
        documents: Sequence[str],
        *,
        prompt: str | None = None,
        document_tokens: int | None = None,
        windows: int = 1,
    ) -> Iterator[Encodings]:
        """`encode` in steps: yields the encodings of consecutive documents, a bounded amount of text at a time.

        `prompt`: put before the query in place of the tokenizer's own; None: that. `document_tokens`: maximum number of tokens to
        keep of a document; None: as many as the pair has room for. `windows`: maximum number of windows, a row each, in which a
        document too long for its pair is read; above 1 only with "only_second".

        A caller can stop between two parts; PART_CHARACTERS and PART_DOCUMENTS keep each below a second. Without documents there
        are no parts. Raises InputError if `prompt` leaves no room for two texts.
        """
        assert windows == 1 or self._truncation == "only_second", "Settings refuses it"
        if not documents:
            return
        start, characters, part_characters = 0, 0, PART_CHARACTERS * self._cores
        if prompt is not None:
            self._check_prompt(prompt, "the instruction")
        encoded_query = self._encode_query(query, prompt)
        extent = self._extent(encoded_query, document_tokens, windows)
        max_characters = extent.characters
        for end, document in enumerate(documents, 1):
            characters += min(len(document), max_characters)
            if characters >= part_characters or end - start == PART_DOCUMENTS or end == len(documents):
                yield self._encode_pairs(encoded_query, documents[start:end], extent)
                start, characters = end, 0

    def _check_prompt(self, prompt: str, name: str) -> None:
        if prompt and self._encode_query("", prompt).tokens_cut:
            raise InputError(
                f"max_length is {self._room + self._special} tokens, too few for {name} {prompt[:60]!r} and two texts; expected "
                "more tokens, or less text before the query"
            )

    def _encode_query(self, query: str, prompt: str | None = None) -> EncodedText:
        """The prompt (None: the tokenizer's own) and the query, cut to the number of tokens that they may have."""
        room = query_room(self._room, self._truncation)
        return self._encode_texts([(self._prompt if prompt is None else prompt) + query], Extent(room, room))[0]

    def _extent(self, query: EncodedText, document_tokens: int | None, windows: int) -> Extent:
        room = document_room(len(query.ids), self._room, self._truncation)
        tokens = reach(room, windows)
        if document_tokens is None:
            return Extent(room, tokens)
        return Extent(room, min(tokens, document_tokens), is_limited=True)

    def _encode_pairs(self, query: EncodedText, documents: Sequence[str], extent: Extent) -> Encodings:
        texts = self._encode_texts(documents, extent)
        if self._truncation == "only_second":
            return self._join(query, texts, extent.room)
        lengths = [longest_first(query.tokens, len(text.ids) if extent.is_limited else text.tokens, self._room) for text in texts]
        runs = groupby(zip(texts, lengths, strict=True), key=lambda item: item[1][0])
        return Encodings.join(
            [self._join(query.first(head), [text.first(tail) for text, (_, tail) in run], self._room) for head, run in runs]
        )

    def _join(self, query: EncodedText, texts: Sequence[EncodedText], room: int) -> Encodings:
        """The pairs of `query` with each text, which is read in windows of `room` tokens if it has more."""
        windows = [
            (text.ids, start, end)
            for text in texts
            for start, end in ([(0, len(text.ids))] if len(text.ids) <= room else spans(len(text.ids), room))
        ]
        ids, segment_ids = self._template.join(query.ids, [tokens[start:end] for tokens, start, end in windows])
        overhead = self._special + len(query.ids)
        return Encodings(
            ids=ids,
            segment_ids=segment_ids,
            lengths=np.array([overhead + end - start for _, start, end in windows], np.int32),
            window_starts=np.array([start for _, start, _ in windows], np.int32),
            query_tokens=np.full(len(windows), self._template.query_overhead + len(query.ids), np.int32),
            tokens_cut=np.array([text.tokens_cut for text in texts], np.int32),
            tokens_cut_at_least=np.array([text.at_least for text in texts], np.bool_),
            query_tokens_cut=query.tokens_cut,
        )

    def _encode_texts(self, texts: Sequence[str], extent: Extent) -> list[EncodedText]:
        """The first `extent.tokens` tokens of each text."""
        short = [index for index, text in enumerate(texts) if len(text) <= SHORT_TEXT_CHARACTERS]
        encodings = dict(zip(short, self._encode_whole([texts[index] for index in short]), strict=True))
        return [
            _cut(encodings[index], extent.tokens) if index in encodings else self._encode_long(text, extent)
            for index, text in enumerate(texts)
        ]

    def _encode_long(self, text: str, extent: Extent) -> EncodedText:
        for limit in extent.limits():
            seam = last_seam(text, limit, self._seam_spaces, self._normalize) if limit < len(text) else None
            if seam is None and limit == SHORT_TEXT_CHARACTERS:
                continue
            [encoding] = self._encode_whole([text[: seam or limit]])
            if len(encoding) >= extent.tokens or limit >= len(text):
                break
        return _cut(encoding, extent.tokens, at_least=limit < len(text))

    def _encode_whole(self, texts: Sequence[str]) -> list[Encoding]:
        readable = [encodable(text) for text in texts]
        with _refusing("tokenizer.json cannot encode a text"):
            if process.is_forked:  # the child lacks the library's thread pool, for which a batch would wait forever
                return [self._tokenizer.encode(text, add_special_tokens=False) for text in readable]
            return self._tokenizer.encode_batch_fast(readable, add_special_tokens=False)

    def _normalize(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(encodable(text))

    def _find_seam_spaces(self) -> str:
        normalizer, pre_tokenizer = (
            None if component is None else json.loads(component.__getstate__())
            for component in (self._tokenizer.normalizer, self._tokenizer.pre_tokenizer)
        )
        added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        return seam_spaces(normalizer, pre_tokenizer, [*added, *map(self._normalize, added)])

    def _largest_id(self) -> int:
        count = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if None not in map(self._tokenizer.id_to_token, range(count)):
            return count - 1  # as many ids as tokens: no token has a larger one
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def _read_template(self) -> PairTemplate:
        """The template, from the pair of a text with itself; any text that has tokens will do."""
        added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        for text in ("a", *added):
            if self._encode_whole([text])[0].ids:
                pair = self._tokenizer.encode(text, text)
                return PairTemplate.read(pair.ids, pair.type_ids, pair.sequence_ids)
        raise ArtifactError("tokenizer.json has no token for 'a' and no added tokens; export the artifact again")


def _cut(encoding: Encoding, tokens: int, *, at_least: bool = False) -> EncodedText:
    """The first `tokens` of an encoding."""
    return EncodedText(encoding.ids[:tokens], max(0, len(encoding) - tokens), at_least)


@contextmanager
def _refusing(failure: str) -> Iterator[None]:
    """Turns errors of the tokenizers library into ArtifactError, or InferenceError if threads or memory are short.

    They are plain Exceptions; a panic is a BaseException of a class that cannot be imported, so it is recognized by its name.
    """
    try:
        yield
    except (ResiftError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if short := shortage(error):
            raise InferenceError(f"the tokenizer cannot run: {short} (RAYON_NUM_THREADS=1)") from error
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{failure}: {reason}; export the artifact again") from error
