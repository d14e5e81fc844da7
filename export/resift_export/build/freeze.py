"""freeze: graphs whose last layers no longer update the document, and whether they may take the place of the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from resift.artifact.signature import Frozen
from resift.errors import ExportError
from resift_export.build.graph_files import FrozenModels
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
    from resift_export.build.losses import Loss
    from resift_export.graph.fit import CalibrationRow
    from resift_export.progress import Report

    Requested = int | Literal["auto"]
    Measure = Callable[[FrozenModels], Certificate]
    Losses = Callable[[Certificate, Certificate, Frozen], Sequence[Loss]]
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
"""How much lower Kendall's tau may be on average, on the gate and in any length class, for a frozen graph to take the place of the
full one; and the recall and the tau of a first look, for a frozen one to take its place. With auto, the whole 95 % interval of the
mean has to be within it."""

log = logging.getLogger(__name__)


def frozen_layers(last: int, *, whole_up_to: int = WHOLE_UP_TO) -> Frozen:
    """How graphs read of which the `last` layers are frozen."""
    return Frozen(layers=last, whole_up_to=whole_up_to, multiple=MULTIPLE)


def check_freezable(model: ir.Model, requested: Requested, what: str) -> None:
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


@dataclass(frozen=True)
class FrozenJudge:
    """Judges frozen graphs by how much they lose, and keeps what it found in words."""

    what: str
    """what is frozen"""
    before: Certificate
    """what is measured where nothing is frozen"""
    measure: Measure
    """the same of frozen models, on the same pools"""
    losses: Losses
    """between the two"""
    faults: Faults
    """the bounds that do not hold"""
    surely: bool
    """whether the losses' intervals have to be within MOST_LOSS, not only their means"""
    verdicts: list[str]
    """a line for each judgement"""

    def whole_up_to(self, models: FrozenModels) -> int:
        """Up to how many tokens pairs have to be updated whole, at least; as many as are now: the frozen models are accepted.

        Where a length class loses too much, its pairs have to be; with a longer bound, it would lose the same until then.
        """
        how, after = models.how, self.measure(models)
        losses = self.losses(self.before, after, how)
        refused = [loss for loss in losses if not loss.is_within(MOST_LOSS, surely=self.surely)]
        reasons = [loss.summary() for loss in refused]
        if self.faults(after) and not self.faults(self.before):
            reasons.append("a bound of the gate does not hold")
        worst = max(losses, key=lambda loss: loss.high if self.surely else loss.mean)
        found = f"refused: {'; '.join(reasons)}" if reasons else f"accepted: {worst.summary()}"
        self.verdicts.append(f"{how.layers} layers of {self.what}, in pairs of more than {how.whole_up_to} tokens, {found}")
        log.info("freeze    %s", self.verdicts[-1])
        for loss in losses:
            log.info("            %s", loss.summary())
        return max([loss.up_to for loss in refused] + [how.whole_up_to + 1]) if reasons else how.whole_up_to


def choose_full(freezer: Freezer, requested: Requested, judge: FrozenJudge, operations: int) -> FrozenModels | None:
    """The frozen graphs that take the place of the full ones, or those that plans may name; None if there are none.

    `operations`: those of the full ones, per token. `requested`: layers, or auto, which has none for plans.
    """
    numbers = freezer.numbers() if requested == "auto" else [requested]
    chosen = _choose(freezer, numbers, bounds_of(judge.before), judge.whole_up_to, _cost_on(judge.before, operations))
    if chosen is None and requested != "auto":
        return freezer.freeze(requested)._replace(is_full=False)
    return chosen


def choose_look(freezer: Freezer, requested: Requested, judge: FrozenJudge, operations: int) -> FrozenModels | None:
    """The frozen first look that takes the place of the first look, as its recall allows, with at most the `requested` layers."""
    try:
        numbers = freezer.numbers(None if requested == "auto" else requested)
    except ExportError as error:
        log.info("freeze    %s stays as it is: %s", freezer.what, error)
        return None
    return _choose(freezer, numbers, [WHOLE_UP_TO], judge.whole_up_to, _cost_on(judge.before, operations))


def _choose(
    freezer: Freezer,
    numbers: Sequence[int],
    bounds: Sequence[int],
    needed: Callable[[FrozenModels], int],
    cost: Callable[[FrozenModels], int],
) -> FrozenModels | None:
    """The frozen models of the least `cost` among those that are accepted; None if none is.

    `numbers`: of layers, tried until one is not accepted. `bounds`: tokens of the longest pair that is updated whole, shortest
    first. For each number, the shortest bound is taken that is accepted, and is not shorter than that of the number before.
    `needed`: up to how many tokens pairs have to be updated whole, at least; models that need no more than they do are accepted.
    """
    chosen, shortest = None, bounds[0]
    for layers in numbers:
        models = freezer.freeze(layers)
        for whole_up_to in bounds:
            if whole_up_to < shortest:
                continue
            candidate = models._replace(how=frozen_layers(layers, whole_up_to=whole_up_to))
            shortest = needed(candidate)
            if shortest <= whole_up_to:
                break
        else:
            break
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
