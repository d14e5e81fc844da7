"""Ranges of activations: how each is quantized to uint8, chosen by the error of the products that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift_export.int8.levels import TINY, WEIGHT_LEVELS, at_least_tiny, quantize_weights
from resift_export.int8.products import by_source, products
from resift_export.progress import reported, unreported

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
"""Token vectors by which ranges are compared, and how many go on to the next round; the last compares them by all vectors."""
FARTHEST_SHARE = 0.25
"""Share of a round's vectors that are those of the largest norm: few of them can make most of an error, so none may be missed."""


@dataclass(frozen=True)
class Range:
    """How an activation is quantized to uint8: round(x * smoothing / scale) + zero_point."""

    scale: float
    zero_point: int
    smoothing: np.ndarray | None
    """float32[size]: a factor per channel, compensated in the weights; None for no smoothing"""

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
    report: Report = unreported,
) -> dict[str, Range]:
    """By the source's name: the range that all `products(model)` which read it share, for weights of magnitude at most `levels`.

    `samples` holds float32[rows, inputs] for every source. `step` is the name by which the work is reported.
    """
    ranges: dict[str, Range] = {}
    for source, readers in reported(step, list(by_source(products(model)).items()), report):
        weights = np.concatenate([product.weights for product in readers], axis=1)
        ranges[str(source.name)] = choose_range(samples[str(source.name)], weights, levels)
    return ranges


def choose_range(activations: np.ndarray, weights: np.ndarray, levels: int = WEIGHT_LEVELS) -> Range:
    """The range whose int8 product has about the least mean squared error over the sampled activations.

    Those that a part of the activations shows to be worse are dropped early. The whole range without smoothing is among those
    compared in the end.
    """
    kinds = [_Smoothed.of(activations, weights, migration, levels) for migration in MIGRATIONS]
    tried = [(kind, found) for kind in kinds for found in kind.ranges(CLIPS)]
    exact = activations @ weights
    order = np.argsort(-np.square(activations).sum(axis=1), kind="stable")
    for rows, most in ROUNDS:
        best = np.argsort(_errors(tried, activations, exact, *_part(order, rows)), kind="stable")[:most]
        tried = [tried[at] for at in sorted({0, *best.tolist()})]
    return tried[int(np.argmin(_errors(tried, activations, exact, *_part(order, len(order)))))][1]


def noise(product: Product, activations: np.ndarray, chosen: Range, levels: int = WEIGHT_LEVELS) -> float:
    """The mean squared error of the int8 product over its variance, both over the sampled `activations`, float32[rows, inputs]."""
    exact = activations @ product.weights
    folded = product.weights if chosen.smoothing is None else product.weights / chosen.smoothing[:, None]
    weights, scales = quantize_weights(folded, levels)
    found = (chosen.quantize(activations) - chosen.zero_point) * chosen.scale @ (weights * scales)
    return float(np.square(found - exact).mean()) / max(float(exact.var(axis=0).mean()), TINY)


def _errors(
    tried: Sequence[tuple[_Smoothed, Range]], activations: np.ndarray, exact: np.ndarray, part: np.ndarray, counts: np.ndarray
) -> list[float]:
    """Of each range: the squared error of the int8 product over a part of the activations, of which each stands for so many."""
    rows, exact_rows = activations[part], exact[part]
    return [float(counts @ kind.errors(found, rows, exact_rows)) for kind, found in tried]


@dataclass(frozen=True, eq=False)
class _Smoothed:
    """A product's weights with one smoothing compensated in them, quantized."""

    smoothing: np.ndarray | None
    low: float
    high: float
    """range of the smoothed activations, 0 included"""
    restored: np.ndarray
    """float32[inputs, outputs]: the quantized weights"""

    @classmethod
    def of(cls, activations: np.ndarray, weights: np.ndarray, migration: float, levels: int) -> _Smoothed:
        smoothing = _smoothing(activations, weights, migration)
        smoothed = activations if smoothing is None else activations * smoothing
        quantized, scales = quantize_weights(weights if smoothing is None else weights / smoothing[:, None], levels)
        return cls(smoothing, min(float(smoothed.min()), 0.0), max(float(smoothed.max()), 0.0), quantized * scales)

    def ranges(self, clips: Sequence[float]) -> list[Range]:
        """Those that keep each of `clips` of the activations' range."""
        found = []
        for clip in clips:
            scale = max((self.high - self.low) * clip, TINY) / 255
            found.append(Range(scale, int(np.clip(np.rint(-self.low * clip / scale), 0, 255)), self.smoothing))
        return found

    def errors(self, tried: Range, activations: np.ndarray, exact: np.ndarray) -> np.ndarray:
        """float32[rows]: the squared error of the int8 product of each of the activations, whose `exact` product is given."""
        found = (tried.quantize(activations) - tried.zero_point) * np.float32(tried.scale) @ self.restored
        return np.square(found - exact).sum(axis=1)  # type: ignore[no-any-return]


def _part(order: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `rows` of the vectors in `order`, the farthest first, and how many each stands for.

    The farthest stand for themselves, the others, drawn at even steps, for those between them.
    """
    if rows >= len(order):
        return order, np.ones(len(order), np.float32)
    near = rows - int(FARTHEST_SHARE * rows)
    far, others = order[: rows - near], order[rows - near :]
    drawn = others[np.linspace(0, len(others) - 1, near).astype(int)]
    counts = np.concatenate([np.ones(len(far), np.float32), np.full(near, len(others) / near, np.float32)])
    return np.concatenate([far, drawn]), counts


def _smoothing(activations: np.ndarray, weights: np.ndarray, migration: float) -> np.ndarray | None:
    """Factors that even out the activations' channels at the cost of the weights' rows; None for no smoothing."""
    if migration == 0.0:
        return None
    peaks = at_least_tiny(np.abs(activations).max(axis=0))
    rows = at_least_tiny(np.abs(weights).max(axis=1))
    factors = rows ** (1 - migration) / peaks**migration
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)
