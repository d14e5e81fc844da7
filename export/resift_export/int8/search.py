"""search: finds the products to leave in float32, if the gate refuses an int8 graph with all products in int8.

Products are chosen by ranking drift: how much a graph with some products in int8 ranks the calibration pairs differently from the
float32 graph, by the gate's own measures. The gate's pools are not used to choose: a graph chosen on them would agree with its
checkpoint there, and no pools would remain to show whether it agrees elsewhere. The gate only determines the factor by which the
drift has to shrink, and judges the chosen graph; the certificate records how many graphs it judged.

Products are left in float32 in the order of their own noise (`ranges.noise`), which needs no evaluation: 1, 2, 4, ... of them until
the drift is small enough, then the smallest number for which it is, by bisection. A noisy product may not matter, so each of them
is then put back into int8 unless the drift becomes too large. If even the largest allowed share is not enough, the order itself is
measured, by the drift with the products of a single activation in int8.
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
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift.artifact.agreement import Agreement, Bounds
    from resift.artifact.certificate import Certificate
    from resift.artifact.manifest import Relevance
    from resift_export.int8.calibration import Calibration
    from resift_export.int8.ranges import Range
    from resift_export.progress import Report

MAX_SHARE = 0.25
"""Largest share of the operations per token that may stay in float32: with more, int8 saves little."""
MAX_PAIRS = 256
"""Maximum number of pairs ranked in an evaluation, sampled evenly from the calibration set."""
TARGET_SHARES = (0.6, 0.9)
"""Shares of the allowed drift that a choice may use, tried in this order. The first is the share of the gate's allowance that the
embedded model uses, as other processors round differently; if no graph reaches it, the second leaves a margin for the gate's other
texts."""
DRIFT_MEASURES = ("tau", "error")
"""The measures of drift on the calibration pairs, which form one ranking: the gate's other measures need many pools or labels."""

log = logging.getLogger(__name__)


class Sensitivity:
    """Ranking drift of one float32 graph when all its products except some are quantized. Counts its evaluations."""

    def __init__(  # noqa: PLR0913 - a graph, how it is quantized, what it ranks, and how many evaluations are allowed
        self,
        calibration: Calibration,
        ranges: Mapping[str, Range],
        *,
        levels: int,
        rule: Relevance,
        bounds: Bounds,
        budget: int,
        report: Report = no_report,
    ) -> None:
        """`ranges`, like the samples of the calibration, are keyed by the products' sources. `budget`: the most evaluations."""
        model, rows, samples, scratch = calibration
        self._model, self._samples, self._ranges, self._levels = model, samples, ranges, levels
        self._feeds = rows if len(rows) <= MAX_PAIRS else [rows[at] for at in np.linspace(0, len(rows) - 1, MAX_PAIRS).astype(int)]
        self._rule, self._bounds, self._budget = rule, bounds, budget
        self._scratch, self._report = scratch, report
        self._products = products(model)
        self._operations = operations_by_product(model, scratch)
        self._drifts: dict[frozenset[str], float] = {}
        self._evaluations = 0
        self._target = 1.0

    def graph(self, excluded: Collection[str]) -> ir.Model:
        """The int8 graph with the products named in `excluded` in float32."""
        return lower_opset(quantize(self._model.clone(), self._ranges, levels=self._levels, exclude=frozenset(excluded)))

    def share(self, excluded: Collection[str]) -> float:
        """The share of the operations per token in the products named in `excluded`."""
        return sum(self._operations[name] for name in excluded) / sum(self._operations.values())

    def drift(self, excluded: Collection[str]) -> float:
        """The share of the bounds' allowance that `graph(excluded)` uses on the calibration pairs; 0 if it ranks as in float32.

        Raises ParityError if this needs an evaluation and no more are allowed.
        """
        key = frozenset(excluded)
        if key not in self._drifts:
            reference = self._exact
            agreement = measure([Pool(qid="", query="", documents=[])], [reference], [self._rank(self.graph(key))])
            self._drifts[key] = allowance_used(agreement, self._bounds, DRIFT_MEASURES)
            count, drift = self._count(key), self._drifts[key]
            log.info("search    %d of %d: drift %.2f with %s in float32", self._evaluations, self._budget, drift, count)
        return self._drifts[key]

    def choose(self, target: float) -> frozenset[str]:
        """A small set of products that, left in float32, bring the drift below `target` by a margin.

        Raises ParityError if there is no such set within the share of operations, or none is found within the allowed evaluations.
        """
        self._target = target
        for order_products in (self._by_noise, self._by_drift):
            order = self._within_share(order_products())
            for share in TARGET_SHARES:
                if excluded := self._fewest(order, share * target):
                    return excluded
        raise ParityError(
            f"--search found no graph that ranks like its checkpoint with at most {MAX_SHARE:.0%} of the operations in float32: "
            f"{self._progress()}; export with --precision float32"
        )

    def _fewest(self, order: Sequence[str], limit: float) -> frozenset[str]:
        """A small set of products of `order` that bring the drift down to `limit`; empty if even all of them do not."""
        prefix = shortest_prefix(order, lambda excluded: self.drift(excluded) <= limit)
        return prune(prefix, lambda excluded: self._evaluations < self._budget and self.drift(excluded) <= limit)

    def record(
        self, excluded: Collection[str], first_agreement: Agreement, gate_count: int, names: Mapping[str, str]
    ) -> SearchRecord:
        """The certificate's record of this search. `names`: the names of the products' weights."""
        return SearchRecord(
            float32=[names[product.name] for product in self._products if product.name in excluded],
            share=self.share(excluded),
            most_share=MAX_SHARE,
            evaluations=self._evaluations,
            most_evaluations=self._budget,
            gates=gate_count,
            before=first_agreement,
        )

    @cached_property
    def _exact(self) -> NDArray[np.float32]:
        return self._rank(self._model)

    def _rank(self, model: ir.Model) -> NDArray[np.float32]:
        """Relevance float32[pairs] computed by `model`, which counts as one evaluation."""
        if self._evaluations == self._budget:
            raise ParityError(
                f"--search used up its {self._budget} evaluations: {self._progress()}; allow more with --search N, "
                "or export with --precision float32"
            )
        self._evaluations += 1
        session = open_session(model, self._scratch)
        feeds = track(f"search {self._evaluations} of {self._budget}", self._feeds, self._report)
        return relevance(np.concatenate([session.run(None, dict(feed))[0] for feed in feeds]), self._rule)

    def _progress(self) -> str:
        """How far the search has got within the allowed share."""
        allowed = [excluded for excluded in self._drifts if self.share(excluded) <= MAX_SHARE]
        best = min(allowed, key=lambda excluded: (self._drifts[excluded], len(excluded)))
        return (
            f"the best graph, with {self._count(best)} in float32, drifts {self._drifts[best] / max(self._target, TINY):.1f} times "
            "as far as it may"
        )

    def _count(self, excluded: Collection[str]) -> str:
        return f"{len(excluded)} of {len(self._products)} products ({self.share(excluded):.1%} of the operations)"

    def _by_noise(self) -> list[str]:
        """The products, the noisiest first."""
        noises = {
            product.name: noise(product, self._samples[source], self._ranges[source], self._levels)
            for product in self._products
            for source in [str(product.source.name)]
        }
        return sorted(noises, key=lambda name: -noises[name])

    def _by_drift(self) -> list[str]:
        """The products in the order of the drift with only one activation's products in int8, which takes one evaluation each."""
        everything = frozenset(product.name for product in self._products)
        groups: dict[str, list[str]] = {}
        for product in self._products:
            groups.setdefault(str(product.source.name), []).append(product.name)
        ordered = sorted(groups.values(), key=lambda group: -self.drift(everything.difference(group)))
        return [name for group in ordered for name in group]

    def _within_share(self, order: Sequence[str]) -> list[str]:
        """The products of `order`, from the first, that together do not exceed the allowed share."""
        selected: list[str] = []
        for name in order:
            if self.share([*selected, name]) <= MAX_SHARE:
                selected.append(name)
        return selected


