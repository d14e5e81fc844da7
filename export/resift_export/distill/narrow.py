"""narrow: a student whose layers keep a part of their heads and inner units, with weights fitted anew, untrained.

First every kept layer of the teacher by itself: heads leave its attention, and units its feed-forward network, one after the other,
always the one without which the others can best make up for it; how much worse the sums become is its price. Of all layers
together those leave that are cheapest for the operations they take. Then the student's layers one after the other, from the first:
the weights of what stays are fitted to the teacher's sums. All of that is in closed form, from second moments of what heads and
units give for sampled pairs: the optimal brain surgeon (Hassibi and Stork, 1992) for whole units, as in ZipLM (arXiv:2302.04089),
whose search for each layer's size is one rule here.

A sum is what a norm reads: what came in, and what attention or the feed-forward network adds to it. As the student's sums are
fitted to the teacher's for inputs that the student itself gives, its errors do not add up from layer to layer. Attention that keeps
all its heads is fitted after left-out layers only: on MiniLM with all its layers that made the ranking worse.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from resift.errors import ExportError, InputError
from resift_export.checkpoint.layers import (
    Size,
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
from resift_export.distill.student import run, through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from resift_export.distill.batches import PaddedBatch

log = logging.getLogger(__name__)
RIDGE = 1e-4
"""Added to each unit's moment, in means of them: the fit must not lean on small differences of units that are alike."""
AT_ONCE = 64
"""Units that leave before the moments are inverted anew: rounding adds up, and matrices become smaller."""
HEAD_PRICE = 1.2
"""What an operation of attention's linear maps is taken to cost, in those of the feed-forward network: what lies between the maps
is not counted, grows with the length, and is in float32 where they are in int8. MiniLM of five sizes took 1.6 times as long for
one, at 95 tokens; but students that were made with 1 and with 1.5 ranked alike for their time. The embedded first look has 1.2."""


class Prices(NamedTuple):
    """What it costs a layer to lose all but one of its heads, and of its inner units, in the order in which they leave.

    Of each, the squared error that it adds to the sums, in their variance.
    """

    heads: list[float]
    units: list[float]


def narrow(  # noqa: PLR0913 - the student, what it learns from, and who may end it
    student: Any, teacher: Any, keep: Sequence[int], width: float, batches: Sequence[PaddedBatch], go_on: Callable[[], bool]
) -> bool:
    """Narrows the `student`, which has the teacher's layers `keep`, to the share `width` of its layers' operations, in place.

    It is fitted on `batches`. `go_on` is asked before every layer of both passes; once it returns False, so does this, with the
    student half done. Raises ExportError if what the teacher gives is not finite or always the same, InputError if `width` is less
    than one head and one unit of each layer.
    """
    free = [Prices([0.0] * (size.heads - 1), [0.0] * (size.units - 1)) for size in sizes_of(student)]
    chosen_sizes(free, head_size(student), width)  # refuses what cannot be before minutes of work
    with torch.no_grad():
        log.info("prices    of heads and units in layers %s", ", ".join(map(str, keep)))
        prices = _prices(teacher, keep, batches, go_on)
        if prices is None:
            return False
        sizes = chosen_sizes(prices, head_size(student), width)
        log.info("sizes     %s (heads x inner units)", ", ".join(f"{size.heads} x {size.units}" for size in sizes))
        return _fit(student, teacher, keep, sizes, batches, go_on)


def _prices(teacher: Any, keep: Sequence[int], batches: Sequence[PaddedBatch], go_on: Callable[[], bool]) -> list[Prices] | None:
    """Of each of the teacher's layers `keep`; None once `go_on` returns False."""
    parts, each = parts_of(teacher), head_size(teacher)
    states, found = [run(teacher, batch).hidden[0] for batch in batches], []
    for number, layer in enumerate(layers_of(teacher)):
        if number in keep:
            if not go_on():
                return None
            is_last = number == keep[-1]
            mixed = _moments(layer, parts.mixed, parts.mixed_norm, states, batches, None, is_last=is_last)
            heads = [price / mixed.variance for _, price in mixed.leaving(each, 1)]
            units = [0.0] * (linear(layer, parts.outer).in_features - 1)
            if not is_last:  # which keeps them whatever they cost
                outer = _moments(layer, parts.outer, parts.norm, states, batches, None, is_last=False)
                units = [price / outer.variance for _, price in outer.leaving(1, 1)]
            found.append(Prices(heads, units))
        states = [through(layer, entered, batch) for entered, batch in zip(states, batches, strict=True)]
    return found


