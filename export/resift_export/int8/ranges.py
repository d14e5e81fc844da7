"""Ranges of activations: how each activation is quantized to uint8, chosen by the error of the products that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift_export.int8.levels import TINY, WEIGHT_LEVELS, at_least_tiny, quantize_weights
from resift_export.int8.products import by_source, products
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from resift_export.int8.products import Product
    from resift_export.progress import Report

CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Fractions of the observed range that are tried as an activation's range."""
MIGRATIONS = (0.0, 0.25, 0.5, 0.75)
"""Smoothing strengths that are tried: alpha in https://arxiv.org/abs/2211.10438, equation 4."""
ROUNDS = ((128, 8), (512, 2))
"""Per round, the token vectors by which ranges are compared and the ranges that are retained; a last round compares by all
vectors."""
FARTHEST_SHARE = 0.25
"""Share of a round's vectors that have the largest norms: a few of them can cause most of an error, so none may be missed."""


@dataclass(frozen=True)
class Range:
    """How an activation is quantized to uint8: round(x * smoothing / scale) + zero_point."""

    scale: float
    zero_point: int
    smoothing: np.ndarray | None
    """float32[size]: one factor per channel, for which the weights compensate; None: no smoothing"""

    def quantize(self, activations: np.ndarray) -> np.ndarray:
        """Integers from 0 to 255, as float32 of the same shape."""
        smoothed = activations if self.smoothing is None else activations * self.smoothing
        levels: np.ndarray = np.clip(np.rint(smoothed / self.scale) + self.zero_point, 0, 255)
        return levels


def choose_ranges(
    model: ir.Model,
    samples: Mapping[str, np.ndarray],
    *,
    levels: int = WEIGHT_LEVELS,
    step: str = "ranges",
    report: Report = no_report,
) -> dict[str, Range]:
    """The range of each source, by its name, shared by all `products(model)` that read it, for weights of magnitude up to `levels`.

    `samples` holds float32[rows, inputs] for every source. `step` is the name by which progress is reported.
    """
    ranges: dict[str, Range] = {}
    for source, readers in track(step, list(by_source(products(model)).items()), report):
        weights = np.concatenate([product.weights for product in readers], axis=1)
        ranges[str(source.name)] = choose_range(samples[str(source.name)], weights, levels)
    return ranges


def choose_range(activations: np.ndarray, weights: np.ndarray, levels: int = WEIGHT_LEVELS) -> Range:
    """The range whose int8 product has about the smallest mean squared error over the sampled activations.

    Ranges that are worse on a part of the activations are dropped early. The whole range without smoothing always reaches the last
    comparison.
    """
    smoothed_weights = [_SmoothedWeights.of(activations, weights, migration, levels) for migration in MIGRATIONS]
    candidates = [(smoothed, activation_range) for smoothed in smoothed_weights for activation_range in smoothed.ranges(CLIPS)]
    exact = activations @ weights
    order = np.argsort(-np.square(activations).sum(axis=1), kind="stable")
    for rows, limit in ROUNDS:
        best = np.argsort(_errors(candidates, activations, exact, *_subset(order, rows)), kind="stable")[:limit]
        candidates = [candidates[number] for number in sorted({0, *best.tolist()})]
    return candidates[int(np.argmin(_errors(candidates, activations, exact, *_subset(order, len(order)))))][1]


def noise(product: Product, activations: np.ndarray, activation_range: Range, levels: int = WEIGHT_LEVELS) -> float:
    """The int8 product's mean squared error divided by the product's variance, for `activations` float32[rows, inputs]."""
    exact = activations @ product.weights
    folded = product.weights if activation_range.smoothing is None else product.weights / activation_range.smoothing[:, None]
    weights, scales = quantize_weights(folded, levels)
    product_values = (
        (activation_range.quantize(activations) - activation_range.zero_point) * activation_range.scale @ (weights * scales)
    )
    return float(np.square(product_values - exact).mean()) / max(float(exact.var(axis=0).mean()), TINY)


def _errors(
    candidates: Sequence[tuple[_SmoothedWeights, Range]],
    activations: np.ndarray,
    exact: np.ndarray,
    part: np.ndarray,
    counts: np.ndarray,
) -> list[float]:
    """The squared error of the int8 product for each candidate, over the activations of `part`, weighted by `counts`."""
    rows, exact_rows = activations[part], exact[part]
    return [float(counts @ smoothed.errors(activation_range, rows, exact_rows)) for smoothed, activation_range in candidates]


@dataclass(frozen=True, eq=False)
class _SmoothedWeights:
    """A product's quantized weights, which compensate for one smoothing of the activations."""

    smoothing: np.ndarray | None
    low: float
    high: float
    """bounds of the smoothed activations, 0 included"""
    dequantized: np.ndarray
    """float32[inputs, outputs]: the quantized weights"""

    @classmethod
    def of(cls, activations: np.ndarray, weights: np.ndarray, migration: float, levels: int) -> _SmoothedWeights:
        smoothing = _smoothing(activations, weights, migration)
        smoothed = activations if smoothing is None else activations * smoothing
        quantized, scales = quantize_weights(weights if smoothing is None else weights / smoothing[:, None], levels)
        return cls(smoothing, min(float(smoothed.min()), 0.0), max(float(smoothed.max()), 0.0), quantized * scales)

    def ranges(self, clips: Sequence[float]) -> list[Range]:
        """One range for each of `clips`, the fraction of the activations' bounds that it covers."""
        ranges = []
        for clip in clips:
            scale = max((self.high - self.low) * clip, TINY) / 255
            ranges.append(Range(scale, int(np.clip(np.rint(-self.low * clip / scale), 0, 255)), self.smoothing))
        return ranges

    def errors(self, activation_range: Range, activations: np.ndarray, exact: np.ndarray) -> np.ndarray:
        """float32[rows]: the squared error of the int8 product for each of the activations, compared with its `exact` product."""
        product = (
            (activation_range.quantize(activations) - activation_range.zero_point)
            * np.float32(activation_range.scale)
            @ self.dequantized
        )
        return np.square(product - exact).sum(axis=1)  # type: ignore[no-any-return]


def _subset(order: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `rows` of the vectors in `order`, which begins with the farthest, and the number of vectors each represents.

    The farthest represent themselves; the others are sampled at even steps and represent the vectors between them.
    """
    if rows >= len(order):
        return order, np.ones(len(order), np.float32)
    near_count = rows - int(FARTHEST_SHARE * rows)
    far_rows, near_rows = order[: rows - near_count], order[rows - near_count :]
    near_sample = near_rows[np.linspace(0, len(near_rows) - 1, near_count).astype(int)]
    counts = np.concatenate([np.ones(len(far_rows), np.float32), np.full(near_count, len(near_rows) / near_count, np.float32)])
    return np.concatenate([far_rows, near_sample]), counts


def _smoothing(activations: np.ndarray, weights: np.ndarray, migration: float) -> np.ndarray | None:
    """Factors that equalize the activations' channels at the cost of the weights' rows; None: no smoothing."""
    if migration == 0.0:
        return None
    peaks = at_least_tiny(np.abs(activations).max(axis=0))
    rows = at_least_tiny(np.abs(weights).max(axis=1))
    factors = rows ** (1 - migration) / peaks**migration
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)