def shortest_prefix(order: Sequence[str], is_enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
    """The shortest prefix of `order` that is enough, provided that longer ones are too; empty if even the whole is not enough.

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


def prune(names: Sequence[str], is_enough: Callable[[Collection[str]], bool]) -> frozenset[str]:
    """The names, without each one, from the last, whose removal leaves enough."""
    remaining = frozenset(names)
    for name in reversed(names):
        if is_enough(remaining - {name}):
            remaining -= {name}
    return remaining


def search(
    models: MutableMapping[str, ir.Model],
    sensitivities: Mapping[str, Sensitivity],
    certificate: Certificate,
    gate: Callable[[], Certificate],
    names: Mapping[str, str],
) -> Certificate:
    """Replaces the `models` that the gate refused by graphs that it accepts, and returns their certificate.

    `sensitivities` are keyed by int8 file. `certificate` is that of the `models` so far; `gate` makes another. `names` are the
    names of the products' weights. Raises ParityError if there is no such graph, or none is found.
    """
    searches: dict[str, SearchRecord] = {}
    for file, sensitivity in sensitivities.items():
        first_agreement, gate_count, excluded = certificate.agreement[file], 0, frozenset[str]()
        while certificate.agreement[file].violations(certificate.bounds):
            excess = allowance_used(certificate.agreement[file], certificate.bounds)
            excluded = sensitivity.choose(sensitivity.drift(excluded) / excess)
            models[file] = sensitivity.graph(excluded)
            certificate, gate_count = gate(), gate_count + 1
        if gate_count:
            searches[file] = sensitivity.record(excluded, first_agreement, gate_count, names)
    return msgspec.structs.replace(certificate, search=searches)


def allowance_used(agreement: Agreement, bounds: Bounds, fields: Collection[str] | None = None) -> float:
    """The largest share of an allowance used, among the measures named in `fields` (None: all); above 1, a bound does not hold.

    An overlap or tau of 0.98 uses two fifths of the allowance of a bound of 0.95; so does an error of 2 % with a bound of 5 %.
    """
    shares: list[float] = []
    for kind in MEASURES:
        value, bound = getattr(agreement, kind.field), getattr(bounds, kind.field)
        if value is not None and (fields is None or kind.field in fields):
            loss, allowed = (value, bound) if kind.is_upper else (1 - value, 1 - bound)
            shares.append(max(loss, 0.0) / max(allowed, TINY))
    return max(shares)


def weight_names(model: ir.Model, parameters: Iterable[tuple[str, NDArray[np.float32]]]) -> dict[str, str]:
    """The name of each product's weights among the checkpoint's `parameters`, by product; its own name if they are not there.

    A matrix that several products share, as in ALBERT, is numbered from its second use.
    """
    names_by_digest: dict[str, str] = {}
    for name, array in parameters:
        for matrix in (array, array.T) if array.ndim == 2 else ():
            names_by_digest.setdefault(_digest(matrix), name)
    names: dict[str, str] = {}
    uses: dict[str, int] = {}
    for product in products(model):
        name = names_by_digest.get(_digest(product.weights), product.name)
        uses[name] = uses.get(name, 0) + 1
        names[product.name] = name if uses[name] == 1 else f"{name} (use {uses[name]})"
    return names


def _digest(matrix: NDArray[np.float32]) -> str:
    return f"{matrix.shape} {hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()}"
