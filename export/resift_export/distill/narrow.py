"""narrow: removes heads and inner units from a student's layers and fits the weights of the others, without training.

The first pass prices the teacher's retained layers, each by itself: heads are removed from its attention, and units from its
feed-forward network, one after the other, always the one for which the others can compensate best. The price of a head or unit is
the error that its removal adds to the sums. Over all layers together, those with the lowest price for their operations are removed.
The second pass goes through the student's layers, from the first: the weights of the remaining heads and units are fitted to the
teacher's sums. Both passes are in closed form, from second moments of the outputs of heads and units for sampled pairs: the optimal
brain surgeon (Hassibi and Stork, 1992) for whole units, as in ZipLM (arXiv:2302.04089), whose search for each layer's size is one
rule here.

A sum is the input of a norm: the residual plus the output of attention or of the feed-forward network. As the student's sums are
fitted to the teacher's for inputs that the student itself computes, its errors do not accumulate from layer to layer. Attention
that retains all its heads is fitted only after skipped layers: in MiniLM with all its layers, fitting it made the ranking worse.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from resift.errors import ExportError, InputError
from resift_export.checkpoint.layers import (
    LayerSize,
    head_size,
    keep_heads,
    keep_units,
    layers_of,
    linear,
    parts_of,
    set_linear,
    sizes_of,
    units_of,
)
from resift_export.distill.student import run, run_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from resift_export.distill.batches import PaddedBatch

log = logging.getLogger(__name__)
RIDGE = 1e-4
"""Value added to each unit's moment, as a multiple of their mean: the fit must not rely on small differences of similar units."""
REMOVALS_AT_ONCE = 64
"""Units that are removed before the moments are inverted again: rounding errors accumulate, and the matrices become smaller."""
HEAD_PRICE = 1.2
"""Assumed cost of an operation of attention's linear maps, relative to one of the feed-forward network: the computation between the
maps is not counted, grows with the length, and is in float32 where the maps are in int8. In MiniLM of five sizes, the ratio was 1.6
at 95 tokens; but students made with 1 and with 1.5 ranked equally well for their time. The embedded first look has 1.2."""


class Prices(NamedTuple):
    """The price of each of a layer's heads, and of each of its inner units, in the order of removal; the last of each remains.

    A price is the squared error that a removal adds to the sums, as a multiple of their variance.
    """

    heads: list[float]
    units: list[float]


def narrow(  # noqa: PLR0913 - the student, what it learns from, and when it ends
    student: Any,
    teacher: Any,
    keep: Sequence[int],
    width: float,
    batches: Sequence[PaddedBatch],
    should_continue: Callable[[], bool],
) -> bool:
    """Narrows the `student`, which has the teacher's layers `keep`, to the share `width` of its layers' operations, in place.

    The student is fitted on `batches`. `should_continue` is called before every layer of both passes; once it returns False, this
    function returns False and leaves the student unfinished. Raises ExportError if the teacher's hidden states are not finite or
    always the same, InputError if `width` is less than one head and one unit of each layer.
    """
    free_prices = [Prices([0.0] * (size.heads - 1), [0.0] * (size.units - 1)) for size in sizes_of(student)]
    choose_sizes(free_prices, head_size(student), width)  # refuses an impossible width before minutes of work
    with torch.no_grad():
        log.info("prices    of heads and units in layers %s", ", ".join(map(str, keep)))
        prices = _prices(teacher, keep, batches, should_continue)
        if prices is None:
            return False
        sizes = choose_sizes(prices, head_size(student), width)
        log.info("sizes     %s (heads x inner units)", ", ".join(f"{size.heads} x {size.units}" for size in sizes))
        return _fit(student, teacher, keep, sizes, batches, should_continue)


def _prices(
    teacher: Any, keep: Sequence[int], batches: Sequence[PaddedBatch], should_continue: Callable[[], bool]
) -> list[Prices] | None:
    """The prices of each of the teacher's layers `keep`; None once `should_continue` returns False."""
    parts, components = parts_of(teacher), head_size(teacher)
    states, prices = [run(teacher, batch).hidden_states[0] for batch in batches], []
    for number, layer in enumerate(layers_of(teacher)):
        if number in keep:
            if not should_continue():
                return None
            is_last = number == keep[-1]
            attention = _moments(layer, parts.attention_output, parts.attention_norm, states, batches, None, is_last=is_last)
            heads = [price / attention.variance for _, price in attention.removal_order(components, 1)]
            units = [0.0] * (linear(layer, parts.outer).in_features - 1)
            if not is_last:  # the last layer retains its units, whatever their price
                feed_forward = _moments(layer, parts.outer, parts.output_norm, states, batches, None, is_last=False)
                units = [price / feed_forward.variance for _, price in feed_forward.removal_order(1, 1)]
            prices.append(Prices(heads, units))
        states = [run_layer(layer, inputs, batch) for inputs, batch in zip(states, batches, strict=True)]
    return prices


