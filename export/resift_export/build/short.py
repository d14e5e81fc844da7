"""short: the graph for short pairs of an int8 file that scores some of them differently from its checkpoint.

In it, the first products of the int8 graph, in the graph's order, have finer activations and weights (`int8.finer`), as errors of
the first layers grow in those that follow. How many products it takes is measured on short calibration pairs. The gate's own short
pools only judge the result.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.scoring import relevance
from resift_export.graph.edit import lower_opset
from resift_export.graph.weights import open_session
from resift_export.int8.finer import exact_weights, int8_products, refine
from resift_export.int8.levels import TINY
from resift_export.int8.search import shortest_prefix
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift.artifact.agreement import Bounds
    from resift.artifact.coverage import ClassAgreement
    from resift.artifact.manifest import Relevance
    from resift_export.progress import Report

LONGEST = 64
"""Tokens of the longest pair that a graph for short pairs may score: longer ones would take too much time in it."""
SHORTEST = 16
"""The fewest tokens of the longest pair that it scores, whichever class needs it: those of titles, of which few err in a gate.

In the embedded model, 1.4 % of 290 pairs of 9 to 16 tokens are more than 1 logit off without it, and none with it.
"""
TARGET_SHARES = (0.9, 0.6, 0.3)
"""Shares of the bound on the error that the calibration pairs may reach, tried in this order until the gate accepts the graph."""

log = logging.getLogger(__name__)


class ShortModel(NamedTuple):
    """A graph for short pairs, before it is written."""

    model: ir.Model
    up_to: int
    """tokens of the longest pair that it scores"""


def tokens_to_mend(classes: Sequence[ClassAgreement], bounds: Bounds) -> int | None:
    """Tokens of the longest pair that a graph for short pairs scores: those of the longest class beyond its bound, or SHORTEST.

    None if no class is beyond its bound, or one longer than LONGEST.
    """
    failing = [each.up_to for each in classes if not each.holds(bounds)]
    return max(SHORTEST, *failing) if failing and max(failing) <= LONGEST else None


def short_models(  # noqa: PLR0913 - two graphs, what they rank, and how progress is reported
    exact: ir.Model,
    int8: ir.Model,
    feeds: Sequence[Mapping[str, NDArray[np.int64]]],
    *,
    rule: Relevance,
    bounds: Bounds,
    scratch: Path,
    report: Report = no_report,
) -> Iterator[ir.Model]:
    """Graphs for short pairs, each closer to the float32 graph `exact` than the one before.

    `int8`: the int8 graph that was made from `exact`. `feeds`: the inputs of the short calibration pairs.
    """
    weights, order = exact_weights(exact), list(int8_products(int8))

    def logits(model: ir.Model, step: str) -> NDArray[np.float32]:
        session = open_session(model, scratch)
        return relevance(np.concatenate([session.run(None, dict(feed))[0] for feed in track(step, feeds, report)]), rule)

    reference = logits(exact, "short pairs in float32")
    span = max(float(np.ptp(reference)), TINY)
    errors: dict[int, float] = {}

    def error(names: Sequence[str]) -> float:
        if len(names) not in errors:
            found = logits(refine(int8, weights, names), f"short pairs with {len(names)} finer products")
            errors[len(names)] = float(np.percentile(np.abs(found - reference), 99)) / span
            log.info("short     %d of %d products finer: p99 error %.2f%%", len(names), len(order), 100 * errors[len(names)])
        return errors[len(names)]

    tried: set[int] = set()
    for share in TARGET_SHARES:
        limit = share * bounds.error
        names = shortest_prefix(order, lambda prefix: error(prefix) <= limit) or order  # noqa: B023 - called at once
        if len(names) not in tried:
            tried.add(len(names))
            yield lower_opset(refine(int8, weights, names))
