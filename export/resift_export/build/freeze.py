"""freeze: graphs whose last layers no longer update the document, and whether they may take the place of the others."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.signature import Frozen
from resift.errors import ExportError
from resift.metrics import kendall_tau
from resift_export.build.graph_files import FrozenModels, frozen_file
from resift_export.graph.fit import fit
from resift_export.graph.freeze import Attentions, freeze
from resift_export.int8.calibration import operations_of
from resift_export.int8.levels import quantize_weights
from resift_export.recipe import FEWEST_FROZEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    import onnx_ir as ir

    from resift.artifact.certificate import Certificate
    from resift.errors import ParityError
    from resift_export.graph.fit import CalibrationRow
    from resift_export.progress import Report

    Measure = Callable[[FrozenModels], Certificate]
    Faults = Callable[[Certificate], Sequence[ParityError]]

WHOLE_UP_TO = 32
"""The fewest tokens of the longest pair of which all layers update all tokens: a frozen one would take about as long."""
LONGEST_WHOLE = 128
"""The most: with longer ones updated whole, too few were frozen."""
MULTIPLE = 16
"""What the number of updated tokens is rounded up to, so that pairs of queries of other lengths share batches.

With eight callers of 50 pairs of DL 2019 each, a batch has 1.74 rows, as many as where the length alone counts; with 8, it has
1.58, and with the query's own number 1.39. Of all tokens, 17 % are then updated, 13 % with 8, and 9 % without rounding.
"""
MOST_LOSS = 0.01
"""How much lower the mean Kendall tau may be in any length class, for a frozen graph to take the place of the full one; and the
mean recall and tau of a first look, for a frozen one to take its place."""

log = logging.getLogger(__name__)


def frozen_layers(last: int, *, whole_up_to: int = WHOLE_UP_TO) -> Frozen:
    """How graphs read of which the `last` layers are frozen."""
    return Frozen(layers=last, whole_up_to=whole_up_to, multiple=MULTIPLE)


def check_freezable(model: ir.Model, requested: int | Literal["auto"], what: str) -> None:
    """Raises ExportError if that many last layers of the graph cannot be frozen; auto: the fewest. `what` names the model."""
    Attentions(model, what).projection(FEWEST_FROZEN if requested == "auto" else requested)


class Freezer:
    """Freezes the graphs of one model."""

    def __init__(  # noqa: PLR0913 - graphs, what they are fitted by, and how progress is reported
        self,
        models: Mapping[str, ir.Model],
        levels: Mapping[str, int],
        rows: Sequence[CalibrationRow],
        what: str,
        scratch: Path,
        report: Report,
    ) -> None:
        """`models`: by file. `levels`: the largest magnitude of a weight in each int8 file. `scratch`: folder for sessions."""
        self._models, self._levels, self._rows = models, levels, rows
        self.what, self._scratch, self._report = what, scratch, report
        self._last: FrozenModels | None = None

    def numbers(self, limit: int | None = None) -> range:
        """The numbers of last layers that can be frozen, at most `limit`. Raises ExportError if these layers cannot be frozen."""
        attentions = Attentions(next(iter(self._models.values())), self.what)
        attentions.projection(FEWEST_FROZEN)
        end = len(attentions.nodes)
        return range(FEWEST_FROZEN, end if limit is None else min(end, limit + 1))

    def freeze(self, layers: int) -> FrozenModels:
        """The models with their last `layers` frozen. Raises ExportError if these cannot be frozen."""
        if self._last is not None and self._last.how.layers == layers:
            return self._last
        frozen = {}
        for file, model in self._models.items():
            maps = fit(model, layers, self._rows, self.what, scratch=self._scratch, report=self._report)
            quantize = partial(quantize_weights, levels=self._levels[file]) if file in self._levels else None
            frozen[file] = freeze(model, maps, self.what, quantize)
        operations = operations_of(next(iter(frozen.values())), self._scratch)
        self._last = FrozenModels(frozen, frozen_layers(layers), operations)
        return self._last


def choose_full(  # noqa: PLR0913 - what is tried, and how it is judged
    freezer: Freezer,
    requested: int | Literal["auto"],
    before: Certificate,
    operations: int,
    measure: Measure,
    faults: Faults,
) -> FrozenModels | None:
    """The frozen graphs that take the place of the full ones, or those that plans may name; None if there are none.

    `before`: what is measured of the full graphs; `operations`: theirs, per token. `requested`: layers, or auto, which has none for
    plans. `measure`: what is measured of frozen graphs. `faults`: the bounds that do not hold.
    """

    def accepts(after: Certificate, how: Frozen) -> bool:
        return may_replace(before, after, how) and not (faults(after) and not faults(before))

    numbers = freezer.numbers() if requested == "auto" else [requested]
    chosen = _choose(freezer, numbers, bounds_of(before), measure, accepts, _cost_on(before, operations))
    if chosen is None and requested != "auto":
        return freezer.freeze(requested)._replace(is_full=False)
    return chosen


def choose_look(  # noqa: PLR0913 - what is tried, and how it is judged
    freezer: Freezer,
    requested: int | Literal["auto"],
    before: Certificate,
    operations: int,
    measure: Measure,
    faults: Faults,
) -> FrozenModels | None:
    """The frozen first look that takes the place of the first look, as its recall allows, with at most the `requested` layers."""

    def accepts(after: Certificate, how: Frozen) -> bool:
        return may_replace_look(before, after, how) and not (faults(after) and not faults(before))

    try:
        numbers = freezer.numbers(None if requested == "auto" else requested)
    except ExportError as error:
        log.info("freeze    %s stays as it is: %s", freezer.what, error)
        return None
    return _choose(freezer, numbers, [WHOLE_UP_TO], measure, accepts, _cost_on(before, operations))


def _choose(  # noqa: PLR0913 - what is tried, and how it is judged
    freezer: Freezer,
    numbers: Sequence[int],
    bounds: Sequence[int],
    measure: Measure,
    accepts: Callable[[Certificate, Frozen], bool],
    cost: Callable[[FrozenModels], int],
) -> FrozenModels | None:
    """The frozen models of the least `cost` among those that are accepted by what is measured of them; None if none is.

    `numbers`: of layers, tried until one is not accepted. `bounds`: tokens of the longest pair that is updated whole, shortest
    first. For each number, the shortest bound is taken that is accepted, and is not shorter than that of the number before.
    """
    chosen, shortest = None, bounds[0]
    for layers in numbers:
        models = freezer.freeze(layers)
        for whole_up_to in (bound for bound in bounds if bound >= shortest):
            candidate = models._replace(how=frozen_layers(layers, whole_up_to=whole_up_to))
            if accepts(measure(candidate), candidate.how):
                break
        else:
            break
        shortest = whole_up_to
        if chosen is None or cost(candidate) < cost(chosen):
            chosen = candidate
    return chosen


def bounds_of(before: Certificate) -> list[int]:
    """The bounds for `_choose`, shortest first: WHOLE_UP_TO, and longer length classes that are covered, up to LONGEST_WHOLE.

    The last one that is covered is none of them: pairs that are frozen have to be judged.
    """
    covered = {each.up_to for classes in before.classes.values() for each in classes if each.tau is not None}
    return [WHOLE_UP_TO, *(end for end in sorted(covered)[:-1] if WHOLE_UP_TO < end <= LONGEST_WHOLE)]


def _cost_on(before: Certificate, operations: int) -> Callable[[FrozenModels], int]:
    """What frozen models cost on the gate's pairs, whose tokens `before` has. `operations`: per token, where none is frozen."""
    tokens = [each for pool in before.pools for each in pool.tokens or []]

    def cost(models: FrozenModels) -> int:
        return sum(each * (operations if each <= models.how.whole_up_to else models.operations) for each in tokens)

    return cost