def choose_sizes(prices: Sequence[Prices], components: int, width: float) -> list[LayerSize]:
    """The size of each layer such that all layers together retain the share `width` of their operations.

    `components`: number of components of a head. Heads and units are removed in the order of their price per operation. The last
    layer retains its units: the engine computes them only for the one token of each pair that the model's head reads. Of its
    attention heads, only keys and values count. Raises InputError if one head and one unit of each layer exceed the share.
    """
    last = len(prices) - 1
    sizes = [LayerSize(len(layer_prices.heads) + 1, len(layer_prices.units) + 1) for layer_prices in prices]
    # A unit has a row in one matrix and a column in another; a head has rows and columns in four, for each of its components.
    heads = [HEAD_PRICE * components * (2 if number == last else 4) for number in range(len(sizes))]
    units = [0 if number == last else 2 for number in range(len(sizes))]
    operations = sum(size.heads * head + size.units * unit for size, head, unit in zip(sizes, heads, units, strict=True))
    limit = width * operations
    choices = []
    for number, layer_prices in enumerate(prices):
        for kind, (unit_prices, work) in enumerate(((layer_prices.heads, heads[number]), (layer_prices.units, units[number]))):
            # The order within a layer is fixed: no removal comes before those that precede it in its layer.
            choices += [(price / work, number, kind, work) for price in itertools.accumulate(unit_prices, max) if work]
    for _, number, kind, work in sorted(choices):
        if operations <= limit:
            break
        size = sizes[number]
        sizes[number] = size._replace(units=size.units - 1) if kind else size._replace(heads=size.heads - 1)
        operations -= work
    if operations > limit:
        raise InputError(
            f"width is {width}, but one head and one unit of each layer are {operations * width / limit:.2f}; expected more"
        )
    return sizes


def _fit(  # noqa: PLR0913 - the student, what it learns from, and when it ends
    student: Any,
    teacher: Any,
    keep: Sequence[int],
    sizes: Sequence[LayerSize],
    batches: Sequence[PaddedBatch],
    should_continue: Callable[[], bool],
) -> bool:
    """Reduces the student's layers to `sizes` and fits them, from first to last; False once `should_continue` returns False."""
    parts, components = parts_of(student), head_size(student)
    student_states = [run(student, batch).hidden_states[0] for batch in batches]
    teacher_states, next_layer = student_states, 0
    for layer, number, size in zip(layers_of(student), keep, sizes, strict=True):
        if not should_continue():
            return False
        log.info("fit       layer %d of %s", number, ", ".join(map(str, keep)))
        skipped_layers = layers_of(teacher)[next_layer:number]
        for skipped in skipped_layers:
            teacher_states = [run_layer(skipped, states, batch) for states, batch in zip(teacher_states, batches, strict=True)]
        teacher_layer, next_layer, is_last = layers_of(teacher)[number], number + 1, number == keep[-1]
        attention_sums = _SumRecorder(teacher_layer, parts.attention_norm)
        output_sums = _SumRecorder(teacher_layer, parts.output_norm)
        teacher_states = [run_layer(teacher_layer, states, batch) for states, batch in zip(teacher_states, batches, strict=True)]
        target_sums = attention_sums.take()
        if skipped_layers or size.heads * components < linear(layer, parts.attention_output).in_features:
            moments = _moments(
                layer, parts.attention_output, parts.attention_norm, student_states, batches, target_sums, is_last=is_last
            )
            retained = moments.retained_units(components, size.heads)
            keep_heads(layer, parts, retained)
            set_linear(linear(layer, parts.attention_output), *moments.fit_weights(retained))
        moments = _moments(layer, parts.outer, parts.output_norm, student_states, batches, output_sums.take(), is_last=is_last)
        retained = moments.retained_units(1, size.units)
        keep_units(layer, parts, retained)
        set_linear(linear(layer, parts.outer), *moments.fit_weights(retained))
        student_states = [run_layer(layer, states, batch) for states, batch in zip(student_states, batches, strict=True)]
    return True


class _SumRecorder:
    """Records the inputs of a layer's norm, batch by batch, until `take` is called."""

    def __init__(self, layer: nn.Module, norm: str) -> None:
        self._sums: list[torch.Tensor] = []
        self._hook = layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: self._sums.append(inputs[0]))

    def take(self) -> list[torch.Tensor]:
        self._hook.remove()
        return self._sums


@dataclass
class _Moments:
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


def _moments(  # noqa: PLR0913 - a layer, a map in it, and the map's inputs and goals
    layer: nn.Module,
    name: str,
    norm: str,
    states: Iterable[torch.Tensor],
    batches: Iterable[PaddedBatch],
    target_sums: Iterable[torch.Tensor] | None,
    *,
    is_last: bool,
) -> _Moments:
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
        counts = torch.ones(values.shape[:2], device=values.device) if batch.mask is None else batch.mask.to(values.dtype)
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
    return _Moments(units, moments[:, size:], means, goal_means, variance)
