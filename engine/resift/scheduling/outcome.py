"""The outcome of a call that has ended: columns in the caller's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.encoding.windows import best_rows
from resift.ranking import Scored
from resift.scoring import ACTIVATION, activate, relevance

if TYPE_CHECKING:
    from resift.calibration import ScoreCalibration
    from resift.scheduling.call import Call
    from resift.settings import Scale


def scored_of(
    call: Call,
    *,
    full: str = "full",
    scale: Scale = "logit",
    windowed: bool = False,
    calibration: ScoreCalibration | None = None,
) -> Scored:
    """The columns of a call that has ended.

    A document has the logit of its best window, by the last graph that scored all its windows. If time ran out before even the
    first graph had scored all of them, it has the best logit among the windows that were scored, and its `Scored.stages_done` is 0.
    `full`: name of the graph whose logits become scores, on `scale`. `windowed`: whether documents may have several windows, which
    fills in the columns of windows. `calibration`: what makes the column of probabilities. Raises LogitsError that names the
    document.
    """
    encodings, documents, done, order = call.encodings, call.encodings.documents, call.document_steps, call.order
    stage = np.maximum(done, 1)[documents]
    values = np.full(len(documents), np.nan, np.float32)
    positions = np.empty(len(done), np.int64)  # in the caller's list; of equal documents, the first
    positions[order[::-1]] = np.arange(len(order))[::-1]
    for number, step in enumerate(call.steps, 1):
        rows = np.flatnonzero((stage == number) & (call.steps_done >= number))
        if len(rows):
            values[rows] = relevance(call.logits[step.graph][rows], step.rule, positions=positions[documents[rows]])
    scored = ~np.isnan(values)
    best = best_rows(values, documents)[order]  # NaN sorts last
    last = call.steps[-1].graph
    outputs = call.logits.get(last)
    by_last = done[order] == len(call.steps)
    logits = values[best]
    full_logits = np.where(by_last & (last == full), logits, np.float32(np.nan))
    return Scored(
        logits=logits,
        scores=activate(full_logits, ACTIVATION[scale]),
        probabilities=None if calibration is None else calibration.apply(full_logits),
        tokens_cut=encodings.tokens_cut[order],
        tokens_cut_at_least=encodings.tokens_cut_at_least[order],
        query_tokens_cut=encodings.query_tokens_cut,
        lengths=encodings.pair_lengths[order],
        waited=0.0 if call.started_at is None else call.started_at - call.queued_at,
        graphs=tuple(step.graph for step in call.steps),
        stages_done=None if by_last.all() else done[order],
        outputs=None if outputs is None else np.where(by_last[:, None], outputs[best], np.float32(np.nan)),
        windows=np.bincount(documents[scored], minlength=len(done)).astype(np.int32)[order] if windowed else None,
        window=(best - encodings.row_offsets[order]).astype(np.int32) if windowed else None,
        states=call.states_counts,
    )
