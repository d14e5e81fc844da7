"""The outcome of a call that has ended: columns in the caller's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.encoding.windows import best_rows
from resift.ranking import Scored
from resift.scoring import activate, relevance

if TYPE_CHECKING:
    from resift.artifact.manifest import Activation
    from resift.scheduling.call import Call


def scored_of(call: Call, *, full: str = "full", activation: Activation = "identity", windowed: bool = False) -> Scored:
    """The columns of a call that has ended.

    A document has the logit of its best window, by the last graph that read all its windows. Where time ran out before the first
    graph had read them all, it is the best of those that it did read, and `Scored.read` is 0. `full`: name of the graph whose
    logits are scores, by `activation`. `windowed`: whether documents may have several windows, which fills in the columns of
    windows. Raises LogitsError that names the document.
    """
    encodings, documents, read, order = call.encodings, call.encodings.documents, call.documents_read, call.order
    stage = np.maximum(read, 1)[documents]
    values = np.full(len(documents), np.nan, np.float32)
    asked = np.empty(len(read), np.int64)
    asked[order[::-1]] = np.arange(len(order))[::-1]
    for number, step in enumerate(call.steps, 1):
        rows = np.flatnonzero((stage == number) & (call.read >= number))
        if len(rows):
            values[rows] = relevance(call.logits[step.graph][rows], step.rule, positions=asked[documents[rows]])
    known = ~np.isnan(values)
    best = best_rows(values, documents)[order]  # NaN sorts last
    last = call.steps[-1].graph
    outputs = call.logits.get(last)
    by_last = read[order] == len(call.steps)
    logits = values[best]
    return Scored(
        logits=logits,
        scores=activate(np.where(by_last & (last == full), logits, np.float32(np.nan)), activation),
        tokens_cut=encodings.tokens_cut[order],
        tokens_cut_at_least=encodings.at_least[order],
        query_tokens_cut=encodings.query_tokens_cut,
        lengths=call.lengths,
        waited=0.0 if call.began is None else call.began - call.added,
        graphs=tuple(step.graph for step in call.steps),
        read=None if by_last.all() else read[order],
        outputs=None if outputs is None else np.where(by_last[:, None], outputs[best], np.float32(np.nan)),
        windows=np.bincount(documents[known], minlength=len(read)).astype(np.int32)[order] if windowed else None,
        window=(best - encodings.firsts[order]).astype(np.int32) if windowed else None,
    )
