"""freeze: graphs whose last layers no longer update the document, and whether they may take the place of the full ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.signature import Frozen
from resift.errors import ExportError
from resift_export.build.graph_files import FrozenModels, frozen_file
from resift_export.graph.fit import CalibrationRow, fit
from resift_export.graph.freeze import Attentions, freeze
from resift_export.int8.calibration import operations_of
from resift_export.int8.finer import smoothing_of
from resift_export.int8.levels import WEIGHT_LEVELS, quantize_weights
from resift_export.progress import no_report
from resift_export.recipe import FEWEST_FROZEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift.artifact.certificate import Certificate
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.graph.freeze import Quantize
    from resift_export.progress import Report
    from resift_export.recipe import CalibrationPair, Recipe

WHOLE_UP_TO = 32
"""Tokens of the longest pair of which all layers update all tokens: a frozen one would take about as long."""
MULTIPLE = 16
"""What the number of updated tokens is rounded up to, so that pairs of queries of other lengths share batches.

With eight callers of 50 pairs of DL 2019 each, a batch has 1.74 rows, as many as where the length alone counts; with 8, it has
1.58, and with the query's own number 1.39. Of all tokens, 17 % are then updated, 13 % with 8, and 9 % without rounding.
"""
MOST_LOSS = 0.01
"""How much lower the mean Kendall tau may be in any length class, for a frozen graph to take the place of the full one."""

log = logging.getLogger(__name__)


class Freezer:
    """Freezes the graphs of one checkpoint."""

    def __init__(
        self, exact: ir.Model, checkpoint: Checkpoint, recipe: Recipe, pairs: Sequence[CalibrationPair], scratch: Path
    ) -> None:
        """`exact`: the float32 graph. `pairs`: the calibration set. `scratch`: folder for sessions.

        Raises ExportError if the recipe's layers cannot be frozen, or if all tokens of every pair would be updated.
        """
        self._requested, self._layers = recipe.freeze, checkpoint.layers
        self._exact, self._name, self._scratch = exact, f"{checkpoint.architecture} of {checkpoint.id}", scratch
        self._rows = _calibration_rows(checkpoint, pairs, _how(FEWEST_FROZEN))
        Attentions(exact, self._name).projection(next(iter(self.numbers), FEWEST_FROZEN))
        if not self._rows:
            raise ExportError(
                f"no calibration pair is longer than {WHOLE_UP_TO} tokens, and frozen documents are fitted to such pairs; expected "
                "some with --calibration, or leave --freeze out"
            )

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of layers to try, in this order."""
        return range(FEWEST_FROZEN, self._layers) if self._requested == "auto" else [self._requested or FEWEST_FROZEN]

    def freeze(
        self, models: Mapping[str, ir.Model], levels: Mapping[str, int], layers: int, report: Report = no_report
    ) -> FrozenModels:
        """The `models`, by file, with their last `layers` frozen. `levels`: the largest magnitude of a weight in each int8 file.

        Raises ExportError if the layers cannot be frozen.
        """
        maps = fit(self._exact, layers, self._rows, self._name, scratch=self._scratch, report=report)
        frozen = {
            file: freeze(model, maps, self._name, _quantizer(levels.get(file, WEIGHT_LEVELS))) for file, model in models.items()
        }
        return FrozenModels(frozen, _how(layers), operations_of(freeze(self._exact, maps, self._name), self._scratch))


def may_replace(before: Certificate, after: Certificate, layers: int) -> bool:
    """Whether frozen graphs, measured `after`, rank so nearly like the full ones, measured `before`, that they take their place."""
    losses = tau_losses(before, after)
    worst = max(losses, key=losses.__getitem__)
    log.info("freeze    %d layers: tau falls by at most %.4f, %s", layers, losses[worst], worst)
    return losses[worst] <= MOST_LOSS


def tau_losses(before: Certificate, after: Certificate) -> dict[str, float]:
    """By what is measured, how much lower the mean tau is in frozen graphs: overall, and in each length class that is covered."""
    losses = {}
    for file, agreement in before.agreement.items():
        frozen = frozen_file(file)
        losses[f"{frozen} on the gate"] = agreement.tau - after.agreement[frozen].tau
        for one, other in zip(before.classes[file], after.classes[frozen], strict=True):
            if one.tau is not None and other.tau is not None:
                losses[f"{frozen} up to {one.up_to} tokens"] = one.tau - other.tau
    return losses


def _how(layers: int) -> Frozen:
    return Frozen(layers=layers, whole_up_to=WHOLE_UP_TO, multiple=MULTIPLE)


def _calibration_rows(checkpoint: Checkpoint, pairs: Sequence[CalibrationPair], how: Frozen) -> list[CalibrationRow]:
    """The pairs that a frozen graph would not update whole."""
    tokenizer, rows = checkpoint.pair_tokenizer(), []
    for pair in pairs:
        encodings = tokenizer.encode(pair.query, [pair.document])
        [updated] = how.updated_tokens(encodings.query_tokens, encodings.lengths).tolist()
        if updated < encodings.lengths[0]:
            ids, segment_ids = (column[None].astype(np.int64) for column in encodings.row(0))
            feed = checkpoint.signature.feed({"input_ids": ids, "token_type_ids": segment_ids})
            rows.append(CalibrationRow(feed, updated))
    return rows


def _quantizer(levels: int) -> Quantize:
    def quantize(product: ir.Node, weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        smoothing = smoothing_of(product)
        return quantize_weights(weights if smoothing is None else weights / smoothing[:, None], levels)

    return quantize