def may_replace(before: Certificate, after: Certificate, how: Frozen) -> bool:
    """Whether frozen graphs, measured `after`, rank so nearly like the full ones, measured `before`, that they take their place."""
    losses = tau_losses(before, after)
    worst = max(losses, key=losses.__getitem__)
    log.info(
        "freeze    %d layers of pairs of more than %d tokens: tau falls by at most %.4f, %s",
        how.layers,
        how.whole_up_to,
        losses[worst],
        worst,
    )
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


def may_replace_look(before: Certificate, after: Certificate, how: Frozen) -> bool:
    """Whether a frozen first look, measured `after`, keeps and ranks nearly what the one measured `before` does."""
    losses = look_losses(before, after)
    worst = max(losses, key=losses.__getitem__)
    log.info("freeze    %d layers of the first look: at most %.4f is lost, %s", how.layers, losses[worst], worst)
    return losses[worst] <= MOST_LOSS


def look_losses(before: Certificate, after: Certificate) -> dict[str, float]:
    """How much a frozen first look loses, by what is measured: its recall, on average over its shares, and its mean tau.

    The recall of ten documents is that of two: of the built-in gate, tau tells smaller losses.
    """
    losses = {}
    for file, recalls in before.first_looks.items():
        kept = [one.kept - other.kept for one, other in zip(recalls, after.first_looks[file], strict=True)]
        losses[f"recall of {file}"] = float(np.mean(kept))
        losses[f"tau of {file}"] = _tau(before, file) - _tau(after, file)
    return losses


def _tau(certificate: Certificate, file: str) -> float:
    """The mean tau of a first look with the checkpoint, on the gate."""
    return float(np.mean([kendall_tau(np.array(pool.checkpoint), np.array(pool.variants[file])) for pool in certificate.pools]))