def chosen_sizes(prices: Sequence[Prices], head: int, width: float) -> list[Size]:
    """The size of each layer, of which all together keep the share `width` of their operations; `head`: the components of a head.

    What leaves next is the cheapest for its operations. The last layer keeps its units, as its head reads one token of each pair
    only, for which the engine computes them; of its heads, keys and values count. Raises InputError if one head and one unit of
    each layer are more than the share.
    """
    last = len(prices) - 1
    sizes = [Size(len(each.heads) + 1, len(each.units) + 1) for each in prices]
    # A unit has a row in one matrix and a column in the other, a head such rows and columns in four, for each of its components.
    heads = [HEAD_PRICE * head * (2 if number == last else 4) for number in range(len(sizes))]
    units = [0 if number == last else 2 for number in range(len(sizes))]
    left = sum(size.heads * head + size.units * unit for size, head, unit in zip(sizes, heads, units, strict=True))
    most = width * left
    choices = []
    for number, each in enumerate(prices):
        for kind, (found, work) in enumerate(((each.heads, heads[number]), (each.units, units[number]))):
            # The order within a layer is given: none leaves before those that were cheaper at their time.
            choices += [(price / work, number, kind, work) for price in itertools.accumulate(found, max) if work]
    for _, number, kind, work in sorted(choices):
        if left <= most:
            break
        size = sizes[number]
        sizes[number] = size._replace(units=size.units - 1) if kind else size._replace(heads=size.heads - 1)
        left -= work
    if left > most:
        raise InputError(f"width is {width}, but one head and one unit of each layer are {left * width / most:.2f}; expected more")
    return sizes


def _fit(  # noqa: PLR0913 - the student, what it learns from, and who may end it
    student: Any,
    teacher: Any,
    keep: Sequence[int],
    sizes: Sequence[Size],
    batches: Sequence[PaddedBatch],
    go_on: Callable[[], bool],
) -> bool:
    """Gives the student's layers their sizes, from the first to the last; False once `go_on` returns False."""
    parts, each = parts_of(student), head_size(student)
    own = [run(student, batch).hidden[0] for batch in batches]
    goals, at = own, 0
    for layer, number, size in zip(layers_of(student), keep, sizes, strict=True):
        if not go_on():
            return False
        log.info("fit       layer %d of %s", number, ", ".join(map(str, keep)))
        left_out = layers_of(teacher)[at:number]
        for between in left_out:
            goals = [through(between, states, batch) for states, batch in zip(goals, batches, strict=True)]
        goal, at, is_last = layers_of(teacher)[number], number + 1, number == keep[-1]
        mixed, sums = _Sums(goal, parts.mixed_norm), _Sums(goal, parts.norm)
        goals = [through(goal, states, batch) for states, batch in zip(goals, batches, strict=True)]
        wanted = mixed.taken()
        if left_out or size.heads * each < linear(layer, parts.mixed).in_features:
            moments = _moments(layer, parts.mixed, parts.mixed_norm, own, batches, wanted, is_last=is_last)
            kept = moments.chosen(each, size.heads)
            keep_heads(layer, parts, kept)
            set_linear(linear(layer, parts.mixed), *moments.fitted(kept))
        moments = _moments(layer, parts.outer, parts.norm, own, batches, sums.taken(), is_last=is_last)
        kept = moments.chosen(1, size.units)
        keep_units(layer, parts, kept)
        set_linear(linear(layer, parts.outer), *moments.fitted(kept))
        own = [through(layer, states, batch) for states, batch in zip(own, batches, strict=True)]
    return True


class _Sums:
    """What a layer's norm reads, batch by batch, until it is taken."""

    def __init__(self, layer: nn.Module, norm: str) -> None:
        self._found: list[torch.Tensor] = []
        self._hook = layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: self._found.append(inputs[0]))

    def taken(self) -> list[torch.Tensor]:
        self._hook.remove()
        return self._found


