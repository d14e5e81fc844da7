"""moments: second moments of a layer's units over sampled pairs, from which units to remove and weights for the others follow.

Closed forms of the optimal brain surgeon (Hassibi and Stork, 1992) for whole units.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resift.errors import ExportError
from resift_export.checkpoint.layers import linear, units_of
from resift_export.distill.student import run_layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn

    from resift_export.distill.batches import PaddedBatch

RIDGE = 1e-4
"""Value added to each unit's moment, as a multiple of their mean: the fit must not rely on small differences of similar units."""
REMOVALS_AT_ONCE = 64
"""Units that are removed before the moments are inverted again: rounding errors accumulate, and the matrices become smaller."""


class SumRecorder:
    """Records the inputs of a layer's norm, batch by batch, until `take` is called."""

    def __init__(self, layer: nn.Module, norm: str) -> None:
        self._sums: list[torch.Tensor] = []
        self._hook = layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: self._sums.append(inputs[0]))

    def take(self) -> list[torch.Tensor]:
        """The recorded inputs; recording ends."""
        self._hook.remove()
        return self._sums


@dataclass
class Moments:
    """Second moments of units and of the goals, the outputs that their linear map should have; both without their means."""

    units: torch.Tensor
    """float64[size, size]"""
    goals: torch.Tensor
    """float64[size, hidden size]: moments of units and goals"""
    means: torch.Tensor
    """float64[size]"""
    goal_means: torch.Tensor
    """float64[hidden size]"""
    variance: float
    """variance of the sums, over all components"""

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.means)

    def removal_order(self, group: int, remaining_count: int) -> Iterator[tuple[int, float]]:
        """Yields the number and the cost of each group of `group` units, in the order of removal, until `remaining_count` remain.

        A group's cost is the squared error that its removal adds, if the weights of the others are fitted again: with H the inverse
        of the moments of the remaining groups and W their fitted weights, the trace of W_g' (H_gg)^-1 W_g.
        """
        numbers = torch.arange(self.size // group, device=self.units.device)
        while len(numbers) > remaining_count:
            units = units_of(numbers, group)
            inverse = torch.linalg.inv(self.units[units][:, units])
            weights = inverse @ self.goals[units]
            # Groups of more than one unit are few: the moments are inverted again for each of them.
            steps = min(REMOVALS_AT_ONCE, len(numbers) - remaining_count) if group == 1 else 1
            is_retained = torch.ones(len(numbers), dtype=torch.bool, device=numbers.device)
            if group == 1:
                removals = _remove_units(inverse, weights, is_retained, steps)
            else:
                removals = _remove_group(inverse, weights, is_retained, group)
            for number, cost in removals:
                yield int(numbers[number]), cost
            numbers = numbers[is_retained]

    def retained_units(self, group: int, count: int) -> torch.Tensor:
        """int64[count * group]: the units of the `count` groups that remain, in order."""
        removed = {number for number, _ in self.removal_order(group, count)}
        numbers = [number for number in range(self.size // group) if number not in removed]
        return units_of(torch.tensor(numbers, device=self.units.device), group)

    def fit_weights(self, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [hidden size, n] and bias [hidden size] with which the `units`, int64[n], approximate the goals best."""
        weights = torch.linalg.solve(self.units[units][:, units], self.goals[units])
        return weights.T, self.goal_means - self.means[units] @ weights


def _remove_units(
    inverse: torch.Tensor, weights: torch.Tensor, is_retained: torch.Tensor, steps: int
) -> Iterator[tuple[int, float]]:
    """Removes `steps` single units, marks them in `is_retained`, and yields the number and the cost of each."""
    diagonal = inverse.diagonal().clone()
    # Removing a unit subtracts the outer product of such a column with itself from the inverse, which itself does not change.
    columns = inverse.new_zeros(len(inverse), steps)
    for step in range(steps):
        costs = torch.where(is_retained, weights.square().sum(dim=1) / diagonal, torch.inf)
        cheapest = int(costs.argmin())
        column = inverse[:, cheapest] - columns @ columns[cheapest]
        column /= column[cheapest].sqrt()
        columns[:, step] = column
        weights.addr_(column, weights[cheapest] / column[cheapest], alpha=-1)
        diagonal -= column.square()
        diagonal[cheapest], is_retained[cheapest] = 1.0, False
        yield cheapest, float(costs[cheapest])


def _remove_group(
    inverse: torch.Tensor, weights: torch.Tensor, is_retained: torch.Tensor, group: int
) -> Iterator[tuple[int, float]]:
    """Removes the cheapest group, marks it in `is_retained`, and yields its number and its cost."""
    count = len(is_retained)
    group_inverses = torch.stack([inverse[at : at + group, at : at + group] for at in range(0, count * group, group)])
    blocks = weights.view(count, group, -1)
    costs = (blocks * torch.linalg.solve(group_inverses, blocks)).sum(dim=(1, 2))
    cheapest = int(costs.argmin())
    is_retained[cheapest] = False
    yield cheapest, float(costs[cheapest])


def moments_of(  # noqa: PLR0913 - a layer, a map in it, and the map's inputs and goals
    layer: nn.Module,
    name: str,
    norm: str,
    states: Iterable[torch.Tensor],
    batches: Iterable[PaddedBatch],
    target_sums: Iterable[torch.Tensor] | None,
    *,
    is_last: bool,
) -> Moments:
    """The moments of the inputs of the layer's map `name` and of its goals, with which the layer's `norm` reads `target_sums`.

    `target_sums`: None stands for the sums that the norm reads anyway. In the last layer, a pair's first token, the only one that
    the head reads, counts as much as all others together.
    """
    module = linear(layer, name)
    size, hidden = module.in_features, module.out_features
    totals = torch.zeros(size + 2 * hidden, dtype=torch.float64, device=module.weight.device)
    products = torch.zeros(size, size + hidden, dtype=torch.float64, device=module.weight.device)
    squares, count = 0.0, 0.0
    captured: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: captured.update(units=inputs[0], output=output)),
        layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: captured.update(sums=inputs[0])),
    ]
    for inputs, batch, goal in zip(states, batches, itertools.repeat(None) if target_sums is None else target_sums, strict=False):
        run_layer(layer, inputs, batch)
        sums = captured["sums"] if goal is None else goal
        values = torch.cat([captured["units"], sums - captured["sums"] + captured["output"], sums], dim=2)
        counts = torch.ones(values.shape[:2], device=values.device) if batch.counts is None else batch.counts.to(values.dtype)
        if is_last:
            counts[:, 0] = counts[:, 1:].sum(dim=1)
        rows, weighted = values.flatten(0, 1), (values * counts[:, :, None]).flatten(0, 1)
        totals += weighted.sum(dim=0)
        products += weighted[:, :size].T @ rows[:, : size + hidden]
        squares += float((weighted[:, size + hidden :] * rows[:, size + hidden :]).sum())
        count += float(counts.sum())
    for hook in hooks:
        hook.remove()
    means, goal_means, sum_means = torch.split(totals / count, [size, hidden, hidden])
    variance = squares / count - float(sum_means.square().sum())
    if not (products.isfinite().all() and variance > 0):
        raise ExportError("the teacher's hidden states are not finite, or all the same; expected a trained cross-encoder")
    moments = products / count - torch.outer(means, torch.cat([means, goal_means]))
    units = moments[:, :size]
    units.diagonal().add_(RIDGE * units.diagonal().mean())
    return Moments(units, moments[:, size:], means, goal_means, variance)
