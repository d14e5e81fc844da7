"""search: which products of an int8 graph to leave in float32, where the gate refuses it with all of them in int8.

Products are chosen by ranking drift: how far a graph with some products in int8 ranks the calibration pairs differently from the
float32 graph, by the gate's own measures. The gate's pools are not used to choose: a graph chosen on them would agree with its
checkpoint there, and no pools would be left to tell whether it does elsewhere. The gate says only by what factor the drift must
shrink, and judges the graph chosen; the certificate records how often it was asked.

Products are left in float32 in the order of their own noise (`quantize.noise`), which takes no evaluation to know: 1, 2, 4, ... of
them until the drift is small enough, then the fewest for which it is, by bisection. A noisy product need not matter, so each is
then put back into int8 unless the drift says otherwise. If even the largest share allowed is not enough, the order itself is
measured: by the drift with the products of a single activation in int8.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from resift.artifact.agreement import MEASURES, Pool, measure
from resift.artifact.certificate import SearchRecord
from resift.errors import ParityError
from resift.scoring import relevance
from resift_export.graph.edit import lower_opset
from resift_export.graph.weights import open_session
from resift_export.int8.calibration import operations_by_product
from resift_export.int8.levels import TINY
from resift_export.int8.products import products
from resift_export.int8.quantize import quantize
from resift_export.int8.ranges import noise
from resift_export.progress import reported, unreported

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift.artifact.agreement import Agreement, Bounds
    from resift.artifact.certificate import Certificate
    from resift.artifact.manifest import Relevance
    from resift_export.int8.ranges import Range
    from resift_export.progress import Report

MOST_SHARE = 0.25
"""Largest share of the operations per token that may stay in float32: beyond it, little is left of what int8 saves."""
PAIRS = 256
"""Most pairs ranked in an evaluation, drawn evenly from the calibration set."""
PARTS = (0.6, 0.9)
"""Parts of the drift allowed that a choice may use: as much as the embedded model uses of the gate's allowance, as other processors
round otherwise, or, where no graph is that close, only as much less as the gate's other texts ask for."""
RANKED_BY = ("tau", "error")
"""The measures of drift on the calibration pairs, which are one ranking: the gate's others are of many pools, or need labels."""

log = logging.getLogger(__name__)


