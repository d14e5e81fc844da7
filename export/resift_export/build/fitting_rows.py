"""fitting_rows: the pairs by which frozen documents are fitted, of all lengths, made from the calibration set."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ExportError
from resift_export.graph.fit import CalibrationRow
from resift_export.recipe import CalibrationPair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.artifact.signature import Frozen
    from resift_export.checkpoint.load import Checkpoint

TOKENS = 1 << 14
"""Pairs are made until they have so many tokens, which bounds the time. With twice as many, MiniLM ranked no nearer to itself."""
JOINED = (1, 1, 2, 4)
"""How many documents make one, in turn, so that there are long ones, too."""
HELD_OUT = 5
"""The rows of one document in so many are held out."""


def fitting_rows(checkpoint: Checkpoint, pairs: Sequence[CalibrationPair], how: Frozen) -> list[CalibrationRow]:
    """The `pairs`, and their documents with other queries, as far as `how` does not update them whole.

    Raises ExportError if there is no such pair.
    """
    tokenizer, rows, tokens, groups = checkpoint.pair_tokenizer(), [], 0, dict[int, int]()
    for number, pair in _combined(pairs):
        encodings = tokenizer.encode(pair.query, [pair.document])
        [updated] = how.updated_tokens(encodings.query_tokens, encodings.lengths).tolist()
        if updated < encodings.lengths[0]:
            ids, segment_ids = (column[None].astype(np.int64) for column in encodings.row(0))
            feed = checkpoint.signature.feed({"input_ids": ids, "token_type_ids": segment_ids})
            group = groups.setdefault(number, len(groups))
            rows.append(CalibrationRow(feed, updated, is_held_out=group % HELD_OUT == HELD_OUT - 1))
        tokens += int(encodings.lengths[0])
        if tokens >= TOKENS:
            break
    if not rows:
        raise ExportError(
            f"no calibration pair is longer than {how.whole_up_to} tokens, and frozen documents are fitted to such pairs; expected "
            "some with --calibration, or leave --freeze out"
        )
    return rows


def _combined(pairs: Sequence[CalibrationPair]) -> Iterator[tuple[int, CalibrationPair]]:
    """The pairs, then their documents with the queries of others, each with the number of its first document."""
    yield from enumerate(pairs)
    for shift in range(1, len(pairs)):
        for number in range(len(pairs)):
            documents = islice(cycle(pairs), number, number + JOINED[(number + shift) % len(JOINED)])
            text = " ".join(pair.document for pair in documents)
            yield number, CalibrationPair(query=pairs[(number + shift) % len(pairs)].query, document=text)
