"""Scored: from a call that has ended to columns in the caller's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.encoding.windows import best_rows
from resift.ranking import Scored
from resift.scoring import relevance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.scheduling.call import Call


def scored_of(places: NDArray[np.int64], call: Call, *, windowed: bool = False) -> Scored:
    """The columns of n pairs, of which pair i is the call's distinct pair `places[i]`.

    A document has the logit of its best window, by the last graph that read all its windows. Where time ran out before the first
    graph had read them all, it is the best of those that it did read, and `Scored.read` is 0. `windowed`: whether documents may
    have several windows, which fills in the columns of windows. Raises LogitsError that names the document.
    """
    encodings, documents, read = call.encodings, call.encodings.documents, call.documents_read
    stage = np.maximum(read, 1)[documents]
    values = np.full(len(documents), np.nan, np.float32)
    asked = np.empty(len(read), np.int64)
    asked[places[::-1]] = np.arange(len(places))[::-1]
    for number, step in enumerate(call.steps, 1):
        rows = np.flatnonzero((stage == number) & (call.read >= number))
        if len(rows):
            values[rows] = relevance(call.logits[step.graph][rows], step.rule, positions=asked[documents[rows]])
    known = ~np.isnan(values)
    best = best_rows(values, documents)[places]  # NaN sorts last
    outputs = call.logits.get(call.steps[-1].graph)
    in_all = read[places] == len(call.steps)
    return Scored(
        values[best],
        encodings.tokens_cut[places],
        encodings.at_least[places],
        encodings.query_tokens_cut,
        lengths=encodings.pair_lengths[places],
        waited=0.0 if call.began is None else call.began - call.added,
        graphs=tuple(step.graph for step in call.steps),
        read=None if in_all.all() else read[places],
        outputs=None if outputs is None else np.where(in_all[:, None], outputs[best], np.float32(np.nan)),
        windows=np.bincount(documents[known], minlength=len(read)).astype(np.int32)[places] if windowed else None,
        window=(best - encodings.firsts[places]).astype(np.int32) if windowed else None,
    )