@dataclass
class _Moments:
    """Second moments of units and of what their linear map should give, both less their means."""

    units: torch.Tensor
    """float64[size, size]"""
    goals: torch.Tensor
    """float64[size, hidden size]: of units and goals"""
    means: torch.Tensor
    """float64[size]"""
    goal_means: torch.Tensor
    """float64[hidden size]"""
    variance: float
    """of the sums, over all components"""

    @property
    def size(self) -> int:
        return len(self.means)

    def leaving(self, group: int, stay: int) -> Iterator[tuple[int, float]]:
        """Groups of `group` units, by number, in the order in which they leave until `stay` are left, and what each costs.

        A group's cost is the squared error that its leaving adds, if the others' weights are fitted anew: with H the inverse of the
        moments of those left and W their fitted weights, the trace of W_g' (H_gg)^-1 W_g.
        """
        numbers = torch.arange(self.size // group, device=self.units.device)
        while len(numbers) > stay:
            kept = units_of(numbers, group)
            inverse = torch.linalg.inv(self.units[kept][:, kept])
            weights = inverse @ self.goals[kept]
            # With more than one unit each, groups are few: the moments are inverted anew for every one.
            steps = min(AT_ONCE, len(numbers) - stay) if group == 1 else 1
            stays = torch.ones(len(numbers), dtype=torch.bool, device=numbers.device)
            for number, cost in _single(inverse, weights, stays, steps) if group == 1 else _grouped(inverse, weights, stays, group):
                yield int(numbers[number]), cost
            numbers = numbers[stays]

    def chosen(self, group: int, stay: int) -> torch.Tensor:
        """int64[stay * group]: the units that stay, in order."""
        gone = {number for number, _ in self.leaving(group, stay)}
        numbers = [number for number in range(self.size // group) if number not in gone]
        return units_of(torch.tensor(numbers, device=self.units.device), group)

    def fitted(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [hidden size, kept] and bias [hidden size] by which the `kept` units come nearest to the goals."""
        weights = torch.linalg.solve(self.units[kept][:, kept], self.goals[kept])
        return weights.T, self.goal_means - self.means[kept] @ weights


def _single(inverse: torch.Tensor, weights: torch.Tensor, stays: torch.Tensor, steps: int) -> Iterator[tuple[int, float]]:
    """`steps` single units that leave, which `stays` is told, and what each costs."""
    diagonal = inverse.diagonal().clone()
    # A unit's leaving subtracts the product of such a column with itself from the inverse, which is kept as it was.
    columns = inverse.new_zeros(len(inverse), steps)
    for step in range(steps):
        costs = torch.where(stays, weights.square().sum(dim=1) / diagonal, torch.inf)
        worst = int(costs.argmin())
        column = inverse[:, worst] - columns @ columns[worst]
        column /= column[worst].sqrt()
        columns[:, step] = column
        weights.addr_(column, weights[worst] / column[worst], alpha=-1)
        diagonal -= column.square()
        diagonal[worst], stays[worst] = 1.0, False
        yield worst, float(costs[worst])


def _grouped(inverse: torch.Tensor, weights: torch.Tensor, stays: torch.Tensor, group: int) -> Iterator[tuple[int, float]]:
    """The one group that leaves, which `stays` is told, and what it costs."""
    count = len(stays)
    own = torch.stack([inverse[at : at + group, at : at + group] for at in range(0, count * group, group)])
    blocks = weights.view(count, group, -1)
    costs = (blocks * torch.linalg.solve(own, blocks)).sum(dim=(1, 2))
    worst = int(costs.argmin())
    stays[worst] = False
    yield worst, float(costs[worst])


def _moments(  # noqa: PLR0913 - a layer, the map in it, and what that reads and should give
    layer: nn.Module,
    name: str,
    norm: str,
    states: Iterable[torch.Tensor],
    batches: Iterable[PaddedBatch],
    wanted: Iterable[torch.Tensor] | None,
    *,
    is_last: bool,
) -> _Moments:
    """Those of what the map `name` of the layer reads, and should give for the layer's `norm` to read the sums `wanted`.

    None: those that it reads anyway. In the last layer a pair's first token, which alone the head reads, counts as much as all
    others together.
    """
    module = linear(layer, name)
    size, hidden = module.in_features, module.out_features
    totals = torch.zeros(size + 2 * hidden, dtype=torch.float64, device=module.weight.device)
    products = torch.zeros(size, size + hidden, dtype=torch.float64, device=module.weight.device)
    squares, count = 0.0, 0.0
    found: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: found.update(units=inputs[0], output=output)),
        layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: found.update(sums=inputs[0])),
    ]
    for entered, batch, goal in zip(states, batches, itertools.repeat(None) if wanted is None else wanted, strict=False):
        through(layer, entered, batch)
        sums = found["sums"] if goal is None else goal
        every = torch.cat([found["units"], sums - found["sums"] + found["output"], sums], dim=2)
        counts = torch.ones(every.shape[:2], device=every.device) if batch.mask is None else batch.mask.to(every.dtype)
        if is_last:
            counts[:, 0] = counts[:, 1:].sum(dim=1)
        rows, weighted = every.flatten(0, 1), (every * counts[:, :, None]).flatten(0, 1)
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