class Sensitivity:
    """Ranking drift of one float32 graph when all its products but some are quantized. Counts its evaluations."""

    def __init__(  # noqa: PLR0913 - a graph, how it is quantized, what it ranks, and what that may cost
        self,
        model: ir.Model,
        samples: Mapping[str, NDArray[np.float32]],
        ranges: Mapping[str, Range],
        *,
        levels: int,
        feeds: Iterable[Mapping[str, NDArray[np.int64]]],
        rule: Relevance,
        bounds: Bounds,
        budget: int,
        scratch: Path,
        report: Report = unreported,
    ) -> None:
        """`samples`, float32[rows, inputs], and `ranges` are by the products' sources; `feeds` are the inputs of the pairs.

        Sessions are written to the folder `scratch`.
        """
        self._model, self._samples, self._ranges, self._levels = model, samples, ranges, levels
        rows = list(feeds)
        self._feeds = rows if len(rows) <= PAIRS else [rows[at] for at in np.linspace(0, len(rows) - 1, PAIRS).astype(int)]
        self._rule, self._bounds, self._budget = rule, bounds, budget
        self._scratch, self._report = scratch, report
        self._products = products(model)
        self._operations = operations_by_product(model, scratch)
        self._drifts: dict[frozenset[str], float] = {}
        self._evaluations = 0
        self._target = 1.0

    def graph(self, left: Collection[str]) -> ir.Model:
        """The int8 graph with the products named in `left` in float32."""
        return lower_opset(quantize(self._model.clone(), self._ranges, levels=self._levels, left=frozenset(left)))

    def share(self, left: Collection[str]) -> float:
        """The share of the operations per token in the products named in `left`."""
        return sum(self._operations[name] for name in left) / sum(self._operations.values())

    def drift(self, left: Collection[str]) -> float:
        """The share of the bounds' allowance that `graph(left)` uses on the calibration pairs; 0 if it ranks as in float32.

        Raises ParityError if this takes an evaluation and no more are allowed.
        """
        key = frozenset(left)
        if key not in self._drifts:
            exact = self._exact
            found = measure([Pool(qid="", query="", documents=[])], [exact], [self._rank(self.graph(key))])
            self._drifts[key] = strain(found, self._bounds, RANKED_BY)
            count, drift = self._count(key), self._drifts[key]
            log.info("search    %d of %d: drift %.2f with %s in float32", self._evaluations, self._budget, drift, count)
        return self._drifts[key]

    def choose(self, target: float) -> frozenset[str]:
        """Few products which, left in float32, bring the drift below `target`, by a margin.

        Raises ParityError if there are none within the share of operations, or they are not found within the evaluations allowed.
        """
        self._target = target
        for order_products in (self._by_noise, self._by_drift):
            order = self._within_share(order_products())
            for part in PARTS:
                if found := self._fewest(order, part * target):
                    return found
        raise ParityError(
            f"--search found no graph that ranks like its checkpoint with at most {MOST_SHARE:.0%} of the operations in float32: "
            f"{self._progress()}; export with --precision float32"
        )

    def _fewest(self, order: Sequence[str], aim: float) -> frozenset[str]:
        """Few products of `order` that bring the drift down to `aim`; empty if all of them do not."""
        found = shortest(order, lambda left: self.drift(left) <= aim)
        return pruned(found, lambda left: self._evaluations < self._budget and self.drift(left) <= aim)

    def record(self, left: Collection[str], before: Agreement, gates: int, names: Mapping[str, str]) -> SearchRecord:
        """What the certificate says of this search; `names` are those of the products' weights."""
        return SearchRecord(
            float32=[names[product.name] for product in self._products if product.name in left],
            share=self.share(left),
            most_share=MOST_SHARE,
            evaluations=self._evaluations,
            most_evaluations=self._budget,
            gates=gates,
            before=before,
        )

    @cached_property
    def _exact(self) -> NDArray[np.float32]:
        return self._rank(self._model)

    def _rank(self, model: ir.Model) -> NDArray[np.float32]:
        """Relevance float32[pairs] by `model`: one evaluation."""
        if self._evaluations == self._budget:
            raise ParityError(
                f"--search used up its {self._budget} evaluations: {self._progress()}; allow more with --search N, "
                "or export with --precision float32"
            )
        self._evaluations += 1
        session = open_session(model, self._scratch)
        feeds = reported(f"search {self._evaluations} of {self._budget}", self._feeds, self._report)
        return relevance(np.concatenate([session.run(None, dict(feed))[0] for feed in feeds]), self._rule)

    def _progress(self) -> str:
        """How far the search got, within the share allowed."""
        allowed = [left for left in self._drifts if self.share(left) <= MOST_SHARE]
        best = min(allowed, key=lambda left: (self._drifts[left], len(left)))
        return (
            f"the best graph, with {self._count(best)} in float32, drifts {self._drifts[best] / max(self._target, TINY):.1f} times "
            "as far as it may"
        )

    def _count(self, left: Collection[str]) -> str:
        return f"{len(left)} of {len(self._products)} products ({self.share(left):.1%} of the operations)"

    def _by_noise(self) -> list[str]:
        """The products, the noisiest first."""
        found = {
            product.name: noise(product, self._samples[source], self._ranges[source], self._levels)
            for product in self._products
            for source in [str(product.source.name)]
        }
        return sorted(found, key=lambda name: -found[name])

    def _by_drift(self) -> list[str]:
        """The products, first those of the activation that alone in int8 drifts farthest: one evaluation per activation."""
        everything = frozenset(product.name for product in self._products)
        groups: dict[str, list[str]] = {}
        for product in self._products:
            groups.setdefault(str(product.source.name), []).append(product.name)
        ordered = sorted(groups.values(), key=lambda group: -self.drift(everything.difference(group)))
        return [name for group in ordered for name in group]

    def _within_share(self, order: Sequence[str]) -> list[str]:
        """Those of `order`, from the first, that together do not exceed the share allowed."""
        found: list[str] = []
        for name in order:
            if self.share([*found, name]) <= MOST_SHARE:
                found.append(name)
        return found


def shortest(order: Sequence[str], is_enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
    """The shortest beginning of `order` that is enough, if longer ones are too; empty if not even all of it is.

    Tries lengths 1, 2, 4, ... and then bisects.
    """
    failing, size = 0, 1
    while not is_enough(order[:size]):
        if size >= len(order):
            return []
        failing, size = size, 2 * size
    size = min(size, len(order))
    while size - failing > 1:
        middle = (failing + size) // 2
        if is_enough(order[:middle]):
            size = middle
        else:
            failing = middle
    return order[:size]


def pruned(found: Sequence[str], is_enough: Callable[[Collection[str]], bool]) -> frozenset[str]:
    """`found` without those, tried from the last, whose removal leaves enough."""
    left = frozenset(found)
    for name in reversed(found):
        if is_enough(left - {name}):
            left -= {name}
    return left


def search(
    models: MutableMapping[str, ir.Model],
    sensitivities: Mapping[str, Sensitivity],
    certificate: Certificate,
    gate: Callable[[], Certificate],
    names: Mapping[str, str],
) -> Certificate:
    """Replaces those of `models` that the gate refused by graphs that it accepts, and returns their certificate.

    `sensitivities` are those of the int8 files; the first `certificate` is that of `models`, `gate` makes another, and `names`
    are those of the products' weights. Raises ParityError if there is no such graph, or it is not found.
    """
    found: dict[str, SearchRecord] = {}
    for file, sensitivity in sensitivities.items():
        before, gates, left = certificate.agreement[file], 0, frozenset[str]()
        while certificate.agreement[file].violations(certificate.bounds):
            excess = strain(certificate.agreement[file], certificate.bounds)
            left = sensitivity.choose(sensitivity.drift(left) / excess)
            models[file] = sensitivity.graph(left)
            certificate, gates = gate(), gates + 1
        if gates:
            found[file] = sensitivity.record(left, before, gates, names)
    return msgspec.structs.replace(certificate, search=found)


def strain(found: Agreement, bounds: Bounds, fields: Collection[str] | None = None) -> float:
    """The largest share of an allowance used, among the measures named in `fields` (None: all); above 1 a bound does not hold.

    An overlap or tau of 0.98 uses two fifths of the allowance of a bound of 0.95, an error of 2 % as much of one of 5 %.
    """
    used: list[float] = []
    for kind in MEASURES:
        value, bound = getattr(found, kind.field), getattr(bounds, kind.field)
        if value is not None and (fields is None or kind.field in fields):
            lost, allowed = (value, bound) if kind.is_upper else (1 - value, 1 - bound)
            used.append(max(lost, 0.0) / max(allowed, TINY))
    return max(used)


def weight_names(model: ir.Model, parameters: Iterable[tuple[str, NDArray[np.float32]]]) -> dict[str, str]:
    """By each product's name: that of its weights among the checkpoint's `parameters`, or its own if they are not there as such.

    A matrix that several products share, as in ALBERT, is numbered from its second use.
    """
    known: dict[str, str] = {}
    for name, array in parameters:
        for matrix in (array, array.T) if array.ndim == 2 else ():
            known.setdefault(_digest(matrix), name)
    names: dict[str, str] = {}
    uses: dict[str, int] = {}
    for product in products(model):
        name = known.get(_digest(product.weights), product.name)
        uses[name] = uses.get(name, 0) + 1
        names[product.name] = name if uses[name] == 1 else f"{name} (use {uses[name]})"
    return names


def _digest(matrix: NDArray[np.float32]) -> str:
    return f"{matrix.shape} {hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()}"
